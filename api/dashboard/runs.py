"""`/dashboard/runs`: the training runs, what each of them found, and what an operator decides about it.

A run learns from every platform that allows it, so what is shown here belongs to none of them alone: the pages are for
operators.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api import process
from api.auth import operators_only, requires_role
from api.dashboard import figures
from api.dashboard.access import person
from moderation import audit, model_versions, notices
from moderation.db import transaction
from moderation.errors import InvalidRequest, NotFound
from moderation.retraining import decisions, examples, runs
from moderation.storage import report_key
from moderation.tables import ModelVersion, TrainingRun
from moderation.vocabulary import Label, Role, RunStage, RunStatus, Split

pages = Blueprint("runs", __name__)

LISTED = 50
# A report holds every plot of two versions as SVG; FakeClue's 5,000 images make about 2 MB.
MOST_REPORT_BYTES = 64 * 1024**2
# The report is a document by itself, with styles and plots inline: nothing in it runs, and it is of no origin.
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
TONES = {
    RunStatus.ASKED: "plain",
    RunStatus.RUNNING: "info",
    RunStatus.PROMOTED: "good",
    RunStatus.KEPT: "warn",
    RunStatus.REJECTED: "bad",
    RunStatus.SKIPPED: "plain",
    RunStatus.FAILED: "bad",
    RunStatus.CANCELLED: "plain",
    RunStatus.LOST: "bad",
}
STATUSES = {
    RunStatus.ASKED: "asked for",
    RunStatus.RUNNING: "under way",
    RunStatus.KEPT: "waits for you",
}
STAGES = {
    RunStage.SNAPSHOT: "Collect what was reviewed",
    RunStage.SPLIT: "Divide it into what is learned and what is held out",
    RunStage.DOWNLOAD: "Fetch the images",
    RunStage.TRAIN: "Train",
    RunStage.EVALUATE: "Judge the held-out images with both versions",
    RunStage.CALIBRATE: "Calibrate the score",
    RunStage.GATE: "Compare both versions",
    RunStage.PROMOTE: "Store the version, and promote it where it is better",
}
OUTCOMES = {"promote": "promote", "ask": "ask a lead", "reject": "reject"}
ANSWERS = {
    "fail": ("not met", "bad"),
    "unsure": ("cannot be told", "warn"),
    "pass": ("met", "good"),
    "left out": ("left out", "plain"),
}
SPLIT = {
    Split.TRAIN: "to learn from",
    Split.HOLDOUT: "held out",
    Split.LEFT_OUT: "left out, being near both",
}
LEFT_OUT = {
    "restricted": "reported as illegal, or with an image that is",
    "erased": "image erased",
    "forgotten": "verdict, and what reviewers wrote, kept for its time and gone",
    "open": "appealed or asked again, not answered yet",
    "cannot_tell": "nobody could tell",
    "disagreement": "reviewers disagree",
    "contradicted": "another case of the same image was answered otherwise",
    "duplicate": "another case of the same image was answered the same",
}


@dataclass(frozen=True)
class Line:
    """One run in the list."""

    run: TrainingRun
    by: str
    version: str | None


@dataclass(frozen=True)
class Finding:
    """One rule of the gate, in words."""

    title: str
    reason: str
    answer: str
    tone: str
    champion: str
    challenger: str
    change: str
    interval: str
    margin: str
    images: str


@pages.get("/dashboard/runs")
@requires_role(Role.LEAD)
@operators_only
def page() -> str:
    """The newest runs."""
    with transaction() as session:
        found = runs.latest(session, LISTED)
        names = audit.who(session, [run.asked_by for run in found])
        versions = {version.id: version.name for version in model_versions.versions(session)}
    lines = [Line(run, said_by(names[run.asked_by]), _version_of(run, versions)) for run in found]
    return render_template(
        "training/page.html",
        lines=lines,
        live=next((run for run in found if run.status in runs.LIVE), None),
        hour=process.current().settings.retrain_hour,
        zone=process.current().settings.retrain_timezone,
        **_words(),
    )


@pages.post("/dashboard/runs")
@requires_role(Role.LEAD)
@operators_only
def ask() -> AnyResponse:
    """Ask for a run now, or go to the one that is under way."""
    with transaction() as session:
        before = runs.live(session)
        run = runs.ask(session, actor=person().actor)
    said = "run_there" if before is not None and before.id == run.id else "run_asked"
    return redirect(url_for("runs.page_of", run_id=run.id, said=said), 303)


@pages.get("/dashboard/runs/<uuid:run_id>")
@requires_role(Role.LEAD)
@operators_only
def page_of(run_id: UUID) -> str:
    """One run, with everything it found."""
    with transaction() as session:
        run = runs.run_of(session, run_id)
        notices.seen(session, person().user_id, run_id)
        names = audit.who(session, [run.asked_by, run.cancel_requested_by or run.asked_by])
        champion = model_versions.champion(session)
        version = session.get(ModelVersion, run.model_version_id) if run.model_version_id else None
        tenants_ = examples.counts_by_tenant(session, run.id, person().tenant_ids_as(Role.LEAD))
    return render_template(
        "training/run.html",
        run=run,
        by=said_by(names[run.asked_by]),
        cancelled_by=said_by(names[run.cancel_requested_by]) if run.cancel_requested_by else None,
        champion=champion,
        version=version,
        steps=list(_steps(run)),
        findings=_findings(run),
        calibration=run.numbers.get(RunStage.CALIBRATE.value),
        halves=list(_halves(run)),
        adoptable=_adoptable(run),
        left_out=_left_out(run),
        sides=_sides(run),
        split_words=SPLIT,
        tenants=tenants_,
        has_report=RunStage.GATE.value in run.numbers,
        now=datetime.now(run.created_at.tzinfo),
        **_words(),
    )


@pages.post("/dashboard/runs/<uuid:run_id>/cancel")
@requires_role(Role.LEAD)
@operators_only
def cancel(run_id: UUID) -> AnyResponse:
    """Have it end."""
    with transaction() as session:
        runs.cancel(session, run_id, actor=person().actor)
    return redirect(url_for("runs.page_of", run_id=run_id, said="run_cancelled"), 303)


@pages.post("/dashboard/runs/<uuid:run_id>/promote")
@requires_role(Role.LEAD)
@operators_only
def promote(run_id: UUID) -> AnyResponse:
    """Make the version of a kept run champion."""
    with model_versions.changing() as session:
        decisions.promote_kept(
            session, run_id, actor=person().actor, reason=request.form.get("reason"), instead_of=champion_seen()
        )
    return redirect(url_for("runs.page_of", run_id=run_id, said="model_promoted"), 303)


@pages.post("/dashboard/runs/<uuid:run_id>/reject")
@requires_role(Role.LEAD)
@operators_only
def reject(run_id: UUID) -> AnyResponse:
    """Say no to a kept run."""
    with transaction() as session:
        decisions.reject_kept(session, run_id, actor=person().actor)
    return redirect(url_for("runs.page_of", run_id=run_id, said="run_rejected"), 303)


@pages.get("/dashboard/runs/<uuid:run_id>/report")
@requires_role(Role.LEAD)
@operators_only
def report(run_id: UUID) -> Response:
    """The report as the gate wrote it, in a sandbox; `?download` to keep it."""
    with transaction() as session:
        run = runs.run_of(session, run_id)
    try:
        data = process.current().storage.get(report_key(run.id), max_bytes=MOST_REPORT_BYTES)
    except NotFound:
        raise NotFound("This run has no report: it ended before the gate, or the report was removed.") from None
    response = Response(data, mimetype="text/html")
    response.headers["Content-Security-Policy"] = REPORT_POLICY
    if "download" in request.args:
        response.headers["Content-Disposition"] = f'attachment; filename="run-{run.id}.html"'
    return response


def champion_seen() -> UUID:
    """The champion that the page showed. Raises InvalidRequest."""
    try:
        return UUID(request.form.get("instead_of", ""))
    except ValueError:
        raise InvalidRequest("The page does not say which version was champion: load it again.") from None


def said_by(name: str) -> str:
    """Who asked, as a page says it."""
    return {"beat": "the schedule", "operator": "a command", "retraining": "the retraining worker"}.get(name, name)


def _words() -> dict[str, Any]:
    return {"tones": TONES, "statuses": STATUSES, "stages": STAGES, "outcomes": OUTCOMES, "span": figures.span}


def _version_of(run: TrainingRun, versions: Mapping[UUID, str]) -> str | None:
    return versions.get(run.model_version_id) if run.model_version_id else None


def _steps(run: TrainingRun) -> Iterator[tuple[str, str]]:
    """Each stage in words, and whether it is `done`, `now`, or `later`; where a run ended, it was `reached`."""
    order = list(RunStage)
    at = order.index(run.stage) if run.stage else -1
    over = run.status in runs.JUDGED
    for place, stage in enumerate(order):
        if place < at or (over and place == at):
            yield STAGES[stage], "done"
        elif place == at:
            yield STAGES[stage], "now" if run.status is RunStatus.RUNNING else "reached"
        else:
            yield STAGES[stage], "later"


def _findings(run: TrainingRun) -> list[Finding]:
    """What decided it comes first."""
    found = run.numbers.get(RunStage.GATE.value, {}).get("findings", ())
    return [_finding(each) for answer in ANSWERS for each in found if each["answer"] == answer]


def _finding(each: Mapping[str, Any]) -> Finding:
    answer, tone = ANSWERS[each["answer"]]
    counted = each["unit"] != "none"
    return Finding(
        title=each["title"],
        reason=each["reason"],
        answer=answer,
        tone=tone,
        champion=_number(each, each["champion"]) if counted else "",
        challenger=_number(each, each["challenger"]) if counted else "",
        change=_number(each, each["change"], "+") if counted else "",
        interval=_interval(each),
        margin=_margin(each),
        images="" if each["images"] is None else f"{each['images']:,}",
    )


def _number(each: Mapping[str, Any], value: float | None, sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:{sign}.1f}" if each["unit"] == "images/s" else f"{value:{sign}.3f}"


def _interval(each: Mapping[str, Any]) -> str:
    if each["low"] is None or each["high"] is None:
        return ""
    sign = "+" if each["change"] is not None else ""
    return f"{each['low']:{sign}.3f} to {each['high']:{sign}.3f}"


def _margin(each: Mapping[str, Any]) -> str:
    if each["allowed"] is None:
        return ""
    allowed = _number(each, each["allowed"])
    if each["rule"].startswith("new_"):
        return f"gain ≥ {allowed}"
    return f"≤ {allowed}" if each["change"] is None else f"loss ≤ {allowed}"


def _halves(run: TrainingRun) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is proposed for each side, with the words that begin it."""
    proposed = run.numbers.get(RunStage.CALIBRATE.value, {}).get("thresholds")
    if proposed:
        yield "Fake from", proposed["fake"]
        yield "Real up to", proposed["real"]


def _adoptable(run: TrainingRun) -> dict[str, float]:
    """The proposed thresholds as the thresholds page takes them; empty where there is none."""
    proposed = run.numbers.get(RunStage.CALIBRATE.value, {}).get("thresholds") or {}
    return {name: proposed[name] for name in ("fake_from", "real_up_to") if proposed.get(name) is not None}


def _sides(run: TrainingRun) -> Sequence[tuple[str, int]]:
    """How many images of each class were on each side, with its words."""
    counted = run.numbers.get(RunStage.SPLIT.value, {}).get("images", {})
    named = [
        (f"{side.value} {label.value}", f"{label.value} {words}") for side, words in SPLIT.items() for label in Label
    ]
    return [(words, counted[name]) for name, words in named if name in counted]


def _left_out(run: TrainingRun) -> Sequence[tuple[str, int]]:
    """Why reviewed cases were not learned from. Platforms that allow no training are not spoken of here."""
    counted = run.numbers.get(RunStage.SNAPSHOT.value, {}).get("left_out", {})
    return [(words, counted[word]) for word, words in LEFT_OUT.items() if counted.get(word)]
