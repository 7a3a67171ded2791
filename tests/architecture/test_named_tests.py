"""docs/security.md names the test of each attack, docs/faults.md that of each fault: every one of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = pytest.mark.parametrize("page", ["docs/security.md", "docs/faults.md"])
# `tests/a/test_b.py::test_c`, and `::test_d` of the file that was named before it.
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")


def named(page: str) -> list[tuple[str, str]]:
    """The file and the function of every test that the page names; a file without one stands for all of it."""
    file, found = "", []
    for path, function in NAMED.findall((ROOT / page).read_text()):
        file = path or file
        if path or function:
            found.append((file, function))
    return found


@cache
def functions(file: str) -> frozenset[str]:
    """The tests of a file; empty where there is no such file."""
    path = ROOT / file
    nodes = ast.walk(ast.parse(path.read_text())) if path.exists() else ()
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


@PAGES
def test_every_test_that_the_page_names_is_there(page: str) -> None:
    missing = [
        f"{file}::{name}" for file, name in named(page) if not functions(file) or (name and name not in functions(file))
    ]
    assert missing == []


@PAGES
def test_every_line_of_the_page_names_its_test(page: str) -> None:
    """A table whose last column is `Test` has one in every line."""
    tables = re.findall(r"^\|[^\n]*\| Test \|\n\|[-| ]+\|\n((?:\|[^\n]*\n)+)", (ROOT / page).read_text(), re.MULTILINE)
    assert tables
    untested = [line for table in tables for line in table.splitlines() if not NAMED.search(line.split("|")[-2])]
    assert untested == []
