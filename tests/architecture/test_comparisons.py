"""Signatures and secrets are compared in constant time: with hmac.compare_digest, and nothing else.

Held by names, which is what there is to hold it by: whatever is called a signature, a token or a secret may not stand
beside `==`, `!=` or `in`. A column in a query may: the index finds a hash of a random token, or it does not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from infra.processes import ROOT

SECRETIVE = re.compile(r"signature|secret|token|password|hmac|csrf", re.IGNORECASE)
FILES = sorted(file for package in ("api", "moderation", "workers") for file in (ROOT / package).rglob("*.py"))
# Two fields of one form, both just typed by the same person.
HARMLESS = {("api/dashboard/account.py", "new != request.form.get('new_password_again', '')")}


def secretive(node: ast.expr) -> bool:
    """Whether an operand says that it is one; lengths and names of constants are none."""
    written = ast.unparse(node)
    harmless = written.startswith("len(") or written.rpartition(".")[2].isupper() or isinstance(node, ast.Constant)
    return not harmless and SECRETIVE.search(written) is not None


def column(node: ast.expr) -> bool:
    """Whether it is a column of a row class, and so the comparison one of the database's."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id[:1].isupper()


def compared(source: str) -> Iterator[str]:
    """Every comparison of something secretive with `==`, `!=` or `in`, as it is written."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and any(
            isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops
        ):
            operands = [node.left, *node.comparators]
            constants = any(isinstance(operand, ast.Constant) for operand in operands)
            if any(map(secretive, operands)) and not any(map(column, operands)) and not constants:
                yield ast.unparse(node)


def test_nothing_secret_is_compared_with_an_operator() -> None:
    found = {(str(file.relative_to(ROOT)), written) for file in FILES for written in compared(file.read_text())}
    assert found == HARMLESS


def test_the_search_finds_what_it_is_for() -> None:
    for wrong in ("signature == given", "row.secret != sent", "hmac.new(a, b).hexdigest() == x", "token in tokens"):
        assert list(compared(wrong)) == [wrong]
    for right in ("Key.secret_sha256 == digest(s)", "hmac.compare_digest(a, b)", "len(secret) == 3", "scheme == 'x'"):
        assert list(compared(right)) == []
