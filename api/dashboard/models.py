"""`/dashboard/models`: the model versions side by side, what was measured of each, and how the champion keeps.

Versions are the deployment's, cases and reviews only those of the platforms this person leads. Which version judges
concerns every platform, so only operators promote one and go back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api.auth import operators_only, requires_role
from api.dashboard import figures, plots
from api.dashboard.access import person
from api.dashboard.figures import Table
from api.dashboard.plots import Plot, Series
from api.dashboard.runs import champion_seen
from moderation import accuracy, insight, model_versions, notices, rejudging
from moderation.accuracy import Reviewers
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.insight import Selection
from moderation.retraining import decisions, panel
from moderation.tables import ModelVersion, PanelMeasurement, TrainingRun
from moderation.vocabulary import ModelStage, PanelSet, Role, RunStatus

pages = Blueprint("models", __name__)

DAYS = 90
KINDS = {"demo": "demo model, not FakeVLM", "fakevlm": "FakeVLM"}
NOT_MEASURED = "not measured"
WORDS = {"auc": "AUC", "ece": "calibration error", "reals": "accuracy on real images"}
# Under a measure's name and this stands its 95 % interval, as finetuning writes it.
INTERVAL = "_95"
TONES = {ModelStage.CHAMPION: "good", ModelStage.CHALLENGER: "info", ModelStage.RETIRED: "plain"}
SETS = {
    PanelSet.HOLDOUT: ("Held-out images, as sent", "accent"),
    PanelSet.RECOMPRESSED: ("The same as JPEG, quality 70", "good"),
    PanelSet.BLURRED: ("The same, blurred by a pixel", "warn"),
    PanelSet.RESIZED: ("The same, to half and back", "edge"),
    PanelSet.AUDITS: ("Audited decisions that were right", "bad"),
}


@dataclass(frozen=True)
class Row:
    """One line of the comparison: what each version has to say there. `code`: to be copied."""

    name: str
    values: list[Any]
    code: bool = False


@dataclass(frozen=True)
class Standing:
    """One of the panel's sets, as it was measured last."""

    name: str
    row: PanelMeasurement
    value: str
    change: str


@pages.get("/dashboard/models")
@requires_role(Role.LEAD)
def page() -> str:
    """The page."""
    today = datetime.now(UTC).date()
    led = tuple(sorted(person().tenant_ids_as(Role.LEAD)))
    selection = Selection(led, today - timedelta(days=DAYS - 1), today)
    with transaction() as session:
        notices.seen(session, person().user_id, None)
        versions = sorted(model_versions.versions(session), key=lambda one: one.stage is not ModelStage.CHAMPION)
        judged = insight.judged(session, selection)
        reviewers = accuracy.reviewers(session, selection)
        before = model_versions.previous(session)
        workers = model_versions.workers(session)
        came_of = decisions.run_by_version(session, versions)
        measured, now = panel.history(session), panel.latest(session)
    return render_template(
        "models/page.html",
        versions=versions,
        champion=next((one for one in versions if one.stage is ModelStage.CHAMPION), None),
        previous=before,
        workers=workers,
        came_of=came_of,
        promotable=[one for one in versions if _may_be_promoted(one, came_of)],
        tones=TONES,
        facts=list(_facts(versions)),
        measured=list(_measured(versions)),
        met=list(_met(versions, judged, reviewers)),
        days=DAYS,
        standing=[_standing(row) for row in now],
        panel_plot=_panel_plot(measured, today) if measured else None,
        panel_table=_panel_table(measured),
        panel_margin=panel.MARGIN,
    )


@pages.get("/dashboard/models/panel.csv")
@requires_role(Role.LEAD)
def panel_csv() -> AnyResponse:
    """Everything the standing panel has measured in half a year."""
    with transaction() as session:
        table = _panel_table(panel.history(session))
    return AnyResponse(
        table.csv(), mimetype="text/csv", headers={"Content-Disposition": 'attachment; filename="panel.csv"'}
    )


@pages.post("/dashboard/models/<uuid:version_id>/promote")
@requires_role(Role.LEAD)
@operators_only
def promote(version_id: UUID) -> AnyResponse:
    """Make a version champion."""
    with model_versions.changing() as session:
        decisions.promote(
            session,
            version_id,
            actor=person().actor,
            reason=request.form.get("reason"),
            instead_of=champion_seen(),
        )
    return redirect(url_for("models.page", said="model_promoted"), 303)


@pages.post("/dashboard/models/rollback")
@requires_role(Role.LEAD)
@operators_only
def rollback() -> AnyResponse:
    """Go back to the version before."""
    reason = request.form.get("reason", "").strip()
    if not reason:
        raise InvalidRequest("Say why you go back: whoever looks into it later will want to know.")
    with model_versions.changing() as session:
        model_versions.rollback(session, actor=person().actor, reason=reason, instead_of=champion_seen())
    return redirect(url_for("models.page", said="model_rolled_back"), 303)


@pages.post("/dashboard/models/rejudge")
@requires_role(Role.LEAD)
def rejudge() -> AnyResponse:
    """Have the champion judge what is in review, on the platforms this person leads."""
    with transaction(wake=True) as session:
        led = sorted(person().tenant_ids_as(Role.LEAD))
        asked = sum(rejudging.ask(session, actor=person().actor, tenant_id=tenant_id) for tenant_id in led)
    return redirect(url_for("models.page", said="rejudging_asked" if asked else "rejudging_none"), 303)


