"""Statements of reasons: why content was restricted, in the fields of the EU's DSA Transparency Database.

A statement is filled from the path that the decision really took, as events and answers tell it, and from what the
platform has said of itself (`Defaults`): what it does to such content, on which ground, and where. What nobody has said
is not made up: it is listed as missing. Free texts are in standard words and hold no personal data, as Article 24(5)
of Regulation (EU) 2022/2065 demands; so the model's own words are not in them.

Fields, words and limits are those of the database's API, schema 2 (in force since 1 July 2025): its documentation at
https://transparency.dsa.ec.europa.eu/page/api-documentation, and the rules of its StatementStoreRequest in
https://github.com/digital-services-act/transparency-database. It sends nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from moderation import cases, events
from moderation.db import storable, transaction
from moderation.errors import Conflict, InvalidRequest
from moderation.tables import Case, Event, Review, Tenant
from moderation.vocabulary import OPERATOR, EventType, Label, ReviewReason

Visibility = Literal[
    "DECISION_VISIBILITY_CONTENT_REMOVED",
    "DECISION_VISIBILITY_CONTENT_DISABLED",
    "DECISION_VISIBILITY_CONTENT_DEMOTED",
    "DECISION_VISIBILITY_CONTENT_AGE_RESTRICTED",
    "DECISION_VISIBILITY_CONTENT_INTERACTION_RESTRICTED",
    "DECISION_VISIBILITY_CONTENT_LABELLED",
    "DECISION_VISIBILITY_OTHER",
]
Monetary = Literal["DECISION_MONETARY_SUSPENSION", "DECISION_MONETARY_TERMINATION", "DECISION_MONETARY_OTHER"]
Provision = Literal[
    "DECISION_PROVISION_PARTIAL_SUSPENSION",
    "DECISION_PROVISION_TOTAL_SUSPENSION",
    "DECISION_PROVISION_PARTIAL_TERMINATION",
    "DECISION_PROVISION_TOTAL_TERMINATION",
]
Account = Literal["DECISION_ACCOUNT_SUSPENDED", "DECISION_ACCOUNT_TERMINATED"]
AccountType = Literal["ACCOUNT_TYPE_BUSINESS", "ACCOUNT_TYPE_PRIVATE"]
Category = Literal[
    "STATEMENT_CATEGORY_ANIMAL_WELFARE",
    "STATEMENT_CATEGORY_CONSUMER_INFORMATION",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
    "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE",
    "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
    "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY",
    "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
    "STATEMENT_CATEGORY_SELF_HARM",
    "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "STATEMENT_CATEGORY_VIOLENCE",
]
Source = Literal["SOURCE_ARTICLE_16", "SOURCE_TRUSTED_FLAGGER", "SOURCE_TYPE_OTHER_NOTIFICATION", "SOURCE_VOLUNTARY"]
ILLEGAL, INCOMPATIBLE = "DECISION_GROUND_ILLEGAL_CONTENT", "DECISION_GROUND_INCOMPATIBLE_CONTENT"
Ground = Literal["DECISION_GROUND_ILLEGAL_CONTENT", "DECISION_GROUND_INCOMPATIBLE_CONTENT"]
# The European Economic Area.
# fmt: off
Country = Literal[
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS", "IT", "LI",
    "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
]
# fmt: on
Short = Annotated[str, Field(min_length=1, max_length=500)]
Long = Annotated[str, Field(min_length=1, max_length=2000)]

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


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Profile(_Said):
    """What a platform does to content of one kind, and why; names and words are the database's."""

    decision_visibility: tuple[Visibility, ...] = ()
    decision_visibility_other: Short | None = None
    decision_monetary: Monetary | None = None
    decision_monetary_other: Short | None = None
    decision_provision: Provision | None = None
    decision_account: Account | None = None
    account_type: AccountType | None = None
    decision_ground: Ground | None = None
    decision_ground_reference_url: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=500)] | None = None
    illegal_content_legal_ground: Short | None = None
    illegal_content_explanation: Long | None = None
    incompatible_content_ground: Short | None = None
    incompatible_content_explanation: Long | None = None
    incompatible_content_illegal: Literal["Yes", "No"] | None = None
    category: Category | None = None
    category_addition: tuple[Category, ...] = ()
    category_specification: tuple[Annotated[str, Field(pattern=r"^KEYWORD_[A-Z_]+$")], ...] = ()
    category_specification_other: Short | None = None
    territorial_scope: tuple[Country, ...] = ()
    content_language: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    source_type: Source | None = None
    source_identity: Short | None = None

    @model_validator(mode="after")
    def _others(self) -> Self:
        for name, is_other in (
            ("decision_visibility_other", "DECISION_VISIBILITY_OTHER" in self.decision_visibility),
            ("decision_monetary_other", self.decision_monetary == "DECISION_MONETARY_OTHER"),
        ):
            if is_other != (getattr(self, name) is not None):
                raise ValueError(f"{name} is said exactly where the decision is one of the kind OTHER")
        return self


class Defaults(_Said):
    """What a platform says of itself: of content that is synthetic, and of content that was reported as illegal.

    `content_date_is_submission`: it sends an image on the day on which it is posted, so that this is its date.
    """

    synthetic: Profile = Profile()
    illegal: Profile = Profile()
    content_date_is_submission: StrictBool = False


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


def defaults_of(tenant: Tenant) -> Defaults:
    """What this platform has said of itself."""
    return Defaults.model_validate(tenant.statement_defaults or {})


def read_defaults(said: Mapping[str, Any]) -> Defaults:
    """Defaults as somebody sent them. Raises InvalidRequest with a pointer to what is wrong."""
    try:
        return Defaults.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        pointer = "".join(f"/{part}" for part in first["loc"])
        raise InvalidRequest(f"{pointer[1:] or 'The defaults'}: {first['msg']}.", pointer=pointer or None) from error


def set_defaults(session: Session, tenant_id: UUID, defaults: Defaults, *, actor: str = OPERATOR) -> None:
    """What a platform says of itself from now on, also of decisions of before."""
    tenant = session.get_one(Tenant, tenant_id, with_for_update=True)
    was = tenant.statement_defaults
    now = defaults.model_dump(mode="json", exclude_defaults=True)
    if now == (was or {}):
        return
    tenant.statement_defaults = now
    before, after = {"statement_defaults": was}, {"statement_defaults": now}
    events.record(session, EventType.TENANT_CHANGED, tenant_id=tenant_id, actor=actor, before=before, after=after)


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
