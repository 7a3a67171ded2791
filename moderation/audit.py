"""Reading the audit trail of one tenant: who did what and when, and how it was before and after.

Newest first, by time and id (keyset paging). Those who acted are shown by name: people by address, keys and sources by
what they are called. Of a case of which something is hidden from whoever reads (moderation/sights.py), an event that
would tell it is there, without who did it and what it changed. It writes nothing; events are written by
moderation/events.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from moderation import sights
from moderation.accounts import Person
from moderation.db import storable, transaction
from moderation.tables import ApiKey, Event, Source, User
from moderation.vocabulary import EventType

# Rows read at once where all are read.
BATCH = 500
# What of an event is a person. Anything else is as it was typed, though it may look like one's id.
PEOPLE = ("assigned_to", "claimed_by")


@dataclass(frozen=True)
class Filter:
    """Which events: `actor` is an address, the name or prefix of a key, a source's name, or a word such as `worker`."""

    type_: EventType | None = None
    actor: str | None = None
    case_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Place:
    """Where in the order an event is."""

    at: datetime
    event_id: UUID


@dataclass(frozen=True)
class Change:
    """One thing that an event says; `before` or `after` is None where it was not there, or not said."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Entry:
    """One event; `actor` is who it was, by name. `veiled`: it says neither that nor what changed, for now."""

    event: Event
    actor: str
    changes: tuple[Change, ...]
    veiled: bool = False

    @property
    def place(self) -> Place:
        """Where it is in the order, so that the next page begins after it."""
        return Place(self.event.created_at, self.event.id)


def page(
    session: Session, person: Person, tenant_id: UUID, filter_: Filter, *, after: Place | None = None, limit: int
) -> list[Entry]:
    """The tenant's events from just after a place on, newest first, as this person may read them."""
    wanted = _wanted(session, tenant_id, filter_)
    entries: list[Entry] = []
    while len(entries) < limit:
        found = _read(session, wanted, after, limit)
        # To find what somebody did is to be told who did it.
        entries += [entry for entry in _entries(session, person, found) if filter_.actor is None or not entry.veiled]
        if len(found) < limit:
            break
        after = Place(found[-1].created_at, found[-1].id)
    return entries[:limit]


def every(person: Person, tenant_id: UUID, filter_: Filter) -> Iterator[Entry]:
    """All of them, read in batches: however many there are, few are in memory, and no transaction is long."""
    after = None
    while True:
        with transaction() as session:
            batch = page(session, person, tenant_id, filter_, after=after, limit=BATCH)
        yield from batch
        if len(batch) < BATCH:
            return
        after = batch[-1].place


def _wanted(session: Session, tenant_id: UUID, filter_: Filter) -> Select[Event]:
    query = select(Event).where(Event.tenant_id == tenant_id)
    if filter_.type_ is not None:
        query = query.where(Event.type == filter_.type_)
    if filter_.actor:
        query = query.where(Event.actor.in_(_actors(session, tenant_id, storable(filter_.actor))))
    if filter_.case_id is not None:
        query = query.where(Event.case_id == filter_.case_id)
    if filter_.since is not None:
        query = query.where(Event.created_at >= filter_.since)
    if filter_.until is not None:
        query = query.where(Event.created_at < filter_.until)
    return query


def _read(session: Session, wanted: Select[Event], after: Place | None, limit: int) -> Sequence[Event]:
    if after is not None:
        wanted = wanted.where(tuple_(Event.created_at, Event.id) < tuple_(after.at, after.event_id))
    return session.scalars(wanted.order_by(Event.created_at.desc(), Event.id.desc()).limit(limit)).all()


def _entries(session: Session, person: Person, events: Sequence[Event]) -> list[Entry]:
    names, veiled = _names(session, events), sights.veiled(session, person, events)
    return [
        Entry(event, "", (), veiled=True)
        if event.id in veiled
        else Entry(event, names.get(event.actor, event.actor), _changes(event, names))
        for event in events
    ]


def _actors(session: Session, tenant_id: UUID, term: str) -> list[str]:
    """What events call those whom this name may mean."""
    users = session.scalars(select(User.id).where(User.email == term.lower()))
    called = (ApiKey.name == term) | (ApiKey.prefix == term)
    keys = session.scalars(select(ApiKey.id).where(ApiKey.tenant_id == tenant_id, called))
    sources = session.scalars(select(Source.id).where(Source.tenant_id == tenant_id, Source.name == term))
    named = {"user": users, "api_key": keys, "source": sources}
    return [term, *(f"{kind}:{id_}" for kind, ids in named.items() for id_ in ids)]


def who(session: Session, actors: Iterable[str]) -> dict[str, str]:
    """Whom `user:<id>` stands for, by address; of all else, what it says."""
    said = set(actors)
    ids = {UUID(actor.removeprefix("user:")) for actor in said if actor.startswith("user:")}
    known = {f"user:{user.id}": user.email for user in session.scalars(select(User).where(User.id.in_(ids)))}
    return {actor: known.get(actor, actor) for actor in said}


def _names(session: Session, events: Sequence[Event]) -> dict[str, str]:
    """The names of all who are spoken of in these events, by what events call them."""
    said = {event.actor for event in events}
    for event in events:
        for values in (event.before or {}, event.after or {}):
            said.update(values[name] for name in PEOPLE if values.get(name))
    users = session.scalars(select(User).where(User.id.in_(_ids(said, "user"))))
    keys = session.scalars(select(ApiKey).where(ApiKey.id.in_(_ids(said, "api_key"))))
    sources = session.scalars(select(Source).where(Source.id.in_(_ids(said, "source"))))
    return {
        **{f"user:{user.id}": user.email for user in users},
        **{f"api_key:{key.id}": f"key {key.name} ({key.prefix})" for key in keys},
        **{f"source:{source.id}": f"source {source.name}" for source in sources},
    }


def _ids(said: set[str], kind: str) -> list[UUID]:
    parts = [value.partition(":") for value in said]
    return [id_ for name, _, rest in parts if name == kind and (id_ := _as_id(rest)) is not None]


def _as_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _changes(event: Event, names: dict[str, str]) -> tuple[Change, ...]:
    before, after = event.before or {}, event.after or {}
    return tuple(Change(name, _named(before, name, names), _named(after, name, names)) for name in {**before, **after})


def _named(values: dict[str, Any], name: str, names: dict[str, str]) -> Any:
    value: Any = values.get(name)
    return names.get(value, value) if name in PEOPLE else value
