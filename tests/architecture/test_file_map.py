"""The README's file map: a line for every module, which is the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "moderation", "workers", "model", "migrations", "infra", "benchmarks")
BEGIN, END = "<!-- file map: begin -->", "<!-- file map: end -->"


@cache
def first_sentence(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = doc.split("\n\n")[0].replace("\n", " ")
    sentence = re.match(r".+?[.](?=\s|$)", paragraph)
    return sentence[0] if sentence else paragraph


def section(package: str) -> str:
    files = sorted((ROOT / package).rglob("*.py"))
    lines = [f"- `{path.relative_to(ROOT)}`: {first_sentence(path)}" for path in files if path.name != "__init__.py"]
    return f"**{package}/** {first_sentence(ROOT / package / '__init__.py')}\n\n" + "\n".join(lines)


def expected_map() -> str:
    return "\n\n".join(section(package) for package in PACKAGES)


def test_the_readme_has_a_true_line_for_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == expected_map(), f"README.md's file map should read:\n\n{expected_map()}"


def test_every_package_and_module_says_what_it_is_for() -> None:
    silent = [str(p) for package in PACKAGES for p in (ROOT / package).rglob("*.py") if not first_sentence(p)]
    assert silent == []
