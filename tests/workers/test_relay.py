"""The relay against a real broker and a real database: what it sends, and what it does when either is away or empty."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import Engine, create_engine, text

from infra.services import wait_until
from moderation import db as db_module
from moderation import explanations, schema, submissions
from moderation.db import listener, ring, transaction
from moderation.settings import Settings, settings
from moderation.submissions import Link, Request
from moderation.tables import Case, Tenant
from moderation.vocabulary import CaseStatus
from tests import factories
from tests.factories import make_case, make_tenant
from tests.leases import lapse
from tests.measuring import value
from workers import relay as relay_module
from workers.relay import Relay

QUEUES = ("screening", "fetching", "delivery")


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client
    # The server ends a relay's connection a moment after the relay; the next test looks for one of its own.
    wait_until(lambda: not listening(), "the end of every relay")


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return make_tenant(session)


def with_changes(**changes: Any) -> Settings:
    return settings().model_copy(update=changes)


def turn(relay: Relay) -> int:
    with listener() as look:
        return relay.turn(look)


def messages(broker: redis.Redis, queue: str) -> list[dict[str, Any]]:
    """What waits in a queue, the first to be taken first."""
    entries = broker.lrange(queue, 0, -1)
    assert isinstance(entries, list)
    return [json.loads(entry) for entry in reversed(entries)]


def ids_in(broker: redis.Redis, queue: str) -> list[str]:
    return [json.loads(base64.b64decode(message["body"]))[0][0] for message in messages(broker, queue)]


def offered(queue: str) -> float:
    return value("telltale_relay_offered_total", queue=queue)


def test_a_turn_sends_ids_to_the_queue_of_each_kind_of_work(tenant: Tenant, broker: redis.Redis) -> None:
    with transaction() as session:
        endpoint = factories.make_endpoint(session, tenant)
        link, image = make_case(session, tenant, CaseStatus.FETCHING), make_case(session, tenant)
        deliveries = [str(id_) for id_ in session.scalars(text("SELECT id FROM deliveries")).all()]
    before = offered("screening"), offered("delivery")
    assert turn(Relay(settings())) == 4
    assert (offered("screening") - before[0], offered("delivery") - before[1]) == (1, len(deliveries))
    assert (ids_in(broker, "fetching"), ids_in(broker, "screening")) == ([str(link.id)], [str(image.id)])
    assert sorted(ids_in(broker, "delivery")) == sorted(deliveries)
    assert endpoint.id not in deliveries
    tasks = {message["headers"]["task"] for queue in QUEUES for message in messages(broker, queue)}
    assert tasks == {"screening.screen", "fetching.fetch", "delivery.deliver"}
    assert turn(Relay(settings())) == 0, "what is offered is not offered again"


def test_an_explanation_that_was_asked_for_is_sent_before_the_cases_of_its_queue(
    tenant: Tenant, broker: redis.Redis
) -> None:
    with transaction() as session:
        waiting, decided = make_case(session, tenant), make_case(session, tenant, CaseStatus.DECIDED)
        explanations.ask(session, tenant.id, decided.id, actor="test")
    assert turn(Relay(settings())) == 2
    assert ids_in(broker, "screening") == [str(decided.verdict_id), str(waiting.id)]
    tasks = [message["headers"]["task"] for message in messages(broker, "screening")]
    assert tasks == ["screening.explain", "screening.screen"]
    assert turn(Relay(settings())) == 0


def test_a_message_holds_an_id_and_nothing_of_the_image_or_its_metadata(tenant: Tenant, broker: redis.Redis) -> None:
    with transaction() as session:
        case = make_case(session, tenant, details={"note": "MARKER"}, external_id="MARKER")
    turn(Relay(settings()))
    (message,) = messages(broker, "screening")
    assert json.loads(base64.b64decode(message["body"]))[:2] == [[str(case.id)], {}]
    assert "MARKER" not in json.dumps(message) + base64.b64decode(message["body"]).decode()
    assert message["headers"]["eta"] is None, "when to try again stands in rows, never in countdowns"


def test_messages_are_in_the_order_of_the_offers(tenant: Tenant, broker: redis.Redis) -> None:
    with transaction() as session:
        ids = [str(make_case(session, tenant).id) for _ in range(20)]
    turn(Relay(settings()))
    assert ids_in(broker, "screening") == ids


def test_what_the_broker_lost_is_sent_again(tenant: Tenant, broker: redis.Redis) -> None:
    with transaction() as session:
        case = make_case(session, tenant)
    relay = Relay(with_changes(offer_lease_s=600))
    turn(relay)
    broker.flushdb()
    assert turn(relay) == 0
    lapse()
    assert turn(relay) == 1
    assert ids_in(broker, "screening") == [str(case.id)]


def test_a_full_window_sends_nothing_more(tenant: Tenant, broker: redis.Redis) -> None:
    with transaction() as session:
        for _ in range(5):
            make_case(session, tenant)
    relay = Relay(with_changes(dispatch_window=3))
    assert [turn(relay), turn(relay)] == [3, 0]
    assert len(ids_in(broker, "screening")) == 3


def test_queues_nobody_empties_do_not_grow(tenant: Tenant, broker: redis.Redis) -> None:
    with transaction() as session:
        factories.make_endpoint(session, tenant)
        for status in (CaseStatus.QUEUED, CaseStatus.FETCHING) * 4:
            make_case(session, tenant, status)
    relay = Relay(with_changes(offer_lease_s=0.05, dispatch_window=3, deliveries_per_endpoint=3))
    for _ in range(6):
        turn(relay)
        time.sleep(0.06)
    assert [len(messages(broker, queue)) for queue in QUEUES] == [3, 3, 3]
    broker.flushdb()
    assert turn(relay) == 9, "an emptied broker has room"


@contextmanager
def broker_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An application whose broker is a port where nobody listens."""
    away = Celery("away", broker="redis://127.0.0.1:9/0")
    away.conf.broker_transport_options = {"socket_connect_timeout": 1, "max_retries": 0}
    with monkeypatch.context() as patch:
        patch.setattr(relay_module, "app", away)
        yield


