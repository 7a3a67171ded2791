"""What was taken back and must stay so after a restore: erased images, revoked keys, consent to training, and more.

A backup knows nothing of what was taken back after it was made. So a list of that is kept beside the backups, and may
be brought up to date far more often than they are made; a restore does all of it again. What was taken back since the
list was written last nobody knows. It does not know of roles that were lowered, nor of secrets that were changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.backups.places import Place
from moderation import accounts, endpoints, erasure, members, sources, tenants
from moderation.db import transaction
from moderation.errors import Conflict, NotFound
from moderation.schema import HALF_RESTORED, is_half_restored
from moderation.tables import ApiKey, Endpoint, Event, Image, Membership, Source, Tenant, User
from moderation.vocabulary import EventType

FILE = "withdrawals.json"
FORMAT = 1
ACTOR = "restore"
# A transaction's rows have its first moment's time, and are seen after its last. None lasts as long.
OVERLAP = timedelta(hours=1)
_DISABLED: dict[str, type[Endpoint] | type[Source]] = {"endpoint": Endpoint, "source": Source}


@dataclass(frozen=True, order=True)
class Withdrawal:
    """One thing taken back. `kind`: one of _AGAIN; `id`: its row's, of a key its prefix; `tenant`: whose, if one's."""

    kind: str
    id: str
    tenant: str | None
    at: datetime


@dataclass(frozen=True)
class Withdrawals:
    """All of them since the oldest backup; `known_until`: until when, None where none were ever written down."""

    known_until: datetime | None
    all: frozenset[Withdrawal] = frozenset()

    def images(self) -> frozenset[str]:
        """The ids of erased images."""
        return frozenset(each.id for each in self.all if each.kind == "image")


def read(place: Place) -> Withdrawals:
    """The list of a destination."""
    try:
        said = json.loads(place.get(FILE))
    except NotFound:
        return Withdrawals(None)
    entries = (Withdrawal(**{**each, "at": datetime.fromisoformat(each["at"])}) for each in said["withdrawals"])
    return Withdrawals(datetime.fromisoformat(said["known_until"]), frozenset(entries))


def keep(place: Place, since: datetime) -> Withdrawals:
    """Bring the list up to date; `since` is when the oldest backup was made. Raises Conflict as `refuse_unfit` does.

    What the list has stays in it, though this database may not know of it: it may itself have been restored.
    """
    with transaction() as session:
        refuse_unfit(session)
        now = session.scalars(select(func.now())).one()
        listed = [each for each in read(place).all if each.at > since - OVERLAP and not _given_back(session, each)]
        # Of what was taken back twice, the last time.
        last = {(each.kind, each.id, each.tenant): each for each in (*listed, *_since(session, since - OVERLAP))}
    made = Withdrawals(now, frozenset(last.values()))
    entries = [asdict(each) for each in sorted(made.all, key=lambda each: (each.at, each.kind, each.id))]
    said = {"format": FORMAT, "known_until": now, "withdrawals": entries}
    place.put(FILE, json.dumps(said, default=datetime.isoformat).encode())
    return made


def refuse_unfit(session: Session) -> None:
    """Raise Conflict where there is nothing to back up: then something is wrong, and old backups are not to go.

    Or where a restore is unfinished: what is still to be taken back again would look as if it had been given back.
    """
    if is_half_restored(session):
        raise Conflict(HALF_RESTORED)
    if session.scalar(select(Tenant.id).limit(1)) is None:
        raise Conflict("The database has no tenant, so there is nothing to back up. Is TELLTALE_DATABASE_URL right?")


def _since(session: Session, since: datetime) -> Iterator[Withdrawal]:
    images = select(Image.id, Image.tenant_id, Image.forgotten_at).where(Image.forgotten_at > since)
    for id_, tenant, at in session.execute(images.execution_options(yield_per=1000)):
        yield Withdrawal("image", str(id_), str(tenant), at)
    keys = select(ApiKey.prefix, ApiKey.tenant_id, ApiKey.revoked_at).where(ApiKey.revoked_at > since)
    for prefix, tenant, at in session.execute(keys):
        yield Withdrawal("key", prefix, str(tenant), at)
    for id_, at in session.execute(select(User.id, User.disabled_at).where(User.disabled_at > since)):
        yield Withdrawal("account", str(id_), None, at)
    yield from _let_go(session, since)
    yield from _consent(session, since)
    for kind, table in _DISABLED.items():
        query = select(table.id, table.tenant_id, table.disabled_at).where(table.disabled_at > since)
        for id_, tenant, at in session.execute(query):
            yield Withdrawal(kind, str(id_), str(tenant), at)


def _let_go(session: Session, since: datetime) -> Iterator[Withdrawal]:
    """People who were members of a tenant, and are not now."""
    removed = select(Event.tenant_id, Event.before["user"].astext.label("email"), Event.created_at).where(
        Event.type == EventType.MEMBER_REMOVED, Event.created_at > since
    )
    by_email = removed.subquery()
    still = select(Membership).where(Membership.user_id == User.id, Membership.tenant_id == by_email.c.tenant_id)
    query = select(User.id, by_email.c.tenant_id, by_email.c.created_at).join(by_email, by_email.c.email == User.email)
    for id_, tenant, at in session.execute(query.where(~still.exists())):
        yield Withdrawal("member", str(id_), str(tenant), at)


def _consent(session: Session, since: datetime) -> Iterator[Withdrawal]:
    """Platforms whose images were for training, and are not now; one that never allowed it has nothing to take back."""
    ended = (
        select(Tenant.id, func.max(Event.created_at))
        .join(Event, Event.tenant_id == Tenant.id)
        .where(~Tenant.allow_training, Event.type == EventType.TENANT_CHANGED, Event.created_at > since)
        .where(Event.after["allow_training"].astext == "false")
        .group_by(Tenant.id)
    )
    for id_, at in session.execute(ended):
        yield Withdrawal("consent", str(id_), str(id_), at)


def _given_back(session: Session, each: Withdrawal) -> bool:
    """Whether it is as it was before: somebody has their account again, an endpoint was enabled."""
    if each.kind in _DISABLED:
        row = session.get(_DISABLED[each.kind], UUID(each.id))
        return row is not None and row.disabled_at is None
    if each.kind == "consent":
        tenant = session.get(Tenant, UUID(each.id))
        return tenant is not None and tenant.allow_training
    if each.kind == "account":
        user = session.get(User, UUID(each.id))
        return user is not None and user.disabled_at is None
    if each.kind == "member" and each.tenant is not None:
        return session.get(Membership, (UUID(each.id), UUID(each.tenant))) is not None
    return False


@dataclass(frozen=True)
class Repeated:
    """What a restore took back once more, by kind, and what it could not, with the reasons."""

    done: dict[str, int]
    refused: list[str]


def repeat(all_: Iterable[Withdrawal]) -> Repeated:
    """Take all of it back once more; what this database does not know, or has taken back, is passed over."""
    done, refused = dict.fromkeys(_AGAIN, 0), list[str]()
    for each in sorted(all_):
        try:
            with transaction() as session:
                done[each.kind] += _AGAIN[each.kind](session, each)
        except NotFound:
            continue  # it came, and went, after the backup was made
        except Conflict as error:
            refused.append(f"{each.kind} {each.id}: {error.message}")
    return Repeated(done, refused)


def _image(session: Session, each: Withdrawal) -> bool:
    image = session.get(Image, UUID(each.id))
    if image is None or image.forgotten_at is not None:
        return False
    erasure.erase(session, image.tenant_id, image.id, actor=ACTOR, request_id=None)
    return True


def _key(session: Session, each: Withdrawal) -> bool:
    key = session.scalar(select(ApiKey).where(ApiKey.prefix == each.id, ApiKey.revoked_at.is_(None)))
    if key is not None:
        tenants.revoke(session, key, actor=ACTOR)
    return key is not None


def _account(session: Session, each: Withdrawal) -> bool:
    user = session.get(User, UUID(each.id))
    if user is None or user.disabled_at is not None:
        return False
    accounts.disable(session, user, actor=ACTOR)
    members.give_back_all(session, user.id, actor=ACTOR)
    return True


def _member(session: Session, each: Withdrawal) -> bool:
    members.remove(session, UUID(each.tenant), UUID(each.id), actor=ACTOR)
    return True


def _consent_again(session: Session, each: Withdrawal) -> bool:
    tenant = session.get(Tenant, UUID(each.id))
    return tenant is not None and bool(
        tenants.change_tenant(session, tenant.id, {"allow_training": False}, actor=ACTOR)
    )


def _endpoint(session: Session, each: Withdrawal) -> bool:
    endpoint = session.get(Endpoint, UUID(each.id))
    if endpoint is None or endpoint.disabled_at is not None:
        return False
    endpoints.disable(session, endpoint, "It was disabled after the backup was made.", actor=ACTOR)
    return True


def _source(session: Session, each: Withdrawal) -> bool:
    source = session.get(Source, UUID(each.id))
    if source is None or source.disabled_at is not None:
        return False
    sources.disable(session, source, actor=ACTOR)
    return True


_AGAIN: dict[str, Callable[[Session, Withdrawal], bool]] = {
    "image": _image,
    "key": _key,
    "account": _account,
    "member": _member,
    "consent": _consent_again,
    "endpoint": _endpoint,
    "source": _source,
}
