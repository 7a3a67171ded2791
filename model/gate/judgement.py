"""The gate's decision, from all rules: one that fails rejects, one that is unsure asks, else the version is promoted.

How often it errs, by simulation (`tests/model/gate/test_error_rates.py` repeats it with fewer draws): 150 new images of
both classes, 600 old ones, accuracy 0.92 on the old.

- No better (0.75 and 0.75): 1.8 % of 400 draws are better by both measures of what is new, 0.5 % where images come in
  75 groups, 0.8 % where the champion's threshold alone is worse. A promotion needs that and every other rule.
- Ten points better (0.70 to 0.80): of 150 draws 73 % are promoted, 25 % asked about, 3 % rejected; with 300 old images
  61, 37 and 2 %.
- Ten points better on new, five worse on old: of 100 draws 97 rejected, 3 asked about, none promoted.
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
