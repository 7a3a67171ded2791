"""Finds work in state and offers it: which cases, deliveries and explanations the broker should be told of now.

This is the only way anything is enqueued. An offer is a short lease of the relay's (`offered_until`): if nobody takes
the work in that time, because the broker was emptied or a worker died, it is offered again. The module knows neither
the broker nor what is done with the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from uuid import UUID

import psycopg
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from moderation.db import RELAY_NAME
from moderation.tables import WAITING
from moderation.vocabulary import CaseStatus

SCREENING = (CaseStatus.QUEUED, CaseStatus.SCREENING)
FETCHING = (CaseStatus.FETCHING,)
# Any constant: the first half of the advisory locks that relays take.
RELAY_LOCK = 4_207_312

# What nobody was told of a moment ago, and nobody is at work on.
_FREE = "(offered_until IS NULL OR offered_until <= now()) AND (lease_until IS NULL OR lease_until <= now())"
# An errand (tables.Asked) that can be done now.
_ERRAND_DUE = f"failed_at IS NULL AND next_attempt_at <= now() AND {_FREE}"

# Offered and not yet taken: what the broker holds. It bounds how long an urgent case waits behind what was sent before.
_OFFERED = text(
    f"""
    SELECT count(*) FROM cases
    WHERE {WAITING} AND status = ANY(:statuses) AND offered_until > now()
    """
)

# Tenants in turn (a tenant's turns already in flight count), then priority, then age. The lateral join reads at most
# :free rows of each tenant, however long its queue is; and only of those that have one, each found from the one before
# it in the index, so that many platforms of which few send cost little.
_OFFER_CASES = text(
    f"""
    WITH RECURSIVE queueing AS (
        (SELECT tenant_id FROM cases WHERE {WAITING} ORDER BY tenant_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT tenant_id FROM cases
            WHERE {WAITING} AND tenant_id > queueing.tenant_id
            ORDER BY tenant_id LIMIT 1
        ) FROM queueing WHERE tenant_id IS NOT NULL
    ), in_flight AS (
        SELECT tenant_id, count(*) AS n FROM cases
        WHERE {WAITING} AND status = ANY(:statuses)
          AND (offered_until > now() OR lease_until > now())
        GROUP BY tenant_id
    ), due AS (
        SELECT c.id, c.priority, c.queued_at, c.turn + coalesce(f.n, 0) AS turn
        FROM queueing t
        LEFT JOIN in_flight f ON f.tenant_id = t.tenant_id
        CROSS JOIN LATERAL (
            SELECT id, priority, queued_at, row_number() OVER (ORDER BY priority DESC, queued_at, id) AS turn
            FROM (
                SELECT id, priority, queued_at FROM cases
                WHERE tenant_id = t.tenant_id
                  AND {WAITING} AND status = ANY(:statuses)
                  AND next_attempt_at <= now()
                  AND {_FREE}
                ORDER BY priority DESC, queued_at, id
                LIMIT :free
            ) ahead
        ) c
        ORDER BY turn, c.priority DESC, c.queued_at, c.id
        LIMIT :free
    ), locked AS (
        SELECT cases.id, due.turn, due.priority, due.queued_at FROM cases JOIN due USING (id)
        -- Asked again of the row as it is once locked: a worker may have taken or settled it since it was read.
        WHERE status = ANY(:statuses) AND (lease_until IS NULL OR lease_until <= now())
        ORDER BY due.turn, due.priority DESC, due.queued_at
        FOR UPDATE OF cases SKIP LOCKED
    ), offered AS (
        UPDATE cases SET offered_until = now() + :lease FROM locked WHERE cases.id = locked.id
        RETURNING cases.id, locked.turn, locked.priority, locked.queued_at
    )
    SELECT id FROM offered ORDER BY turn, priority DESC, queued_at, id
    """
)

# Part of a WITH RECURSIVE: endpoints that have something pending. Of the others none is read, as of tenants above.
PENDING = """pending AS (
        (SELECT endpoint_id FROM deliveries WHERE status = 'pending' ORDER BY endpoint_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT endpoint_id FROM deliveries
            WHERE status = 'pending' AND endpoint_id > pending.endpoint_id
            ORDER BY endpoint_id LIMIT 1
        ) FROM pending WHERE endpoint_id IS NOT NULL
    )"""
# Which endpoints are sent to at all.
OPEN = "disabled_at IS NULL AND (paused_until IS NULL OR paused_until <= now())"
# At most :per_endpoint of one endpoint's deliveries are under way, so that a slow endpoint holds up only itself.
_OFFER_DELIVERIES = text(
    f"""
    WITH RECURSIVE {PENDING}, due AS (
        SELECT d.id FROM pending
        JOIN endpoints e ON e.id = pending.endpoint_id
        CROSS JOIN LATERAL (
            SELECT greatest(:per_endpoint - count(*), 0) AS free FROM deliveries
            WHERE endpoint_id = e.id AND status = 'pending' AND (offered_until > now() OR lease_until > now())
        ) room
        CROSS JOIN LATERAL (
            SELECT id FROM deliveries
            WHERE endpoint_id = e.id AND status = 'pending' AND next_attempt_at <= now()
              AND {_FREE}
            ORDER BY next_attempt_at, id
            LIMIT room.free
        ) d
        WHERE {OPEN}
    ), locked AS (
        SELECT id FROM deliveries
        -- Each by its id: the planner guesses that more are due than are, and would join with all deliveries there are.
        WHERE id = ANY(ARRAY(SELECT id FROM due))
          AND status = 'pending' AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until <= now())
        FOR UPDATE OF deliveries SKIP LOCKED
    )
    UPDATE deliveries SET offered_until = now() + :lease WHERE id = ANY(ARRAY(SELECT id FROM locked))
    RETURNING id
    """
)


# Answers of moderators whose ten seconds are over (moderation/reviews.py).
_OFFER_ANSWERS = text(
    """
    WITH due AS (
        SELECT id FROM cases
        WHERE answer_due <= now() AND (offered_until IS NULL OR offered_until <= now())
        ORDER BY answer_due
        LIMIT :window
        FOR UPDATE SKIP LOCKED
    )
    UPDATE cases SET offered_until = now() + :lease FROM due WHERE cases.id = due.id
    RETURNING cases.id
    """
)

# Verdicts whose explanation somebody asked for (moderation/explanations.py).
_OFFER_EXPLANATIONS = text(
    f"""
    WITH due AS (
        SELECT verdict_id FROM explanation_requests
        WHERE {_ERRAND_DUE}
        ORDER BY next_attempt_at
        LIMIT :window
        FOR UPDATE SKIP LOCKED
    )
    UPDATE explanation_requests SET offered_until = now() + :lease FROM due
    WHERE explanation_requests.verdict_id = due.verdict_id
    RETURNING explanation_requests.verdict_id
    """
)


def _few_at_a_time(table: str, key: str, unless: str = "") -> TextClause:
    """An offer of errands of which the broker is to hold :window at most."""
    return text(
        f"""
        WITH under_way AS (
            SELECT count(*) AS n FROM {table}
            WHERE failed_at IS NULL AND (offered_until > now() OR lease_until > now())
        ), due AS (
            SELECT {key} FROM {table}
            WHERE {_ERRAND_DUE} {unless}
            ORDER BY next_attempt_at, {key}
            LIMIT greatest(:window - (SELECT n FROM under_way), 0)
            FOR UPDATE SKIP LOCKED
        )
        UPDATE {table} SET offered_until = now() + :lease FROM due WHERE {table}.{key} = due.{key}
        RETURNING {table}.{key}
        """
    )


# Cases that are to be judged by a new version too, while no new case waits: a few, so that one that comes then waits
# for no more than about one batch of them.
REJUDGING_WINDOW = 8
_OFFER_REJUDGINGS = _few_at_a_time(
    "rejudgings",
    "case_id",
    unless=f"""
          AND NOT EXISTS (
            SELECT FROM cases
            WHERE {WAITING} AND status <> 'fetching' AND next_attempt_at <= now()
              AND (lease_until IS NULL OR lease_until <= now())
          )
    """,
)

# Notices that are to be mailed (moderation/mail.py): few at a time, so that a mail server that hangs holds up no more.
MAIL_WINDOW = 2
_OFFER_MAILS = _few_at_a_time("notice_mails", "notice_id")

# Whether there is anything of each kind of work that an offer could be made of, in the order of `Work`. One look, a few
# times a second and at each bell, in place of a transaction and a question to the broker for each kind that has none.
_DUE = f"""
    SELECT
        EXISTS (SELECT FROM explanation_requests WHERE {_ERRAND_DUE}) AS explanations,
        EXISTS (
            SELECT FROM cases WHERE {WAITING} AND status <> 'fetching' AND next_attempt_at <= now() AND {_FREE}
        ) AS screening,
        EXISTS (
            SELECT FROM cases WHERE {WAITING} AND status = 'fetching' AND next_attempt_at <= now() AND {_FREE}
        ) AS fetching,
        EXISTS (
            SELECT FROM cases
            WHERE answer_due <= now() AND (offered_until IS NULL OR offered_until <= now())
        ) AS answers,
        EXISTS (
            SELECT FROM endpoints WHERE {OPEN} AND EXISTS (
                SELECT FROM deliveries
                WHERE endpoint_id = endpoints.id AND status = 'pending' AND next_attempt_at <= now() AND {_FREE}
            )
        ) AS deliveries,
        EXISTS (SELECT FROM rejudgings WHERE {_ERRAND_DUE}) AS rejudgings,
        EXISTS (SELECT FROM notice_mails WHERE {_ERRAND_DUE}) AS mails
