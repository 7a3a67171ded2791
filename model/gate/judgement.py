"""The gate's decision, from all rules: one that fails rejects, one that is unsure asks, else the version is promoted.

How often it errs, by simulation (`tests/model/gate/test_error_rates.py`, 150 new images of both classes, fixed seeds):
FIGURES
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from model.gate.evidence import Evidence
from model.gate.finding import Answer, Finding
from model.gate.margins import Margins
from model.gate.rules import RULES

Outcome = Literal["promote", "ask", "reject"]


class Judgement(BaseModel):
    """What the gate decided and why, whole: every rule's finding, and the margins that were applied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    outcome: Outcome
    reason: str
    champion: str
    champion_digest: str
    challenger: str
    challenger_digest: str
    findings: tuple[Finding, ...]
    margins: Margins

    def of(self, answer: Answer) -> list[Finding]:
        """The findings with that answer, in the rules' order."""
        return [each for each in self.findings if each.answer == answer]

    def finding(self, rule: str) -> Finding:
        """A rule's finding. Raises KeyError where the rule found nothing to say."""
        found = {each.rule: each for each in self.findings}
        return found[rule]


def judge(evidence: Evidence, margins: Margins | None = None) -> Judgement:
    """Every rule, and what follows from them together."""
    margins = margins or Margins()
    findings = tuple(finding for rule in RULES for finding in rule(evidence, margins))
    outcome = decide(findings)
    return Judgement(
        outcome=outcome,
        reason=_reason(outcome, findings),
        champion=evidence.champion.name,
        champion_digest=evidence.champion.digest(),
        challenger=evidence.challenger.name,
        challenger_digest=evidence.challenger.digest(),
        findings=findings,
        margins=margins,
    )


def decide(findings: tuple[Finding, ...]) -> Outcome:
    """The strictest answer decides."""
    answers = {each.answer for each in findings}
    if "fail" in answers:
        return "reject"
    return "ask" if "unsure" in answers else "promote"


def _reason(outcome: Outcome, findings: tuple[Finding, ...]) -> str:
    """One sentence: what decided it."""
    if outcome == "promote":
        return f"It is better on what is new and keeps what was there: all {len(findings)} rules are met."
    answer: Answer = "fail" if outcome == "reject" else "unsure"
    decisive = [each for each in findings if each.answer == answer]
    first = decisive[0]
    more = f" (and {len(decisive) - 1} more)" if len(decisive) > 1 else ""
    opening = "Not met" if outcome == "reject" else "It cannot be told, so a lead is asked"
    return f"{opening}: {first.title}{more}. {first.reason}"
