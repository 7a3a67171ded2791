"""`/v1/retention`: how long the caller's data is kept."""

from __future__ import annotations

from dataclasses import asdict

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, Sent
from moderation import retention
from moderation.db import transaction
from moderation.retention import LEAST_DAYS, MOST_DAYS, Periods
from moderation.tables import Tenant
from moderation.vocabulary import Scope

api = APIBlueprint("retention", __name__, abp_tags=[Tag(name="Privacy")], abp_security=SECURITY)


def _days(name: str, description: str) -> Field:  # type: ignore[valid-type]
    return Field(default=None, ge=LEAST_DAYS[name], le=MOST_DAYS, description=description, examples=[None])


class RetentionBody(Sent):
    """Days from when a case was settled; null, or left out, keeps for ever."""

    images: int | None = _days("images", "the image, every picture made of it, and what it is like")
    verdicts: int | None = _days("verdicts", "scores, explanations, and what moderators wrote")
    events: int | None = _days("events", "what you sent with the image, and what events repeat of it")
    restricted: int | None = _days("restricted", "instead of these three, all of a case reported as illegal")
    appeals: int | None = _days(
        "appeals",
        "how long a decision may be appealed: images and verdicts stay at least so long, or for ever without it",
    )


@api.get(
    "/v1/retention",
    operation_id="getRetention",
    summary="How long data is kept",
    responses={200: RetentionBody} | problems.declared(401, 403),
)
@requires(Scope.SETTINGS_MANAGE)
def get_retention() -> Answer:
    """In days from when a case was settled."""
    with transaction() as session:
        return asdict(retention.periods_of(session.get_one(Tenant, caller().tenant_id)))


@api.put(
    "/v1/retention",
    operation_id="setRetention",
    summary="Set how long data is kept",
    responses={200: RetentionBody} | problems.declared(400, 401, 403),
)
@requires(Scope.SETTINGS_MANAGE)
def put_retention(body: RetentionBody) -> Answer:
    """All five at once: what is left out is kept for ever. What is too old by then goes within a day, and for good."""
    periods = Periods(**body.model_dump())
    with transaction() as session:
        retention.set_periods(session, caller().tenant_id, periods, actor=caller().actor)
    return asdict(periods)
