"""`/dashboard/models`: the model versions side by side, with what was measured of each and what reviewers make of it.

Versions are the deployment's, cases and reviews only those of the platforms this person leads. A version is promoted by
command; the page says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, render_template

from api.auth import requires_role
from api.dashboard import figures
from api.dashboard.access import person
from moderation import insight, model_versions
from moderation.db import transaction
from moderation.insight import Reviewers, Selection
from moderation.tables import ModelVersion
from moderation.vocabulary import ModelStage, Role

pages = Blueprint("models", __name__)

DAYS = 90
KINDS = {"demo": "demo model, not FakeVLM", "fakevlm": "FakeVLM"}
NOT_MEASURED = "not measured"
TONES = {ModelStage.CHAMPION: "good", ModelStage.CHALLENGER: "info", ModelStage.RETIRED: "plain"}


@dataclass(frozen=True)
class Row:
    """One line of the comparison: what each version has to say there. `code`: to be copied."""

    name: str
    values: list[Any]
    code: bool = False


@pages.get("/dashboard/models")
@requires_role(Role.LEAD)
def page() -> str:
    """The page."""
    today = datetime.now(UTC).date()
    led = tuple(sorted(person().tenant_ids_as(Role.LEAD)))
    selection = Selection(led, today - timedelta(days=DAYS - 1), today)
    with transaction() as session:
        versions = sorted(model_versions.versions(session), key=lambda one: one.stage is not ModelStage.CHAMPION)
        judged = insight.judged(session, selection)
        reviewers = insight.reviewers(session, selection)
    return render_template(
        "models/page.html",
        versions=versions,
        tones=TONES,
        facts=list(_facts(versions)),
        measured=list(_measured(versions)),
        met=list(_met(versions, judged, reviewers)),
        days=DAYS,
        candidate=next((one.name for one in versions if one.stage is not ModelStage.CHAMPION), None),
    )


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
    """Whatever the manifests hold as metrics; what one lacks was not measured."""
    flat = [dict(_flat(version.manifest.get("metrics") or {})) for version in versions]
    names = dict.fromkeys(name for metrics in flat for name in metrics)
    for name in names:
        yield Row(name.replace("_", " "), [_number(metrics.get(name, NOT_MEASURED)) for metrics in flat])


def _flat(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}", value


def _number(value: Any) -> Any:
    if value is None:
        return NOT_MEASURED
    return f"{value:.4g}" if isinstance(value, float) else value


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