"""
# Where offers are made: the tables, and what their rows are known by.
OFFERED = {
    "cases": "id",
    "deliveries": "id",
    "explanation_requests": "verdict_id",
    "rejudgings": "case_id",
    "notice_mails": "notice_id",
}

# What lines in the log are about that speak of rows which were offered; of the other tables' there is no one request.
_ABOUT_CASES = """
    SELECT c.id, c.id::text AS case_id, c.tenant_id::text AS tenant_id, nullif(s.request_id, '') AS request_id
    FROM cases c JOIN submissions s ON s.id = c.submission_id
    WHERE c.id = ANY(:ids)
"""
_ABOUT = {
    "cases": text(_ABOUT_CASES),
    "rejudgings": text(_ABOUT_CASES),
    "deliveries": text(
        """
        SELECT d.id, d.id::text AS delivery_id, e.case_id::text AS case_id, e.tenant_id::text AS tenant_id, e.request_id
        FROM deliveries d JOIN events e ON e.id = d.event_id
        WHERE d.id = ANY(:ids)
        """
    ),
}


class Work(StrEnum):
    """The kinds of work that offers are made of."""

    EXPLANATIONS = "explanations"
    SCREENING = "screening"
    FETCHING = "fetching"
    ANSWERS = "answers"
    DELIVERIES = "deliveries"
    REJUDGINGS = "rejudgings"
    MAILS = "mails"


def due(look: psycopg.Connection) -> set[Work]:
    """Of which kinds something may be offered now; whether there is room for it, the offer itself will see.

    On a connection of its own, without transactions: through the pool and SQLAlchemy it would take ten times as long.
    """
    found = look.execute(_DUE).fetchone()
    assert found is not None
    return {work for work, is_due in zip(Work, found, strict=True) if is_due}


def offer_cases(session: Session, statuses: Sequence[CaseStatus], *, window: int, lease: timedelta) -> list[UUID]:
    """Offer as many due cases as the window has room for; ids in the order they should run.

    None while another relay is at the same work.
    """
    values = [status.value for status in statuses]
    if not _alone(session, f"cases {values}"):
        return []
    free = window - session.execute(_OFFERED, {"statuses": values}).scalar_one()
    if free <= 0:
        return []
    rows = session.execute(_OFFER_CASES, {"statuses": values, "free": free, "lease": lease})
    return list(rows.scalars())


def offer_deliveries(session: Session, *, per_endpoint: int, lease: timedelta) -> list[UUID]:
    """Offer the due deliveries of every endpoint that is neither disabled nor paused; none while another relay does."""
    if not _alone(session, "deliveries"):
        return []
    rows = session.execute(_OFFER_DELIVERIES, {"per_endpoint": per_endpoint, "lease": lease})
    return list(rows.scalars())


def offer_answers(session: Session, *, window: int, lease: timedelta) -> list[UUID]:
    """Offer the cases whose answer takes effect now; none while another relay does."""
    if not _alone(session, "answers"):
        return []
    return list(session.execute(_OFFER_ANSWERS, {"window": window, "lease": lease}).scalars())


def offer_explanations(session: Session, *, window: int, lease: timedelta) -> list[UUID]:
    """Offer the verdicts that are to be explained, the longest due first; none while another relay does."""
    if not _alone(session, "explanations"):
        return []
    return list(session.execute(_OFFER_EXPLANATIONS, {"window": window, "lease": lease}).scalars())


def offer_rejudgings(session: Session, *, lease: timedelta) -> list[UUID]:
    """Offer cases to be judged by the champion too, unless a new case waits; none while another relay does."""
    if not _alone(session, "rejudgings"):
        return []
    rows = session.execute(_OFFER_REJUDGINGS, {"window": REJUDGING_WINDOW, "lease": lease})
    return list(rows.scalars())


def offer_mails(session: Session, *, lease: timedelta) -> list[UUID]:
    """Offer the notices that are to be mailed, the longest due first; none while another relay does."""
    if not _alone(session, "mails"):
        return []
    return list(session.execute(_OFFER_MAILS, {"window": MAIL_WINDOW, "lease": lease}).scalars())


def _alone(session: Session, work: str) -> bool:
    """Whether no other relay is making offers of this work, from now until the commit.

    Two that read the same state would each fill the window, and offer the same rows.
    """
    query = text("SELECT pg_try_advisory_xact_lock(:relay, hashtext(:work))")
    return bool(session.execute(query, {"relay": RELAY_LOCK, "work": work}).scalar_one())


def withdraw(session: Session, table: str, ids: Sequence[UUID]) -> None:
    """Take back offers the broker did not accept, so that they are made again at the next turn."""
    if table not in OFFERED:
        raise ValueError(f"no offers are made on {table}")
    query = text(f"UPDATE {table} SET offered_until = NULL WHERE {OFFERED[table]} = ANY(:ids)")
    session.execute(query, {"ids": list(ids)})


def last_signs(session: Session) -> list[float]:
    """How many seconds ago each relay that is connected gave its last sign of life, the most recent one first."""
    signs = text(
        """
        SELECT extract(epoch FROM clock_timestamp() - state_change)::float AS ago FROM pg_stat_activity
        WHERE application_name = :relay AND datname = current_database() AND state_change IS NOT NULL
        ORDER BY ago
        """
    )
    return list(session.execute(signs, {"relay": RELAY_NAME}).scalars())


def about(session: Session, table: str, ids: Sequence[UUID]) -> dict[UUID, dict[str, str]]:
    """What is said in the log of each row that was offered: its request, its case, its tenant; nothing of some."""
    query = _ABOUT.get(table)
    if query is None or not ids:
        return {}
    rows = session.execute(query, {"ids": list(ids)}).mappings()
    return {row["id"]: {name: said for name, said in row.items() if name != "id" and said} for row in rows}
