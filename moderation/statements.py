"""Statements of reasons: why content was restricted, in the fields of the EU's DSA Transparency Database.

A statement is filled from the path that the decision really took, as events and answers tell it, and from what the
platform has said of itself (moderation/statement_defaults.py). What nobody has said is not made up: it is listed as
missing. Free texts are in standard words and hold no personal data, as Article 24(5)
of Regulation (EU) 2022/2065 demands; so the model's own words are not in them.

Fields and words are those of the database's API, schema 2, as that module has them. It sends nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from moderation import cases, events
from moderation.db import storable, transaction
from moderation.errors import Conflict
from moderation.statement_defaults import ILLEGAL, INCOMPATIBLE, Defaults, Profile, Source, defaults_of
from moderation.tables import Case, Event, Review, Tenant
from moderation.vocabulary import EventType, Label, ReviewReason

FULLY, PARTIALLY, NOT = "AUTOMATED_DECISION_FULLY", "AUTOMATED_DECISION_PARTIALLY", "AUTOMATED_DECISION_NOT_AUTOMATED"
MEASURES = ("decision_visibility", "decision_monetary", "decision_provision", "decision_account")
GROUNDS = {
    ILLEGAL: ("illegal_content_legal_ground", "illegal_content_explanation"),
    INCOMPATIBLE: ("incompatible_content_ground", "incompatible_content_explanation"),
}
# Of each field that may be missing: who would have to say it.
WHERE_SAID = "Say it in your statement defaults (PUT /v1/statement-defaults)."
DECIDING = (EventType.DECISION_CREATED, EventType.DECISION_REVERSED)
# What somebody did after a decision, of which its statement speaks.
_AFTERWARDS = (EventType.APPEAL_DECIDED, EventType.REVIEW_UPHELD)
BATCH = 200


# Every field of a statement, in the order of the database's documentation.
FIELDS = (
    *Profile.model_fields,
    *("content_type", "content_date", "application_date", "decision_facts", "automated_detection"),
    *("automated_decision", "puid"),
)


@dataclass(frozen=True)
class Missing:
    """A field that the database demands, or the fields of which it demands one, and what to do about it."""

    field: str
    why: str


@dataclass(frozen=True)
class Statement:
    """A statement as the database takes it, and what it still lacks. Fields that are not said are not there."""

    case_id: UUID
    decided_at: datetime
    fields: Mapping[str, Any]
    missing: tuple[Missing, ...]

    def describe(self) -> dict[str, Any]:
        """As the api, the dashboard and the command show it: JSON values only."""
        return {
            "case_id": str(self.case_id),
            "decided_at": self.decided_at.isoformat(),
            "complete": not self.missing,
            "missing": [{"field": each.field, "why": each.why} for each in self.missing],
            "statement": dict(self.fields),
        }


@dataclass(frozen=True)
class _Path:
    """How the decision in force came about: its event, the answer that made it, and what came after.

    `reviewed_for`: why a person looked at the case at all; of a second opinion, why somebody gave the first.
    """

    event: Event
    review: Review | None
    reviewed_for: ReviewReason | None
    appealed: bool
    upheld: bool

    @property
    def illegal(self) -> bool:
        return self.event.type is EventType.CASE_RESTRICTED

    @property
    def by_policy(self) -> bool:
        return self.review is None and not self.illegal


def statement_of(session: Session, tenant_id: UUID, case_id: UUID) -> Statement:
    """The statement of reasons for what a case restricts, as it stands.

    Raises NotFound; Conflict where nothing is restricted: an image that is real, or of which nothing was decided and
    that nobody reported as illegal.
    """
    case = cases.case_of(session, tenant_id, case_id)
    if case.label is None and not case.restricted:
        raise Conflict(f"Case {case_id} is not decided: there is nothing to give reasons for yet.")
    if not restricts(case):
        raise Conflict(f"Case {case_id} was decided to be real: nothing is restricted, so there is no statement.")
    return _statement(case, _path(session, case), defaults_of(session.get_one(Tenant, tenant_id)))


def restricts(case: Case) -> bool:
    """Whether reasons are owed for a case: it was found to be fake, or was reported as illegal, decided or not."""
    return case.restricted or case.label is Label.FAKE


def between(tenant_id: UUID, since: datetime, until: datetime) -> Iterator[Statement]:
    """The statements for all decisions and reports of this time that are still in force, by when they were made."""
    after: tuple[datetime, UUID] | None = None
    while True:
        with transaction() as session:
            read = _deciding(session, tenant_id, since, until, after)
            defaults = defaults_of(session.get_one(Tenant, tenant_id))
            found = [statement for event in read if (statement := _if_in_force(session, event, defaults))]
        yield from found
        if len(read) < BATCH:
            return
        after = read[-1].created_at, read[-1].id


def _deciding(
    session: Session, tenant_id: UUID, since: datetime, until: datetime, after: tuple[datetime, UUID] | None
) -> Sequence[Event]:
    query = select(Event).where(Event.tenant_id == tenant_id, Event.created_at >= since, Event.created_at < until)
    query = query.where(Event.type.in_((*DECIDING, EventType.CASE_RESTRICTED)))
    if after is not None:
        at, last = after
        query = query.where(Event.created_at >= at, or_(Event.created_at > at, Event.id > last))
    return session.scalars(query.order_by(Event.created_at, Event.id).limit(BATCH)).all()


def _if_in_force(session: Session, event: Event, defaults: Defaults) -> Statement | None:
    case = session.get_one(Case, event.case_id)
    if not restricts(case):
        return None
    path = _path(session, case)
    return _statement(case, path, defaults) if path.event.id == event.id else None


def _path(session: Session, case: Case) -> _Path:
    """What made the decision that stands: the last of the events that decide."""
    query = select(Event).where(Event.case_id == case.id, Event.type.in_((*DECIDING, *_AFTERWARDS)))
    if case.restricted:
        query = select(Event).where(Event.case_id == case.id, Event.type == EventType.CASE_RESTRICTED)
    told = session.scalars(query.order_by(Event.sequence)).all()
    deciding = [event for event in told if event.type not in _AFTERWARDS][-1]
    later = {event.type for event in told if (event.sequence or 0) > (deciding.sequence or 0)}
    review_id = (deciding.after or {}).get("review")
    review = session.get(Review, UUID(review_id)) if review_id else None
    reviewed_for = None if review is None else _reviewed_for(session, review)
    return _Path(deciding, review, reviewed_for, EventType.APPEAL_DECIDED in later, EventType.REVIEW_UPHELD in later)


def _reviewed_for(session: Session, review: Review) -> ReviewReason:
    if review.reason is not ReviewReason.SECOND_OPINION:
        return review.reason
    settled = select(Review.reason).where(Review.case_id == review.case_id, Review.settled_at.is_not(None))
    return session.scalars(settled.order_by(Review.settled_at, Review.id).limit(1)).one()


def _statement(case: Case, path: _Path, defaults: Defaults) -> Statement:
    profile = defaults.illegal if path.illegal else defaults.synthetic
    said = profile.model_dump(mode="json", exclude_none=True)
    ground = ILLEGAL if path.illegal else profile.decision_ground
    others = {name for kind, names in GROUNDS.items() if kind != ground for name in names}
    if ground != INCOMPATIBLE:
        others.add("incompatible_content_illegal")
    fields: dict[str, Any] = {name: value for name, value in said.items() if value != [] and name not in others}
    fields |= {
        "decision_ground": ground,
        "content_type": ["CONTENT_TYPE_IMAGE", *(["CONTENT_TYPE_SYNTHETIC_MEDIA"] if _is_fake(case) else [])],
        "content_date": _content_date(case, defaults),
        "application_date": path.event.created_at.astimezone(UTC).date().isoformat(),
        "decision_facts": _facts(case, path),
        "source_type": _source(case) or profile.source_type,
        "automated_detection": "Yes" if _was_detected(path) else "No",
        "automated_decision": _automated(path),
        "puid": f"{case.id}-{path.event.sequence}",
    }
    # Whom the defaults name is who notified them of what they say, and not of what a submission says led to it.
    if fields["source_type"] == "SOURCE_VOLUNTARY" or fields["source_type"] != profile.source_type:
        fields.pop("source_identity", None)
    filled = {name: value for name, value in fields.items() if value is not None}
    return Statement(case.id, path.event.created_at, filled, tuple(_missing(filled)))


def _is_fake(case: Case) -> bool:
    return case.label is Label.FAKE


def _missing(fields: Mapping[str, Any]) -> Iterator[Missing]:
    if not any(name in fields for name in MEASURES):
        yield Missing(" or ".join(MEASURES), f"What you did to the content is yours to know. {WHERE_SAID}")
    for name in ("decision_ground", *GROUNDS.get(fields.get("decision_ground", ""), ()), "category"):
        if name not in fields:
            yield Missing(name, WHERE_SAID)
    if "source_type" not in fields:
        yield Missing("source_type", f"{WHERE_SAID} Or send source_type in the submission's metadata.")
    if "content_date" not in fields:
        yield Missing(
            "content_date",
            "Send content_date (YYYY-MM-DD) in the submission's metadata, or say in your statement defaults that it is "
            "the day of the submission (content_date_is_submission).",
        )


def _content_date(case: Case, defaults: Defaults) -> str | None:
    """When the platform began to host the content, as far as it has said so."""
    said = case.submission.details.get("content_date")
    try:
        return date.fromisoformat(said).isoformat() if isinstance(said, str) else _submitted(case, defaults)
    except ValueError:
        return None


def _submitted(case: Case, defaults: Defaults) -> str | None:
    sent = case.submission.created_at.astimezone(UTC).date()
    return sent.isoformat() if defaults.content_date_is_submission else None


def _source(case: Case) -> str | None:
    """What led to the investigation, where the platform said so with the image."""
    said = case.submission.details.get("source_type")
    return said if said in Source.__args__ else None  # type: ignore[attr-defined]


def _was_detected(path: _Path) -> bool:
    """Whether automated means singled this image out, and not a person, or a lot."""
    return path.by_policy or path.reviewed_for is ReviewReason.UNCERTAIN


def _automated(path: _Path) -> str:
    """Whether anybody, and whether the model, had a part in deciding.

    An answer that was given before the verdict was shown is a person's alone.
    """
    if path.by_policy:
        return PARTIALLY if path.appealed else FULLY
    return NOT if path.review is None or path.review.blind else PARTIALLY


def _facts(case: Case, path: _Path) -> str:
    """Standard words, at most 5000 characters."""
    parts = [_reported(path)] if path.illegal else [_screened(case), _decided(case, path)]
    if path.upheld:
        parts.append("A moderator who looked at it again has agreed since.")
    if path.appealed:
        parts.append("It was appealed, and a moderator upheld it.")
    return storable(" ".join(part for part in parts if part))[:5000]


def _reported(path: _Path) -> str:
    return f"A moderator reported the image as illegal content on {path.event.created_at.astimezone(UTC):%Y-%m-%d}."


def _screened(case: Case) -> str:
    if case.verdict is None:
        return "The image was screened by a model that estimates whether an image is synthetic."
    version = case.verdict.model_version
    demo = ", a demonstration model," if version.manifest.get("kind") == "demo" else ""
    score = "" if case.score is None else f" Its calibrated score for being synthetic was {case.score:.3f} of 1."
    what = "which estimates whether an image is synthetic"
    return f"The image was screened by the model {version.name}{demo} {what}.{score}"


def _decided(case: Case, path: _Path) -> str:
    if path.by_policy:
        limit = f" (version {case.policy.version}: from {case.policy.fake_from:g} on)" if case.policy else ""
        return f"The platform's policy{limit} decided it to be synthetic; no person took part."
    review = path.review
    if review is None:
        return "A moderator decided it to be synthetic."
    seen = "before the model's verdict was shown" if review.blind else "with the model's verdict in view"
    signs = f" Signs: {', '.join(sign.replace('_', ' ') for sign in review.artifacts)}." if review.artifacts else ""
    return f"{_WHY_REVIEWED[review.reason]} A moderator found it to be synthetic, {seen}.{signs}"


_WHY_REVIEWED = {
    ReviewReason.UNCERTAIN: "The score lay where the platform's policy leaves the decision to people.",
    ReviewReason.UNPARSABLE: "The model's answer could not be used.",
    ReviewReason.APPEAL: "An earlier decision was appealed.",
    ReviewReason.SECOND_OPINION: "A second opinion was asked for.",
    ReviewReason.AUDIT: "The case was drawn by lot from those that the policy had decided.",
}


def note_export(session: Session, tenant_id: UUID, count: int, *, actor: str) -> None:
    """Write down that statements were exported."""
    after = {"statements": count}
    events.record(session, EventType.STATEMENTS_EXPORTED, tenant_id=tenant_id, actor=actor, after=after)
