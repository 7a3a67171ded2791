"""The delivery task: one attempt, written once, and no transaction open while somebody else's server takes its time."""

from __future__ import annotations

import http.server
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from moderation import attempts, endpoints, keyring, outbound
from moderation import db as db_module
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Delivery, DeliveryAttempt
from moderation.vocabulary import DeliveryStatus
from tests.factories import make_endpoint, make_tenant
from tests.measuring import value
from tests.moderation.test_outbound import serving
from workers import delivery, keys


def open_transactions() -> list[str]:
    """What other connections of this database hold open while they do nothing."""
    query = (
        "SELECT query FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' "
        "AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    with transaction() as session:
        return list(session.scalars(text(query)).all())


def attempts_made(outcome: str) -> float:
    return value("telltale_delivery_attempts_total", outcome=outcome)


def lags() -> float:
    return value("telltale_delivery_lag_seconds_count")


@pytest.mark.parametrize(("status", "becomes"), [(204, DeliveryStatus.DELIVERED), (500, DeliveryStatus.PENDING)])
def test_one_task_is_one_attempt(
    db: Engine, monkeypatch: pytest.MonkeyPatch, status: int, becomes: DeliveryStatus
) -> None:
    seen_open: list[list[str]] = []

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        seen_open.append(open_transactions())
        request.send_response(status)
        request.end_headers()

    with serving(handle) as server:
        delivery_id = pinged(server.url())
        allowed = settings().model_copy(update={"allowed_hosts": (f"127.0.0.1:{server.port}",)})
        monkeypatch.setattr(delivery, "settings", lambda: allowed)
        monkeypatch.setattr(attempts, "SCHEDULE", (timedelta(0), timedelta(hours=1)))
        word = "delivered" if status == 204 else "refused"
        before = attempts_made(word), lags()
        for _ in range(2):
            delivery.deliver(str(delivery_id))
    assert (attempts_made(word) - before[0], lags() - before[1]) == (1, 1 if word == "delivered" else 0)
    assert seen_open == [[]], "called once, and no transaction was open meanwhile"
    with transaction() as session:
        row: Any = session.get_one(Delivery, delivery_id)
        assert (row.status, row.attempts, row.lease_until) == (becomes, 1, None)
        assert session.scalars(select(DeliveryAttempt.response_status)).all() == [status]


def test_a_worker_that_must_stop_gives_back_what_is_not_answered(db: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the same id, at once and as the same attempt; what comes of the one that was cut off is not written."""

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        delivery.departure.leave()
        request.send_response(500)
        request.end_headers()

    ended: list[int] = []
    monkeypatch.setattr(delivery.departure, "_end", ended.append)
    with serving(handle) as server:
        delivery_id = pinged(server.url())
        allowed = settings().model_copy(update={"allowed_hosts": (f"127.0.0.1:{server.port}",)})
        monkeypatch.setattr(delivery, "settings", lambda: allowed)
        delivery.deliver(str(delivery_id))
    with transaction() as session:
        row = session.get_one(Delivery, delivery_id)
        assert (row.status, row.attempts, row.lease_until) == (DeliveryStatus.PENDING, 0, None)
        assert row.next_attempt_at <= datetime.now(UTC)
        assert session.scalars(select(DeliveryAttempt.id)).all() == []
    assert ended == [0]


def test_what_was_sent_while_the_database_went_away_is_not_sent_again(
    db: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, away, sent = attempts.settle, [OperationalError("UPDATE", {}, OSError("starting up"))], []

    def settled(*args: Any) -> Delivery | None:
        if away:
            raise away.pop()
        return settle(*args)

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        sent.append(request.path)
        request.send_response(204)
        request.end_headers()

    monkeypatch.setattr(attempts, "settle", settled)
    monkeypatch.setattr(db_module, "INSIST_EVERY_S", 0.01)
    with serving(handle) as server:
        delivery_id = pinged(server.url())
        allowed = settings().model_copy(update={"allowed_hosts": (f"127.0.0.1:{server.port}",)})
        monkeypatch.setattr(delivery, "settings", lambda: allowed)
        for _ in range(2):
            delivery.deliver(str(delivery_id))
    with transaction() as session:
        assert session.get_one(Delivery, delivery_id).status is DeliveryStatus.DELIVERED
    assert len(sent) == 1


def test_a_defect_of_ours_is_a_failed_attempt_and_the_schedule_applies(
    db: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(outbound, "post", broken)
    delivery_id = pinged("https://example.com/hook")
    began = datetime.now(UTC)
    delivery.deliver(str(delivery_id))
    with transaction() as session:
        row: Any = session.get_one(Delivery, delivery_id)
        assert (row.status, row.attempts, row.lease_until) == (DeliveryStatus.PENDING, 1, None)
        assert row.next_attempt_at >= began + attempts.SCHEDULE[1]
        assert session.scalars(select(DeliveryAttempt.error)).all() == ["ZeroDivisionError"]
    assert "ZeroDivisionError: a defect" in caplog.text


@pytest.mark.parametrize("busiest", ["screening_threads", "delivery_threads", "api_threads"])
def test_every_thread_of_a_process_finds_a_connection(monkeypatch: pytest.MonkeyPatch, busiest: str) -> None:
    rules = settings().model_copy(update={busiest: 40})
    monkeypatch.setattr(db_module, "settings", lambda: rules)
    pool: Any = db_module.engine.__wrapped__().pool
    assert pool.size() == 44


def test_a_database_that_is_away_when_it_starts_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery would log it and serve on, and nobody know whether it can open the secrets that it needs."""

    def away(_: Session) -> None:
        raise OperationalError("SELECT", {}, OSError("the database system is starting up"))

    monkeypatch.setattr(keyring, "check", away)
    with pytest.raises(SystemExit):
        keys.refuse_without_keys()


def test_a_delivery_that_is_not_there_is_no_error(db: Engine) -> None:
    delivery.deliver("01900000-0000-7000-8000-000000000000")


def pinged(url: str) -> UUID:
    with transaction() as session:
        return endpoints.ping(session, make_endpoint(session, make_tenant(session), url)).id
