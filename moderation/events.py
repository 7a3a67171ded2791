"""Events: the audit trail, and whoever is to be told of it.

An event, the delivery rows of the endpoints that want it, and what else is to be written with it are one statement in
the caller's transaction. This module knows nothing of cases; it is told what to record. The trail is read by
moderation/audit.py, and deliveries are sent by moderation/attempts.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, bindparam, text
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from moderation.db import new_id
from moderation.tables import Event
from moderation.vocabulary import OUTBOUND, EventType

# Whose schema events are of; /v1 of the API shows the same.
API_VERSION = "v1"


@dataclass(frozen=True)
class Rows:
    """Rows that are written in the same statement as an event: parts of its WITH, and their values."""

    parts: str
    values: Mapping[str, Any]
    # How JSON is stored and the like, where a value does not tell.
    types: Mapping[str, TypeEngine[Any]] = field(default_factory=dict)

    def __add__(self, more: Rows) -> Rows:
        """Both; what they call the same is the same."""
        return Rows(f"{self.parts}, {more.parts}", {**self.values, **more.values}, {**self.types, **more.types})


def record(
    session: Session,
    type_: EventType,
    *,
    tenant_id: UUID | None,
    actor: str,
    case_id: UUID | None = None,
    sequence: int | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    request_id: str | None = None,
    along: Rows | None = None,
    flush: bool = True,
) -> UUID:
    """Write an event and, for each of the tenant's endpoints that wants it, a delivery; the event's id.

    In the caller's transaction, after what else is to be written there (unless `flush` says that it has time), and in
    one statement with the rows of `along`.
    """
    if flush:
        session.flush()
    event_id = new_id()
    values = {
        "event": event_id,
        "event_tenant": tenant_id,
        "event_case": case_id,
        "event_sequence": sequence,
        "event_type": type_.value,
        "event_actor": actor,
        "event_before": before,
        "event_after": after,
        "event_data": data,
        "event_request": request_id,
    }
    told = _NOBODY if type_ not in OUTBOUND else _EVERYBODY if tenant_id is None else _THE_TENANT
    types = tuple(along.types.items()) if along else ()
    statement = _recording(along.parts if along else "", told, types)
    session.connection().execute(statement, {**values, **(along.values if along else {})})
    return event_id


_EVENT = """event AS (
    INSERT INTO events (id, tenant_id, case_id, sequence, type, actor, before, after, data, request_id)
    VALUES (:event, :event_tenant, :event_case, :event_sequence, :event_type, :event_actor, :event_before, :event_after,
            :event_data, :event_request)
)"""
_EVENT_TYPES = {"event_before": Event.before.type, "event_after": Event.after.type, "event_data": Event.data.type}
_NOBODY = "SELECT"
_EVERYBODY = """INSERT INTO deliveries (id, event_id, endpoint_id)
SELECT uuidv7(), :event, id FROM endpoints
WHERE disabled_at IS NULL AND (cardinality(event_types) = 0 OR :event_type = ANY (event_types))"""
_THE_TENANT = f"{_EVERYBODY} AND tenant_id = :event_tenant"


def of_each(rows: str) -> str:
    """A part of a WITH: an event of `:event_type`, by `:event_actor`, for each row of another part.

    That has tenant_id, case_id, sequence, request_id, and before and after as JSON. Nobody is told.
    """
    return f"""event AS (
    INSERT INTO events (id, tenant_id, case_id, sequence, type, actor, before, after, request_id)
    SELECT uuidv7(), tenant_id, case_id, sequence, :event_type, :event_actor, before, after, request_id FROM {rows}
)"""


@cache
def _recording(parts: str, told: str, types: tuple[tuple[str, TypeEngine[Any]], ...]) -> TextClause:
    rows = f"{parts}, {_EVENT}" if parts else _EVENT
    typed = {**_EVENT_TYPES, **dict(types)}
    return text(f"WITH {rows} {told}").bindparams(*(bindparam(name, type_=type_) for name, type_ in typed.items()))


def payload(event: Event | Row[Any]) -> bytes:
    """The body that is signed and sent, under 20 kB for every event recorded here."""
    body = {
        "type": event.type,
        "api_version": API_VERSION,
        "timestamp": event.created_at.isoformat(),
        "data": event.data,
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
