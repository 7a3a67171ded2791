"""A judgement on a terminal and as a page: every rule is there, and other people's text does nothing."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from markupsafe import escape
from rich.console import Console

from model.gate import report, table
from model.gate.evidence import Proof
from model.gate.judgement import judge
from tests.model.gate.drawn import CHALLENGER
from tests.model.gate.test_rules import better


def printed(**changes: Any) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    table.show(judge(better(**changes)), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_table_has_every_rule_and_the_outcome() -> None:
    text = printed()
    assert all(each.title in text for each in judge(better()).findings)
    assert "promote: It is better on what is new" in text
    assert "gain ≥ 0.020" in text and "loss ≤ 0.020" in text and "≤ 0.100" in text


def test_the_table_gives_the_reason_of_what_is_not_met() -> None:
    text = " ".join(printed(trained=()).split())
    assert "? ask Nothing trained on is in the holdout: It was not stated" in text
    assert "ask a lead: It cannot be told" in text


def test_the_page_has_every_rule_and_both_versions_plots_and_names_are_text() -> None:
    found = better(challenger=CHALLENGER.model_copy(update={"name": "<script>alert(1)</script>"}))
    judgement = judge(found)
    page = report.page(judgement, found)
    assert all(escape(each.title) in page for each in judgement.findings)
    assert page.count("<svg") == 12  # three plots of two versions, on new and on old images
    assert "demo model, not FakeVLM" in page and "--page: #12161c" in page
    assert "<script" not in page and "&lt;script&gt;" in page


def test_a_challenger_that_did_not_load_has_a_page_without_plots() -> None:
    shut = replace(better(), new=None, old=None, speeds=None, proof=Proof(loads="The adapters change no output."))
    page = report.page(judge(shut), shut)
    assert "The adapters change no output." in page and "<svg" not in page
    assert report.section(judge(shut), shut).lstrip().startswith("<section")
