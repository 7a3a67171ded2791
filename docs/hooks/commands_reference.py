"""Every command of `telltale`, as a page: what its `--help` says, from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from infra.cli import telltale

PAGE = "reference/commands.md"
OPENING = """# Commands

Everything `telltale` can do, made from the code; `telltale COMMAND --help` says the same. In a checkout it is
`.venv/bin/telltale`. Commands speak to the `telltale up` that runs in this folder (`--data` names another), or to the
deployment that [the settings](settings.md) name. They exit with 0 where they did what was asked, with 1 where it could
not be done, with 2 where it was not understood.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=_page()))
    return files


def _page() -> str:
    lines = [OPENING]
    for depth, context in _contexts(click.Context(telltale, info_name="telltale"), 1):
        lines += _command(depth, context)
    return "\n".join(lines)


def _contexts(parent: click.Context, depth: int) -> Iterator[tuple[int, click.Context]]:
    """Every command below this one, each group before what is in it."""
    group = parent.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent)
        yield depth, context
        if isinstance(command, click.Group):
            yield from _contexts(context, depth + 1)


def _command(depth: int, context: click.Context) -> list[str]:
    command, path = context.command, context.command_path
    lines = [f"{'#' * (depth + 1)} {path} {{ #{path.replace(' ', '-')} }}", "", _prose(command.help or ""), ""]
    if isinstance(command, click.Group):
        return lines
    lines += ["```text", " ".join([path, *command.collect_usage_pieces(context)]), "```", ""]
    records = [record for one in command.params if (record := one.get_help_record(context))]
    if records:
        lines += ["| Option | |", "|---|---|", *(_row(*record) for record in records), ""]
    return lines


def _row(option: str, says: str) -> str:
    return f"| `{option.replace('|', chr(92) + '|')}` | {_cell(says).replace('|', chr(92) + '|')} |"


def _prose(text: str) -> str:
    """Paragraphs as they are; what is marked to be kept as it is, as it is."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    kept = [f"```text\n{one[2:]}\n```" if one.startswith("\b\n") else one for one in paragraphs]
    return _cell("\n\n".join(kept))


def _cell(text: str) -> str:
    # A name in capitals is a variable or a placeholder, never HTML.
    return re.sub(r"<(?=[a-zA-Z/])", "&lt;", text)