def _may_be_promoted(version: ModelVersion, came_of: Mapping[UUID, TrainingRun]) -> bool:
    """Not what the gate or a lead has said no to: that takes a command."""
    run = came_of.get(version.id)
    rejected = run is not None and run.status is RunStatus.REJECTED
    return version.stage is not ModelStage.CHAMPION and version.removed_at is None and not rejected


def _standing(row: PanelMeasurement) -> Standing:
    value = row.note or NOT_MEASURED
    if row.value is not None and row.low is not None and row.high is not None:
        value = f"{row.value * 100:.1f} % ({row.low * 100:.1f} to {row.high * 100:.1f})"
    change = row.note or "nothing to compare it with yet"
    if row.change is not None and row.change_low is not None and row.change_high is not None:
        change = f"{row.change * 100:+.1f} points ({row.change_low * 100:+.1f} to {row.change_high * 100:+.1f})"
    return Standing(SETS[row.measured][0], row, value, change)


def _panel_plot(rows: Sequence[PanelMeasurement], today: date) -> Plot:
    """A point a night, from the first night on."""
    first = min(row.created_at for row in rows).date()
    days = [first + timedelta(days=n) for n in range(max(1, (today - first).days + 1))]
    values = {(row.measured, row.created_at.date()): row.value for row in rows}
    return plots.shares(
        days,
        [Series(name, tone, [values.get((measured, day)) for day in days]) for measured, (name, tone) in SETS.items()],
    )


def _panel_table(rows: Sequence[PanelMeasurement]) -> Table:
    return Table(
        "panel",
        "The standing panel, the newest first",
        ("Measured", "Version", "Set", "Images", "Value", "Low", "High", "AUC", "Change", "Low", "High", "Worse"),
        [
            (
                f"{row.created_at:%Y-%m-%d %H:%M}",
                row.model_version.name,
                SETS[row.measured][0],
                row.images,
                *(_rounded(value) for value in (row.value, row.low, row.high, row.auc)),
                *(_rounded(value) for value in (row.change, row.change_low, row.change_high)),
                "yes" if row.drifted else "",
            )
            for row in reversed(rows)
        ],
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _facts(versions: list[ModelVersion]) -> Iterator[Row]:
    """What each version is."""
    manifests = [version.manifest for version in versions]
    yield Row("Kind", [KINDS.get(manifest["kind"], manifest["kind"]) for manifest in manifests])
    yield Row("Checkpoint", [version.checkpoint for version in versions], code=True)
    yield Row("Base", [manifest.get("base") or "not said" for manifest in manifests])
    yield Row("Quantization", [manifest.get("quantization", "none") for manifest in manifests])
    yield Row("Prompt", [manifest["prompt"]["text"] for manifest in manifests], code=True)
    yield Row("Calibration", [_calibration(manifest["calibration"]) for manifest in manifests])
    yield Row("Golden outputs", [len(manifest.get("golden", ())) for manifest in manifests])
    yield Row("Registered", [version.created_at for version in versions])
    yield Row("Promoted", [version.promoted_at or "never" for version in versions])


def _calibration(said: Mapping[str, Any]) -> str:
    if said["method"] == "none":
        return "none: scores are as the model gives them"
    numbers = ", ".join(f"{name} {said[name]:.4g}" for name in ("scale", "bias") if name in said)
    return " ".join(filter(None, [said["method"], f"({numbers})" if numbers else "", _on(said.get("fitted_on"))]))


def _on(what: str | None) -> str:
    return f"fitted on {what}" if what else ""


def _measured(versions: list[ModelVersion]) -> Iterator[Row]:
    """Whatever the manifests hold as metrics, each with its interval; what one lacks was not measured."""
    flat = [dict(_flat(version.manifest.get("metrics") or {})) for version in versions]
    names = dict.fromkeys(name for metrics in flat for name in metrics)
    for name in names:
        if name.removesuffix(INTERVAL) not in names or not name.endswith(INTERVAL):
            yield Row(_named(name), [_number(metrics.get(name), metrics.get(name + INTERVAL)) for metrics in flat])


def _flat(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}", value


def _named(metric: str) -> str:
    """A metric's name as people write it: `validation_auc` is Validation AUC."""
    words = " ".join(WORDS.get(word, word) for word in metric.replace("_", " ").split(" "))
    return words[:1].upper() + words[1:]


def _number(value: Any, interval: Sequence[float] | None) -> Any:
    if value is None:
        return NOT_MEASURED
    number = f"{value:.4g}" if isinstance(value, float) else value
    return f"{number} ({interval[0]:.4g} to {interval[1]:.4g})" if interval else number


def _met(versions: list[ModelVersion], judged: Mapping[Any, int], reviewers: Reviewers) -> Iterator[Row]:
    """What has come of each version among this person's cases."""
    by_version = reviewers.by_version
    found = [by_version.get(version.name) for version in versions]
    yield Row("Cases judged", [f"{judged.get(version.id, 0):,}" for version in versions])
    yield Row(
        "Reviewers agree, not having seen the verdict",
        [figures.share(one.blind) if one else "no answers" for one in found],
    )
    yield Row(
        "Reviewers agree, having seen it",
        [figures.share(one.seeing) if one else "no answers" for one in found],
    )
