"""`/dashboard/platforms/{id}/audit`: everything that was done for a platform, by whom, as a page and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, render_template, request

from api.auth import requires_role
from api.dashboard import filters
from api.dashboard.access import person
from api.dashboard.queue import id_in
from moderation import audit, members
from moderation.audit import Entry, Filter, Place
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.spreadsheets import inert
from moderation.vocabulary import EventType, Role

pages = Blueprint("audit", __name__)

PAGE = 50
# Who acts beside people, keys and sources.
MACHINES = ("policy", "worker", "delivery", "operator")
COLUMNS = ("time", "event", "actor", "case", "before", "after", "request_id", "id")
# Instead of who and what, where that would tell what is hidden from whoever reads.
VEILED = "shown when the case is answered"


@pages.get("/dashboard/platforms/<uuid:tenant_id>/audit")
@requires_role(Role.LEAD)
def page(tenant_id: UUID) -> str:
    """The events, newest first, by filter."""
    filter_, after = _filter(request.args), _place(request.args.get("after"))
    with transaction() as session:
        found = audit.page(session, person(), tenant_id, filter_, after=after, limit=PAGE + 1)
        workers = members.workers_of(session, tenant_id)
    entries = found[:PAGE]
    return render_template(
        "audit/page.html",
        entries=entries,
        veiled=VEILED,
        types=_types(),
        actors=[worker.user.email for worker in workers] + list(MACHINES),
        filter=filter_,
        since=filters.field_value(filter_.since),
        until=filters.field_value(filter_.until),
        query=_as_query(filter_),
        first=after is None,
        following=_cursor(entries[-1].place) if len(found) > PAGE else None,
    )


@pages.get("/dashboard/platforms/<uuid:tenant_id>/audit.csv")
@requires_role(Role.LEAD)
def export(tenant_id: UUID) -> Response:
    """All that the filter leaves, however many pages, written as it is read."""
    entries = audit.every(person(), tenant_id, _filter(request.args))
    name = f"telltale-audit-{datetime.now(UTC):%Y-%m-%d}.csv"
    response = Response(_lines(entries), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _lines(entries: Iterator[Entry]) -> Iterator[str]:
    yield _line(COLUMNS)
    for entry in entries:
        event = entry.event
        before, after = (
            {c.name: value for c in entry.changes if (value := getattr(c, side)) is not None}
            for side in ("before", "after")
        )
        yield _line(
            (
                event.created_at.astimezone(UTC).isoformat(),
                event.type.value,
                VEILED if entry.veiled else entry.actor,
                event.case_id,
                _json(before),
                _json(after),
                event.request_id,
                event.id,
            )
        )


def _line(cells: tuple[Any, ...]) -> str:
    written = io.StringIO()
    csv.writer(written).writerow(["" if cell is None else inert(str(cell)) for cell in cells])
    return written.getvalue()


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) if values else ""


def _types() -> dict[str, list[EventType]]:
    """The types of events, by what they are of."""
    grouped: dict[str, list[EventType]] = {}
    for type_ in sorted(EventType):
        grouped.setdefault(type_.value.partition(".")[0], []).append(type_)
    return grouped


def _filter(sent: Mapping[str, str]) -> Filter:
    return Filter(
        type_=filters.word_in(sent, "type", EventType),
        actor=sent.get("actor", "").strip() or None,
        case_id=id_in(sent, "case"),
        since=filters.moment_in(sent, "since"),
        until=filters.moment_in(sent, "until"),
    )


def _as_query(filter_: Filter) -> dict[str, str]:
    return filters.as_query(
        type=filter_.type_, actor=filter_.actor, case=filter_.case_id, since=filter_.since, until=filter_.until
    )


def _cursor(place: Place) -> str:
    return f"{place.at.isoformat()}~{place.event_id}"


def _place(cursor: str | None) -> Place | None:
    """Raises InvalidRequest for a cursor that is not one of ours."""
    if cursor is None:
        return None
    at, _, event_id = cursor.partition("~")
    try:
        return Place(datetime.fromisoformat(at), UUID(event_id))
    except ValueError as error:
        raise InvalidRequest("This page of the log is not known: begin with the first.") from error
