"""`/dashboard/platforms/{id}/thresholds`: what any pair of thresholds would have done, and putting one in force.

Leads read and save: thresholds are how well decisions are made, which is theirs to answer for. Every save is a new
version with a name beside it, and any earlier one can be put in force again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api import problems
from api.auth import requires_role
from api.dashboard import figures
from api.dashboard.access import person
from moderation import model_versions, tenants, thresholds
from moderation.db import transaction
from moderation.errors import Conflict, InvalidRequest
from moderation.policy import Thresholds
from moderation.tables import Policy
from moderation.thresholds import BARS, Line, Outlook
from moderation.vocabulary import ExplainMode, Label, Role

pages = Blueprint("thresholds", __name__)

# The plot of scores, in its own units: how wide, how high a half, where its middle is.
WIDE, HALF, MIDDLE = 1000, 80, 85
EXPLAINED = {
    ExplainMode.ALWAYS: "every image",
    ExplainMode.FLAGGED: "what is judged fake or goes to review",
    ExplainMode.REVIEW: "what goes to review",
}


@dataclass(frozen=True)
class Bar:
    """A part of the plot of scores."""

    x: float
    y: float
    width: float
    height: float
    tone: str
    words: str


@pages.get("/dashboard/platforms/<uuid:tenant_id>/thresholds")
@requires_role(Role.LEAD)
def page(tenant_id: UUID) -> str:
    """The page; `?fake_from=…&real_up_to=…`, as a training run proposes, are tried and not in force."""
    return _page(tenant_id, tried=_tried(request.args))


@pages.post("/dashboard/platforms/<uuid:tenant_id>/thresholds")
@requires_role(Role.LEAD)
def save(tenant_id: UUID) -> AnyResponse:
    """Put a new version in force, or an earlier one's thresholds again."""
    try:
        chosen, instead_of = _sent(request.form)
        with transaction() as session:
            policy = thresholds.change(session, tenant_id, chosen, actor=person().actor, instead_of=instead_of)
    except (Conflict, InvalidRequest) as error:
        return problems.beside(error, _page(tenant_id, error=error))
    said = "policy_saved" if policy.version != instead_of else "policy_kept"
    return redirect(url_for("platforms.thresholds.page", tenant_id=tenant_id, said=said), 303)


def _sent(form: Mapping[str, str]) -> tuple[Thresholds, int]:
    """Raises InvalidRequest for what no form of ours says."""
    try:
        numbers = {name: float(form[name]) for name in ("fake_from", "real_up_to", "min_pair_mass")}
        if not 0 <= numbers["min_pair_mass"] <= 1:
            raise InvalidRequest("The least pair mass lies between 0 and 1.")
        return Thresholds(**numbers, explain=ExplainMode(form["explain"])), int(form["instead_of"])
    except (KeyError, ValueError) as error:
        raise InvalidRequest("A policy needs two thresholds, a least pair mass and what is explained.") from error


def _tried(query: Mapping[str, str]) -> dict[str, float]:
    """The thresholds in the address that can be ones; what cannot is passed over."""
    found = {}
    for name in ("real_up_to", "fake_from"):
        try:
            value = float(query[name])
        except (KeyError, ValueError):
            continue
        if 0 <= value <= 1:
            found[name] = value
    return found


def _page(
    tenant_id: UUID,
    *,
    error: Conflict | InvalidRequest | None = None,
    tried: Mapping[str, float] = MappingProxyType({}),
) -> str:
    with transaction() as session:
        champion = model_versions.champion(session)
        policy = tenants.policy_of(session, tenant_id)
        shown = {"real_up_to": policy.real_up_to, "fake_from": policy.fake_from, **tried}
        if shown["real_up_to"] >= shown["fake_from"]:
            shown = {"real_up_to": policy.real_up_to, "fake_from": policy.fake_from}
        outlook = thresholds.outlook(
            session, tenant_id, champion.id if champion else None, datetime.now(UTC), list(shown.values())
        )
        earlier = thresholds.versions(session, tenant_id)
    led = person().tenant_ids_as(Role.LEAD)
    reals, fakes = _choices(outlook.reals, "reals"), _choices(outlook.fakes, "fakes")
    return render_template(
        "thresholds/page.html",
        tenant_id=tenant_id,
        others=[member for member in person().memberships if member.tenant_id in led],
        champion=champion,
        policy=policy,
        outlook=outlook,
        reals=reals,
        fakes=fakes,
        real=_place(reals, shown["real_up_to"]),
        fake=_place(fakes, shown["fake_from"]),
        shown=shown,
        proposed=shown != {"real_up_to": policy.real_up_to, "fake_from": policy.fake_from},
        in_force=_in_force(outlook, policy),
        bars=_bars(outlook),
        ticks=[(share * WIDE, f"{share:.1f}") for share in (0, 0.2, 0.4, 0.6, 0.8, 1)],
        span_days=thresholds.SPAN.days,
        explained=EXPLAINED,
        versions=earlier,
        error=error,
    )


def _choices(lines: Sequence[Line], what: str) -> list[dict[str, Any]]:
    """What the sliders go through, each with all there is to say of it; static/insight.js only picks."""
    return [{"value": line.threshold, "cases": line.cases, "right": _right(line, what)} for line in lines]


def _right(line: Line, what: str) -> str:
    if not line.cases:
        return f"would decide no {what}"
    if line.unseen:
        return "not known: no audit has looked at what was decided here"
    if line.precision.found is None:
        return figures.too_few(line.precision)
    return f"{figures.share(line.precision)}, by {line.precision.n:,} answers"


def _place(choices: Sequence[Mapping[str, Any]], value: float) -> int:
    return next(place for place, choice in enumerate(choices) if choice["value"] == value)


def _in_force(outlook: Outlook, policy: Policy) -> dict[str, str]:
    real = next(line for line in outlook.reals if line.threshold == policy.real_up_to)
    fake = next(line for line in outlook.fakes if line.threshold == policy.fake_from)
    decided = real.cases + fake.cases
    return {
        "fakes": _right(fake, "fakes"),
        "reals": _right(real, "reals"),
        "automatic": figures.percent(decided / outlook.cases) if outlook.cases else "no cases",
        "load": f"{(outlook.cases - decided) / outlook.days:.1f} a day" if outlook.cases else "no cases",
    }


def _bars(outlook: Outlook) -> list[Bar]:
    """Reviewed fakes above the middle, reviewed reals below it, by score."""
    most = max(max(counts) for counts in outlook.bars.values()) or 1
    width = WIDE / BARS
    bars = []
    for label, tone in ((Label.FAKE, "bad"), (Label.REAL, "good")):
        for place, count in enumerate(outlook.bars[label]):
            high = count / most * HALF
            top = MIDDLE - high if label is Label.FAKE else MIDDLE
            words = f"{count} {label.value}, score {place / BARS:.2f} to {(place + 1) / BARS:.2f}"
            bars.append(Bar(place * width + 2, top, width - 4, high, tone, words))
    return bars
