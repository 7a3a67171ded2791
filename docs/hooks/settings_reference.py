"""Every setting of a deployment, as a page: from the fields of moderation/settings.py and their comments."""

from __future__ import annotations

import ast
import inspect
import json
from typing import Any, get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

from moderation import settings
from moderation.settings import Settings

PAGE = "reference/settings.md"
OPENING = """# Settings

A deployment is set by variables of its environment, read once by every process; a wrong one ends it with a line that
names it. A `TELLTALE_…` that is no setting, such as a misspelt one, is a warning in every process's log, and `telltale
doctor` says what was meant. They are the same for all processes, unless a line says whose they are. This page is made
from `moderation/settings.py`.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=_page()))
    return files


def _page() -> str:
    lines = [OPENING]
    for heading, names in _groups():
        lines += [f"## {heading}", "", "| Variable | Default | |", "|---|---|---|"]
        lines += [_row(name, Settings.model_fields[name]) for name in names]
        lines.append("")
    return "\n".join(lines)


def _groups() -> list[tuple[str, list[str]]]:
    """The fields by the comments that stand over them in the class; where none stands, with the field before."""
    source = inspect.getsource(settings).splitlines()
    (class_,) = (node for node in ast.parse("\n".join(source)).body if getattr(node, "name", "") == "Settings")
    assert isinstance(class_, ast.ClassDef)
    groups: list[tuple[str, list[str]]] = []
    for node in class_.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above = source[node.lineno - 2].strip()
        if above.startswith("# "):
            groups.append((above.removeprefix("# ").rstrip("."), []))
        elif not source[node.lineno - 2].strip() and groups and node.target.id == "worker_role":
            groups.append(("The process itself", []))
        groups[-1][1].append(node.target.id)
    return groups


def _row(name: str, field: FieldInfo) -> str:
    says = [field.description or "", _limits(field)]
    said = "; ".join(part for part in says if part)
    return f"| `TELLTALE_{name.upper()}` | {_default(field)} | {_escaped(said)} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default is None:
        return "*unset*"
    value = field.default if isinstance(field.default, str | int | float) else str(field.default)
    return "*none*" if value in ("()", "") else f"`{value}`"


def _limits(field: FieldInfo) -> str:
    """What else the field's type says: its words, and its bounds."""
    words = [value for value in _values(field.annotation) if value is not None]
    bounds = {type(part).__name__: part for part in field.metadata}
    said = [" or ".join(f"`{word}`" for word in words)] if words else []
    for kind, sign in (("Ge", "at least"), ("Gt", "more than"), ("Le", "at most"), ("Lt", "less than")):
        if kind in bounds:
            said.append(f"{sign} {getattr(bounds[kind], kind.lower()):,}")
    return ", ".join(said)


def _values(annotation: Any) -> list[Any]:
    """The words of a Literal, also within a union."""
    if getattr(annotation, "__origin__", None) is not None and "Literal" in str(annotation.__origin__):
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in _values(part)]


def _escaped(text: str) -> str:
    return json.loads(json.dumps(text)).replace("|", "\\|").replace("<", "&lt;")
