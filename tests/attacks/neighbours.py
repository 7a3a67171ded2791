"""Two platforms of one deployment, each with one of everything, and what one would have to say to reach the other.

Everything that can be named has a name here: a path, a form or an address holds `{case_id}`, and is filled in with
what is the other platform's, or with what is nobody's. All words of a platform hold its mark, as does whatever leaks.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, text
from sqlalchemy.orm import Session

from moderation import accounts, appeals, claims, endpoints, sources, tenants
from moderation.attempts import Outcome
from moderation.db import engine, new_id, transaction
from moderation.fingerprints import Fingerprint
from moderation.storage import upload_key
from moderation.tables import IdempotencyKey, ImageHash, Notice, Row, SimilarImage, Tenant, TrainingRun, Upload, User
from moderation.vocabulary import CaseStatus, NoticeKind, Role, RunStatus, Scope
from tests.factories import champion_or_new, make_case, make_endpoint, make_image, make_key
from tests.platforms import attempt, make_source
from tests.reviewing import make_review_case

PASSWORD = "correct horse battery staple"
UUID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# What reading may write: that somebody was here.
FOOTPRINTS = ("last_seen_at", "last_used_at", "expires_at")
MATCHING = bytes(range(32))  # a hash that both have an image of


@dataclass
class Platform:
    """One of them. `named` is what it has, each by the name that paths, forms and addresses say, one or several."""

    mark: str
    tenant: Tenant
    token: str
    named: dict[str, list[str]] = field(default_factory=dict)

    def email(self, role: str) -> str:
        """Who has this role, or works for nobody (`outsider`)."""
        return f"{role}@{self.mark}.example"


def settle_in(session: Session, mark: str) -> Platform:
    """A platform with one of everything, and cases in every condition; all of its words hold `mark`."""
    tenant = tenants.create_tenant(session, f"{mark} pictures")
    platform = Platform(mark, tenant, make_key(session, tenant))
    people = {role: _person(session, platform, role) for role in Role}
    tenants.create_user(session, platform.email("outsider"), PASSWORD)
    cases_ = _cases(session, platform, people[Role.MODERATOR])
    source = sources.create(session, make_source(tenant))
    source.name = f"{mark} uploads"
    key, _ = tenants.create_key(session, tenant.id, f"{mark} upload service", [Scope.CASES_READ])
    endpoint = make_endpoint(session, tenant, f"https://{mark}.example/hook")
    delivery = endpoints.ping(session, endpoint)
    session.flush()
    attempt(session, delivery.id, Outcome(204, mark, None, 38))
    upload = Upload(id=new_id(), tenant_id=tenant.id, s3_key="", expires_at=datetime.now(UTC) + timedelta(hours=1))
    upload.s3_key = upload_key(tenant.id, upload.id)
    notice = Notice(
        user_id=people[Role.LEAD].id,
        kind=NoticeKind.MODEL_DRIFTED,
        subject=mark,
        title=mark,
        text=mark,
        for_operators=False,
    )
    answered = IdempotencyKey(
        tenant_id=tenant.id,
        key=f"{mark}-once",
        fingerprint="one",
        lease_until=func.now(),
        answer={"cases": [{"id": mark}]},
        expires_at=func.now() + timedelta(hours=1),
    )
    session.add_all([upload, notice, answered])
    session.flush()
    first = cases_[0]
    now = datetime.now(UTC).isoformat()
    platform.named = {
        "tenant_id": [str(tenant.id)],
        "case_id": [str(case.id) for case in cases_],
        "image_id": [str(first.image_id)],
        "sha256": [cases_[1].image.sha256],
        "external_id": [f"{mark}-post-1"],
        "category": [f"{mark}-art"],
        "subject": [f"{mark}-person"],
        "source_id": [str(source.id)],
        "key_id": [str(key.id)],
        "endpoint_id": [str(endpoint.id)],
        "delivery_id": [str(delivery.id)],
        "upload_id": [str(upload.id)],
        "notice_id": [str(notice.id)],
        "user_id": [str(people[Role.MODERATOR].id)],
        "email": [platform.email(Role.MODERATOR)],
        "cursor": [cursor_of(first.id)],
        "place": [f"{first.id}~normal~{now}"],
        "moment": [f"{now}~{delivery.event_id}"],
        "idempotency_key": [f"{mark}-once"],
    }
    return platform


def _person(session: Session, platform: Platform, role: Role) -> User:
    user = tenants.create_user(session, platform.email(role), PASSWORD)
    tenants.add_member(session, user, platform.tenant, role)
    return user


def _cases(session: Session, platform: Platform, moderator: User) -> list[Any]:
    """In review (of an image that both platforms have), decided, failed, waiting, restricted, appealed, claimed."""
    mark, tenant = platform.mark, platform.tenant
    shared = make_image(session, tenant, b"what both platforms have", exhibited=True)
    shared.provenance = {"exif": {"Artist": mark}}
    fingerprint = Fingerprint(MATCHING, 100)
    session.get_one(ImageHash, shared.id).pdq = MATCHING
    session.get_one(ImageHash, shared.id).bands = fingerprint.bands
    other = make_image(session, tenant, mark.encode(), exhibited=True)
    session.add(SimilarImage(image_id=shared.id, other_id=other.id, distance=3))
    said = {
        "details": {"category": f"{mark}-art", "subject": f"{mark}-person"},
        "text": f"This is a fake image. It shows {mark}.",
    }
    waiting = make_review_case(session, tenant, image=shared, external_id=f"{mark}-post-1", **said)
    decided = make_case(session, tenant, CaseStatus.DECIDED, image=other, external_id=f"{mark}-post-2")
    failed = make_case(session, tenant, CaseStatus.FAILED, external_id=f"{mark}-post-3")
    queued = make_case(session, tenant, CaseStatus.QUEUED, external_id=f"{mark}-post-4")
    fetching = make_case(session, tenant, CaseStatus.FETCHING, image_url=f"https://{mark}.example/x.png")
    restricted = make_review_case(session, tenant, external_id=f"{mark}-post-5", **said)
    restricted.restricted = True
    appealed = make_case(session, tenant, CaseStatus.DECIDED, external_id=f"{mark}-post-6")
    session.flush()
    appeals.file(session, tenant.id, appealed.id, actor="test", message=f"{mark} says it is real")
    claimed = make_review_case(session, tenant, external_id=f"{mark}-post-7", **said)
    who = accounts.Person(
        moderator.id, moderator.email, new_id(), (accounts.Member(tenant.id, tenant.name, Role.MODERATOR),)
    )
    claims.claim(session, who, claimed.id)
    return [waiting, decided, failed, queued, fetching, restricted, appealed, claimed]


def nobodys(platform: Platform) -> Platform:
    """What looks just like this platform's things, and is nobody's."""
    blank = Platform("nothing", platform.tenant, platform.token)
    blank.named = {name: [_unlike(value, platform.mark) for value in values] for name, values in platform.named.items()}
    return blank


def _unlike(value: str, mark: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", value):
        return hashlib.sha256(value.encode()).hexdigest()
    if len(value) == len(cursor_of(new_id())):
        return cursor_of(new_id())
    assert mark in value or UUID_PATTERN.search(value), value
    return UUID_PATTERN.sub(lambda _: str(new_id()), value).replace(mark, mark[::-1])


def cursor_of(id_: UUID) -> str:
    """As /v1's lists make them."""
    return base64.urlsafe_b64encode(id_.bytes).decode().rstrip("=")


