"""A platform's past, written straight into the tables: cases that arrived long ago, how they ended, who answered what.

`make_past` writes one case; `make_plausible_past` a quarter of a year of them, from a seed, as a platform might have
had them: a model that is mostly right, moderators who mostly agree, a queue that is longer after weekends.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from moderation import tenants
from moderation.db import new_id
from moderation.tables import Case, Claim, Event, Image, ModelVersion, Policy, Review, Submission, Tenant, User, Verdict
from moderation.vocabulary import (
    Answer,
    CaseStatus,
    ClaimEnd,
    DecidedBy,
    EventType,
    Label,
    ReviewReason,
)

CATEGORIES = ("portrait", "product", "landscape", "document", "food")
TABLES = (Image, Submission, Verdict, Case, Claim, Review, Event)


@dataclass
class Past:
    """Rows that are to be written, by table, in the order in which they refer to each other."""

    tenant: Tenant
    version: ModelVersion
    policy: Policy
    rows: dict[Any, list[dict[str, Any]]] = field(default_factory=lambda: {table: [] for table in TABLES})

    def write(self, session: Session) -> None:
        """Write them, and let the planner know of so much at once."""
        for table, rows in self.rows.items():
            if rows:
                session.execute(insert(table), rows)
                session.execute(text(f"ANALYZE {table.__tablename__}"))


@dataclass(frozen=True)
class Said:
    """An answer: whose, what, and how long after the case went to review it took effect."""

    user: User
    answer: Answer
    reason: ReviewReason = ReviewReason.UNCERTAIN
    after: timedelta = timedelta(hours=1)
    blind: bool = False


def past_of(session: Session, tenant: Tenant, version: ModelVersion) -> Past:
    """Nothing yet, of this tenant under its present policy."""
    return Past(tenant, version, tenants.policy_of(session, tenant.id))


def make_past(
    past: Past,
    arrived: datetime,
    p_fake: float,
    said: Sequence[Said] = (),
    *,
    category: str | None = None,
    audit_probability: float | None = None,
    screened_in: timedelta = timedelta(seconds=2),
    pair_mass: float = 0.99,
    failed: bool = False,
) -> Any:
    """One case that was judged so and answered so, with its id. Undecided and unanswered, it waits."""
    tenant_id, case_id, image_id = past.tenant.id, new_id(), new_id()
    readable = pair_mass >= past.policy.min_pair_mass
    label = None
    if readable and p_fake >= past.policy.fake_from:
        label = Label.FAKE
    elif readable and p_fake <= past.policy.real_up_to:
        label = Label.REAL
    submission = _image_and_submission(past, image_id, arrived)
    verdict_id = None if failed else _verdict(past, image_id, p_fake, pair_mass, arrived)
    judged = arrived + screened_in
    reviewed = not failed and (label is None or audit_probability is not None)
    if reviewed:
        before = CaseStatus.SCREENING if label is None else CaseStatus.DECIDED
        _event(past, case_id, EventType.CASE_IN_REVIEW, judged, before, CaseStatus.IN_REVIEW)
    answers = [one for one in said if one.answer is not Answer.CANNOT_TELL]
    for one in said:
        _review(past, case_id, verdict_id, one, judged)
    if reviewed and answers:
        _event(
            past,
            case_id,
            EventType.DECISION_CREATED,
            judged + answers[0].after,
            CaseStatus.IN_REVIEW,
            CaseStatus.DECIDED,
        )
    final = Label(answers[-1].answer.value) if answers else label
    status = CaseStatus.IN_REVIEW if reviewed and not answers else CaseStatus.DECIDED
    by = DecidedBy.MODERATOR if answers and (label is None or final is not label) else DecidedBy.POLICY
    past.rows[Case].append(
        {
            "id": case_id,
            "tenant_id": tenant_id,
            "submission_id": submission,
            "image_id": image_id,
            "verdict_id": verdict_id,
            "model_version_id": None if failed else past.version.id,
            "policy_id": None if failed else past.policy.id,
            "status": CaseStatus.FAILED if failed else status,
            "priority": 1,
            "sequence": 9,
            "label": None if failed else final,
            "decided_by": None if failed or final is None else by,
            "policy_label": None if failed else label,
            "category": category,
            "score": None if failed else p_fake,
            "review_reason": None if not reviewed else ReviewReason.UNCERTAIN if label is None else ReviewReason.AUDIT,
            "audit_probability": audit_probability,
            "blind": False,
            "created_at": arrived,
            "queued_at": arrived,
            "settled_at": judged + answers[-1].after if answers else judged,
        }
    )
    return case_id


def _image_and_submission(past: Past, image_id: Any, arrived: datetime) -> Any:
    submission_id = new_id()
    past.rows[Image].append(
        {
            "id": image_id,
            "tenant_id": past.tenant.id,
            "sha256": image_id.hex * 2,
            "s3_key": f"originals/{image_id}",
            "media_type": "image/jpeg",
            "width": 640,
            "height": 480,
            "frames": 1,
            "bytes": 9000,
            "created_at": arrived,
        }
    )
    past.rows[Submission].append(
        {
            "id": submission_id,
            "tenant_id": past.tenant.id,
            "details": {},
            "request_id": "req_past",
            "created_at": arrived,
        }
    )
    return submission_id


def _verdict(past: Past, image_id: Any, p_fake: float, pair_mass: float, at: datetime) -> Any:
    verdict_id = new_id()
    past.rows[Verdict].append(
        {
            "id": verdict_id,
            "image_id": image_id,
            "model_version_id": past.version.id,
            "label": Label.FAKE if p_fake >= 0.5 else Label.REAL,
            "p_fake": p_fake,
            "logit": 4 * (p_fake - 0.5),
            "pair_mass": pair_mass,
            "engine": "transformers",
            "dtype": "float32",
            "created_at": at,
        }
    )
    return verdict_id


def _event(past: Past, case_id: Any, type_: EventType, at: datetime, before: CaseStatus, after: CaseStatus) -> None:
    past.rows[Event].append(
        {
            "id": new_id(),
            "tenant_id": past.tenant.id,
            "case_id": case_id,
            "sequence": len(past.rows[Event]),
            "type": type_,
            "actor": "test",
            "before": {"status": before.value},
            "after": {"status": after.value},
            "created_at": at,
        }
    )


def _review(past: Past, case_id: Any, verdict_id: Any, said: Said, since: datetime) -> None:
    at, claim_id = since + said.after, new_id()
    past.rows[Claim].append(
        {
            "id": claim_id,
            "case_id": case_id,
            "user_id": said.user.id,
            "fence": 1,
            "claimed_at": since,
            "lease_until": at,
            "ended_at": at,
            "end": ClaimEnd.ANSWERED,
        }
    )
    past.rows[Review].append(
        {
            "id": new_id(),
            "tenant_id": past.tenant.id,
            "case_id": case_id,
            "claim_id": claim_id,
            "user_id": said.user.id,
            "verdict_id": verdict_id,
            "reason": said.reason,
            "answer": said.answer,
            "artifacts": [],
            "blind": said.blind,
            "due_at": at,
            "settled_at": at,
            "created_at": at,
        }
    )


def make_plausible_past(
    session: Session,
    tenant: Tenant,
    version: ModelVersion,
    users: Sequence[User],
    now: datetime,
    *,
    days: int = 90,
    a_day: int = 50,
    seed: int = 4,
    audit_share: float = 0.15,
) -> None:
    """A past of so many days, up to now; with an audit share of 0 nobody has looked at automatic decisions."""
    past, chance = past_of(session, tenant, version), random.Random(seed)
    for number in range(days):
        day = now - timedelta(days=days - number)
        busy = 0.65 if day.weekday() >= 5 else 1.0 + 0.3 * number / days
        for _ in range(round(a_day * busy * chance.uniform(0.85, 1.15))):
            arrived = day + timedelta(seconds=chance.uniform(0, 86_400))
            if arrived < now - timedelta(minutes=5):
                _one(past, chance, arrived, now, users, audit_share)
    past.write(session)


def _one(
    past: Past, chance: random.Random, arrived: datetime, now: datetime, users: Sequence[User], audit_share: float
) -> None:
    fake = chance.random() < 0.38
    p_fake = min(0.999, max(0.001, chance.betavariate(6, 1.1) if fake else chance.betavariate(1.0, 7)))
    pair_mass = 0.2 if chance.random() < 0.01 else 0.99
    between = past.policy.real_up_to < p_fake < past.policy.fake_from
    automatic = pair_mass >= past.policy.min_pair_mass and not between
    audited = automatic and chance.random() < audit_share
    said: list[Said] = []
    wait = timedelta(hours=chance.lognormvariate(0.6, 1.1) * (3 if arrived.weekday() >= 4 else 1))
    if (audited or not automatic) and arrived + wait < now:
        said = _opinions(chance, fake, wait, audited, users)
        said = [one for one in said if not audited or one.reason is ReviewReason.AUDIT]
    make_past(
        past,
        arrived,
        p_fake,
        [one for one in said if arrived + one.after < now],
        category=chance.choices(CATEGORIES, (5, 4, 3, 2, 1))[0],
        audit_probability=audit_share if audited else None,
        screened_in=timedelta(seconds=chance.lognormvariate(0.3, 0.7)),
        pair_mass=pair_mass,
        failed=chance.random() < 0.008,
    )


def _opinions(chance: random.Random, fake: bool, wait: timedelta, audited: bool, users: Sequence[User]) -> list[Said]:
    """What people say of it: mostly the truth; the second of them a day later."""

    def answer() -> Answer:
        if chance.random() < 0.03:
            return Answer.CANNOT_TELL
        return Answer.FAKE if fake is (chance.random() < 0.93) else Answer.REAL

    reason = ReviewReason.AUDIT if audited else ReviewReason.UNCERTAIN
    who = list(users)
    chance.shuffle(who)
    said = [Said(who[0], answer(), reason, wait, chance.random() < 0.3)]
    if said[0].answer is Answer.CANNOT_TELL:
        said.append(Said(who[1], Answer.FAKE if fake else Answer.REAL, reason, wait + timedelta(hours=9), blind=False))
    elif chance.random() < 0.25:
        later = wait + timedelta(hours=chance.uniform(1, 24))
        said.append(Said(who[1], answer(), ReviewReason.SECOND_OPINION, later, blind=True))
    return said