def test_what_the_broker_does_not_take_is_offered_again_at_once(
    tenant: Tenant, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction() as session:
        ids = [str(make_case(session, tenant).id) for _ in range(3)]
    relay = Relay(settings())
    with broker_away(monkeypatch), pytest.raises((BrokerError, redis.RedisError, OSError)):
        turn(relay)
    with transaction() as session:
        assert set(session.scalars(text("SELECT offered_until FROM cases")).all()) == {None}
    assert turn(relay) == 3
    assert ids_in(broker, "screening") == ids


def test_a_broker_that_goes_away_in_the_middle_keeps_what_it_took(
    tenant: Tenant, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction() as session:
        ids = [make_case(session, tenant).id for _ in range(5)]
    sent, real = [], relay_module.app.send_task

    def takes_two(*args: Any, **options: Any) -> Any:
        if len(sent) == 2:
            raise BrokerError("gone")
        sent.append(args)
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(relay_module.app, "send_task", takes_two)
        with pytest.raises(BrokerError):
            turn(Relay(settings()))
    with transaction() as session:
        offered = [session.get_one(Case, case_id).offered_until is not None for case_id in ids]
    assert offered == [True, True, False, False, False]
    assert turn(Relay(settings())) == 3
    assert Counter(ids_in(broker, "screening")) == Counter(map(str, ids)), "each once"


# --- Running ---


@contextmanager
def running(rules: Settings) -> Iterator[Relay]:
    relay = Relay(rules)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield relay
    finally:
        relay.stop()
        ring()
        thread.join(60)
    assert not thread.is_alive()


def submit(tenant: Tenant) -> str:
    request = Request(tenant.id, actor="test", request_id="r")
    (case,) = submissions.submit_links([(request, Link(url="https://example.com/a.png"))], settings=settings())
    return str(case.id)


def listening(so: str = "true") -> list[int]:
    """The backends of this database's relays, of which this is so."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'telltale-relay' AND datname = current_database() "
        f"AND {so}"
    )
    with transaction() as session:
        return list(session.scalars(text(query)).all())


def waiting_for_the_bell() -> list[int]:
    """Those of them that have looked whether something is due, and found nothing."""
    return listening("state = 'idle' AND query NOT ILIKE 'LISTEN%'")


def test_a_submission_wakes_the_relay(tenant: Tenant, broker: redis.Redis) -> None:
    with running(with_changes(relay_interval_ms=600_000)):
        wait_until(lambda: bool(waiting_for_the_bell()), "the end of the first turn")
        case_id = submit(tenant)
        wait_until(lambda: case_id in ids_in(broker, "fetching"), "the offer, long before its next poll")


def test_work_that_comes_due_without_a_bell_is_found_by_polling(tenant: Tenant, broker: redis.Redis) -> None:
    with running(with_changes(relay_interval_ms=20)):
        wait_until(lambda: bool(listening()), "the relay's start")
        with transaction() as session:
            case_id = str(make_case(session, tenant).id)
        wait_until(lambda: case_id in ids_in(broker, "screening"), "the offer")


def test_a_relay_whose_database_connections_are_cut_goes_on(tenant: Tenant, broker: redis.Redis) -> None:
    with running(with_changes(relay_interval_ms=20)):
        wait_until(lambda: bool(listening()), "the relay's start")
        before = set(listening())
        with transaction() as session:
            # Once it is over: a connection that is about to be cut looks whole.
            cut = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            session.execute(text(f"{cut} AND datname = current_database() AND application_name LIKE 'telltale%'"))
        wait_until(lambda: set(listening()) - before, "a connection anew")
        case_id = submit(tenant)
        wait_until(lambda: case_id in ids_in(broker, "fetching"), "the offer")


def test_a_relay_whose_broker_comes_back_goes_on(
    tenant: Tenant, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "PAUSE_AFTER_ERROR_S", 0.05)
    with running(with_changes(relay_interval_ms=20)):
        with broker_away(monkeypatch):
            case_id = submit(tenant)
            time.sleep(0.5)
            assert ids_in(broker, "fetching") == []
        wait_until(lambda: case_id in ids_in(broker, "fetching"), "the offer")


def test_a_relay_that_found_no_free_connection_goes_on(
    tenant: Tenant, broker: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay_module, "PAUSE_AFTER_ERROR_S", 0.05)
    case_id = submit(tenant)
    small = create_engine(settings().database_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    the_only_one = small.connect()  # before the bell of the submission can have it
    with monkeypatch.context() as patch:
        patch.setattr(db_module, "engine", lambda: small)
        relay = Relay(with_changes(relay_interval_ms=20))
        thread = threading.Thread(target=relay.run)
        thread.start()
        try:
            wait_until(lambda: "the database is away" in caplog.text, "a turn without a connection")
            the_only_one.close()
            wait_until(lambda: case_id in ids_in(broker, "fetching"), "the offer")
        finally:
            relay.stop()
            thread.join()
    small.dispose()


def test_a_relay_that_comes_back_to_a_half_restored_database_offers_nothing(
    tenant: Tenant, broker: redis.Redis, db: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erased images and revoked keys may be as they were when the backup was made: until it is whole, no work of it."""
    monkeypatch.setattr(relay_module, "PAUSE_AFTER_ERROR_S", 0.05)
    with db.begin() as connection:
        connection.execute(text(f"CREATE TABLE {schema.UNFINISHED_RESTORE} (backup text)"))
    case_id = submit(tenant)
    try:
        with running(with_changes(relay_interval_ms=20)):
            time.sleep(0.3)
            assert ids_in(broker, "fetching") == []
            with db.begin() as connection:
                connection.execute(text(f"DROP TABLE {schema.UNFINISHED_RESTORE}"))
            wait_until(lambda: case_id in ids_in(broker, "fetching"), "the offer")
    finally:
        with db.begin() as connection:
            connection.execute(text(f"DROP TABLE IF EXISTS {schema.UNFINISHED_RESTORE}"))


def test_a_database_that_vanishes_is_noticed_within_half_a_minute(db: Engine) -> None:
    """Read from the sockets themselves: of the relay's own connection, and of everybody's."""
    with listener() as bell, db.connect() as connection:
        ours = connection.connection.driver_connection
        assert isinstance(ours, psycopg.Connection)
        for descriptor in (bell.fileno(), ours.fileno()):
            with socket.socket(fileno=os.dup(descriptor)) as tcp:
                assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
                assert [tcp.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10, 5, 3, 20_000]
        assert bell.info.get_parameters()["connect_timeout"] == "5"


def test_two_relays_side_by_side_send_each_case_once(tenant: Tenant, broker: redis.Redis) -> None:
    rules = with_changes(relay_interval_ms=5, dispatch_window=1000, offer_lease_s=600)
    with running(rules), running(rules):
        ids = [submit(tenant) for _ in range(60)]
        wait_until(lambda: set(ids) <= set(ids_in(broker, "fetching")), "the offers")
        time.sleep(0.1)
    assert Counter(ids_in(broker, "fetching")) == Counter(ids)