def rows(holding: frozenset[str] = frozenset()) -> Mapping[str, str]:
    """Every table's rows as text, or those that hold one of these ids; without what reading may write."""
    kept = " ".join(f"- '{name}'" for name in FOOTPRINTS)
    each = [f"SELECT '{t.name}', (to_jsonb(r) {kept})::text FROM \"{t.name}\" r" for t in Row.metadata.sorted_tables]
    found: dict[str, list[str]] = {}
    with engine().connect() as connection:
        for name, row in connection.execute(text(" UNION ALL ".join(each))):
            if not holding or holding & set(UUID_PATTERN.findall(row)):
                found.setdefault(name, []).append(row)
    return {name: "\n".join(sorted(lines)) for name, lines in found.items()}


def digest() -> str:
    """One number for all of the database; without what reading may write."""
    kept = " ".join(f"- '{name}'" for name in FOOTPRINTS)
    each = [
        f"SELECT '{t.name}' || coalesce(sum(hashtextextended((to_jsonb(r) {kept})::text, 0)), 0)::text AS n "
        f'FROM "{t.name}" r'
        for t in Row.metadata.sorted_tables
    ]
    with engine().connect() as connection:
        return str(connection.scalar(text(f"SELECT string_agg(n, ',') FROM ({' UNION ALL '.join(each)}) AS every")))


def ids() -> frozenset[str]:
    """Every id in the database."""
    return frozenset(UUID_PATTERN.findall("\n".join(rows().values())))


@dataclass(frozen=True)
class Neighbours:
    """Both platforms; `theirs` is attacked. `own_ids` are those that came into the database with it."""

    ours: Platform
    theirs: Platform
    nobodys: Platform
    own_ids: frozenset[str]


def neighbours() -> Neighbours:
    """Both, in a deployment that has a champion, a version before it and a run that waits for an operator."""
    with transaction() as session:
        version = champion_or_new(session)
        run = TrainingRun(status=RunStatus.KEPT, asked_by="beat")
        session.add(run)
        session.flush()
        ours = settle_in(session, "mallory")
    before = ids()
    with transaction() as session:
        theirs = settle_in(session, "alice")
    for platform in (ours, theirs):
        platform.named |= {"run_id": [str(run.id)], "version_id": [str(version.id)]}
    return Neighbours(ours, theirs, nobodys(theirs), ids() - before)
