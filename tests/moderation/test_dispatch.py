"""Dispatch: a bounded window, tenants in turn, priority, age; nothing lost, nothing offered twice, little read."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from moderation import attempts, cases, dispatch, endpoints
from moderation.db import transaction
from moderation.dispatch import Work
from moderation.tables import Case, Delivery, Endpoint, Tenant
from moderation.vocabulary import CaseStatus, DeliveryStatus, FailureReason, Priority
from tests import factories
from tests.factories import make_case, make_tenant, take_case
from tests.reading import FEW, MANY, copy, reading_few

LEASE = timedelta(seconds=30)


def offer(window: int = 64, lease: timedelta = LEASE) -> list[UUID]:
    with transaction() as session:
        return dispatch.offer_cases(session, dispatch.SCREENING, window=window, lease=lease)


def offer_deliveries(per_endpoint: int = 4, lease: timedelta = LEASE) -> list[UUID]:
    with transaction() as session:
        return dispatch.offer_deliveries(session, per_endpoint=per_endpoint, lease=lease)


def settle(case_id: UUID) -> None:
    """A worker takes an offered case and ends it."""
    with transaction() as session:
        case = session.get_one(Case, case_id)
        take_case(session, case)
        cases.fail(session, case, FailureReason.INTERNAL, "for the test")


def queue(tenant: Tenant, count: int = 1, priority: Priority = Priority.NORMAL) -> list[UUID]:
    with transaction() as session:
        return [make_case(session, tenant, priority=priority).id for _ in range(count)]


# --- Which cases, and in what order ---


def test_at_most_a_window_is_offered_until_some_are_taken(tenant: Tenant) -> None:
    queue(tenant, 10)
    first = offer(window=4)
    assert len(first) == 4
    assert offer(window=4) == []
    assert len(offer(window=6)) == 2
    with transaction() as session:
        take_case(session, session.get_one(Case, first[0]))
    assert len(offer(window=6)) == 1, "a case at work no longer fills the window"


def test_a_window_smaller_than_what_is_out_offers_nothing(tenant: Tenant) -> None:
    queue(tenant, 5)
    offer(window=4)
    assert offer(window=2) == []


def test_an_offer_that_nobody_took_is_made_again_after_its_time(tenant: Tenant) -> None:
    (case_id,) = queue(tenant)
    assert offer(lease=timedelta(milliseconds=1)) == [case_id]
    time.sleep(0.01)
    assert offer() == [case_id]
    assert offer() == []


def test_a_case_whose_worker_died_is_offered_again_and_one_at_work_is_not(tenant: Tenant) -> None:
    dead, alive = queue(tenant, 2)
    with transaction() as session:
        take_case(session, session.get_one(Case, dead), lease=timedelta(seconds=-1))
        take_case(session, session.get_one(Case, alive))
    assert offer() == [dead]


def test_higher_priority_first_then_the_older(tenant: Tenant) -> None:
    normal = queue(tenant, 2)
    low = queue(tenant, 1, Priority.LOW)
    urgent = queue(tenant, 2, Priority.URGENT)
    high = queue(tenant, 1, Priority.HIGH)
    assert offer() == [*urgent, *high, *normal, *low]


def test_tenants_take_turns_whatever_their_priorities(tenant: Tenant) -> None:
    with transaction() as session:
        other = make_tenant(session)
    mine = queue(tenant, 4, Priority.URGENT)
    theirs = queue(other, 2, Priority.LOW)
    assert offer() == [mine[0], theirs[0], mine[1], theirs[1], mine[2], mine[3]]


def test_a_turn_that_is_under_way_counts(tenant: Tenant) -> None:
    mine = queue(tenant, 4)
    for case_id in offer(window=2):
        with transaction() as session:
            take_case(session, session.get_one(Case, case_id))
    with transaction() as session:
        other = make_tenant(session)
    theirs = queue(other, 3)
    assert offer() == [theirs[0], theirs[1], mine[2], theirs[2], mine[3]]


def test_a_thousand_cases_of_one_tenant_do_not_delay_anothers_urgent_one(tenant: Tenant) -> None:
    window = 64
    bulk(tenant, 1000, "queued")
    in_turn = offer(window)
    assert len(in_turn) == window
    with transaction() as session:
        other = make_tenant(session)
    (urgent,) = queue(other, 1, Priority.URGENT)
    drop(in_turn[:8])
    assert offer(window)[0] == urgent, "with the first free places, ahead of all that waits"


@pytest.mark.parametrize("status", [CaseStatus.QUEUED, CaseStatus.FETCHING])
def test_a_postponed_case_is_not_offered_before_its_time(tenant: Tenant, status: CaseStatus) -> None:
    statuses = dispatch.FETCHING if status is CaseStatus.FETCHING else dispatch.SCREENING
    with transaction() as session:
        later, soon = (make_case(session, tenant, status) for _ in range(2))
        cases.postpone(session, take_case(session, later), timedelta(minutes=10), counts=True)
        cases.postpone(session, take_case(session, soon), timedelta(milliseconds=1), counts=True)
    time.sleep(0.01)
    with transaction() as session:
        assert dispatch.offer_cases(session, statuses, window=64, lease=LEASE) == [soon.id]


def test_links_are_offered_for_fetching_and_images_for_screening(tenant: Tenant) -> None:
    with transaction() as session:
        link, image = make_case(session, tenant, CaseStatus.FETCHING), make_case(session, tenant)
        for status in (CaseStatus.DECIDED, CaseStatus.IN_REVIEW, CaseStatus.FAILED, CaseStatus.SCREENING):
            make_case(session, tenant, status)
    with transaction() as session:
        assert dispatch.offer_cases(session, dispatch.FETCHING, window=64, lease=LEASE) == [link.id]
    assert offer() == [image.id]


def test_what_the_broker_did_not_take_is_offered_at_the_next_turn(tenant: Tenant) -> None:
    ids = queue(tenant, 3)
    offer()
    with transaction() as session:
        dispatch.withdraw(session, "cases", ids[1:])
    assert offer() == ids[1:]
    with pytest.raises(ValueError, match="tenants"), transaction() as session:
        dispatch.withdraw(session, "tenants", ids)


def due_in(session: Session) -> set[Work]:
    """As this transaction sees it."""
    look = session.connection().connection.driver_connection
    assert isinstance(look, psycopg.Connection)
    return dispatch.due(look)


def test_what_is_due_is_what_could_be_offered(tenant: Tenant) -> None:
    def due() -> set[Work]:
        with transaction() as session:
            return due_in(session)

    assert due() == set()
    with transaction() as session:
        image = make_case(session, tenant)
        make_case(session, tenant, CaseStatus.FETCHING)
    assert due() == {Work.SCREENING, Work.FETCHING}
    assert offer() == [image.id]
    assert due() == {Work.FETCHING}, "what is offered is not due, until its offer lapses"
    with transaction() as session:
        factories.make_endpoint(session, tenant)
        make_case(session, tenant, CaseStatus.FAILED)
    assert due() == {Work.FETCHING, Work.DELIVERIES}
    with transaction() as session:
        session.execute(update(Endpoint).values(disabled_at=text("now()")))
    assert due() == {Work.FETCHING}


def test_offers_that_roll_back_were_never_made(tenant: Tenant) -> None:
    queue(tenant, 3)
    with pytest.raises(ZeroDivisionError), transaction() as session:
        dispatch.offer_cases(session, dispatch.SCREENING, window=64, lease=LEASE)
        _ = 1 / 0
    assert len(offer()) == 3


# --- Relays and workers at once ---


def at_once(relays: int, turns: int, turn: Callable[[Session], list[UUID]]) -> list[list[UUID]]:
    """What each of several relays offered in each of its turns, which they begin together."""
    barrier = threading.Barrier(relays, timeout=60)

    def relay(_: int) -> list[list[UUID]]:
        made = []
        for _turn in range(turns):
            barrier.wait()
            with transaction() as session:
                made.append(turn(session))
        return made

    with ThreadPoolExecutor(relays) as pool:
        return [ids for made in pool.map(relay, range(relays)) for ids in made]


def offered_twice(made: list[list[UUID]]) -> list[UUID]:
    return [id_ for id_, times in Counter(id_ for ids in made for id_ in ids).items() if times > 1]


def test_relays_side_by_side_never_offer_a_case_twice(tenant: Tenant) -> None:
    bulk(tenant, 1000, "queued")

    def offer_and_settle(session: Session) -> list[UUID]:
        ids = dispatch.offer_cases(session, dispatch.SCREENING, window=20, lease=LEASE)
        session.commit()
        drop(ids)
        return ids

    made = at_once(3, 30, offer_and_settle)
    assert sum(len(ids) for ids in made) >= 30 * 20 // 3
    assert offered_twice(made) == []


def test_relays_side_by_side_keep_to_the_window(tenant: Tenant) -> None:
    bulk(tenant, 400, "queued")
    made = at_once(3, 10, lambda session: dispatch.offer_cases(session, dispatch.SCREENING, window=64, lease=LEASE))
    assert sum(len(ids) for ids in made) == 64
    assert offered_twice(made) == []


def test_relays_side_by_side_keep_to_an_endpoints_cap(tenant: Tenant) -> None:
    with transaction() as session:
        endpoint = factories.make_endpoint(session, tenant)
    bulk_deliveries(endpoint, 100)
    made = at_once(3, 10, lambda s: dispatch.offer_deliveries(s, per_endpoint=4, lease=LEASE))
    assert sum(len(ids) for ids in made) == 4


def test_a_case_taken_or_settled_meanwhile_is_left_as_it_is(tenant: Tenant) -> None:
    """The relay read the case as due, then waited: whatever happened since must stand."""
    taken, due = queue(tenant, 2)
    with transaction() as worker:
        take_case(worker, worker.get_one(Case, taken))
        assert offer() == [due], "a row that somebody is writing is not waited for"
    with transaction() as session:
        assert session.get_one(Case, taken).offered_until is None


# --- Deliveries ---


def test_an_endpoint_has_at_most_its_cap_in_flight_and_holds_up_only_itself(tenant: Tenant) -> None:
    with transaction() as session:
        slow, quick = factories.make_endpoint(session, tenant), factories.make_endpoint(session, tenant)
        for _ in range(10):
            endpoints.ping(session, slow)
    first = offer_deliveries()
    assert len(first) == 4
    with transaction() as session:
        for delivery_id in first[:2]:
            assert attempts.take(session, delivery_id, LEASE) is not None
    assert offer_deliveries() == [], "being sent counts as much as being offered"
    bulk_deliveries(quick, 2)
    assert len(offer_deliveries()) == 2


def test_disabled_and_paused_endpoints_get_nothing_until_they_are_back(tenant: Tenant) -> None:
    with transaction() as session:
        disabled, paused = factories.make_endpoint(session, tenant), factories.make_endpoint(session, tenant)
    for endpoint in (disabled, paused):
        bulk_deliveries(endpoint, 1)
    with transaction() as session:
        endpoints.disable(session, session.get_one(Endpoint, disabled.id), "for the test")
        session.execute(
            text("DELETE FROM deliveries WHERE event_id IN (SELECT id FROM events WHERE actor = 'delivery')")
        )
        session.execute(
            update(Endpoint).where(Endpoint.id == paused.id).values(paused_until=text("now() + interval '1 minute'"))
        )
    assert offer_deliveries() == []
    with transaction() as session:
        endpoints.enable(session, session.get_one(Endpoint, disabled.id))
        session.execute(update(Endpoint).where(Endpoint.id == paused.id).values(paused_until=text("now()")))
    assert len(offer_deliveries()) == 2


def test_deliveries_wait_for_their_time_and_are_offered_oldest_first(tenant: Tenant) -> None:
    with transaction() as session:
        endpoint = factories.make_endpoint(session, tenant)
    bulk_deliveries(endpoint, 6)
    with transaction() as session:
        ids = session.scalars(text("SELECT id FROM deliveries ORDER BY id")).all()
        for age, delivery_id in zip((30, -60, 10, 20, -60, 40), ids, strict=True):
            due = text(f"now() - interval '{age} seconds'")
            session.execute(update(Delivery).where(Delivery.id == delivery_id).values(next_attempt_at=due))
    assert set(offer_deliveries(per_endpoint=2)) == {ids[5], ids[0]}
    assert set(offer_deliveries(per_endpoint=10)) == {ids[2], ids[3]}


# --- How much is read ---


def offered_reading(few: int, window: int = 64) -> list[UUID]:
    """What is offered, of no more than so many rows of cases."""
    with transaction() as session, reading_few(session, "cases", few):
        return dispatch.offer_cases(session, dispatch.SCREENING, window=window, lease=LEASE)


def test_of_many_cases_waiting_an_offer_reads_each_tenants_first(tenant: Tenant) -> None:
    with transaction() as session:
        others = [make_tenant(session) for _ in range(20)]
    bulk(tenant, MANY, "queued")
    for other in others:
        bulk(other, 50, "queued")
    analyze("cases")
    # A window's of each tenant, what is out, and what is offered now.
    few = 21 * 16 + 4 * 32
    assert len(offered_reading(few, window=16)) == 16
    assert len(offered_reading(few, window=32)) == 16, "with offers out"
    assert len(offered_reading(few, window=32)) == 0
    (case_id,) = queue(others[0], 1, Priority.URGENT)
    with transaction() as session, reading_few(session, "cases"):
        take_case(session, session.get_one(Case, case_id))


@pytest.mark.parametrize(("status", "due"), [("fetching", "now()"), ("queued", "now() + interval '1 hour'")])
def test_of_many_that_are_not_screened_now_each_is_read_but_once_or_twice(
    tenant: Tenant, status: str, due: str
) -> None:
    bulk(tenant, MANY, status, next_attempt_at=due)
    analyze("cases")
    (image,) = queue(tenant)
    assert offered_reading(2 * MANY + FEW) == [image]


def test_of_many_deliveries_pending_each_is_read_but_once_or_twice(tenant: Tenant) -> None:
    with transaction() as session:
        endpoint = factories.make_endpoint(session, tenant)
    bulk_deliveries(endpoint, MANY)
    analyze("deliveries")
    for offered in (4, 0):
        with transaction() as session, reading_few(session, "deliveries", 2 * MANY + FEW):
            assert len(dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE)) == offered


def test_who_has_no_case_waiting_costs_an_offer_nothing(tenant: Tenant) -> None:
    (waiting,) = queue(tenant)
    with transaction() as session:
        copy(session, "tenants", tenant.id, "name")
        with reading_few(session, "tenants"), reading_few(session, "cases"):
            assert due_in(session) == {Work.SCREENING}
            assert dispatch.offer_cases(session, dispatch.SCREENING, window=64, lease=LEASE) == [waiting]
        with reading_few(session, "tenants"), reading_few(session, "cases"):
            assert due_in(session) == set()


def test_endpoints_with_nothing_to_send_cost_an_offer_nothing(tenant: Tenant) -> None:
    with transaction() as session:
        endpoint = factories.make_endpoint(session, tenant)
        sent = endpoints.ping(session, endpoint)
        sent.status = DeliveryStatus.DELIVERED
        copy(session, "endpoints", endpoint.id)
        copy(session, "deliveries", sent.id, "event_id", "endpoint_id")
        with reading_few(session, "endpoints"), reading_few(session, "deliveries"):
            assert due_in(session) == set()
            assert dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE) == []
        waiting = endpoints.ping(session, endpoint).id
        with reading_few(session, "endpoints"), reading_few(session, "deliveries"):
            assert due_in(session) == {Work.DELIVERIES}
            assert dispatch.offer_deliveries(session, per_endpoint=4, lease=LEASE) == [waiting]


# --- Many rows at once, without the rows they refer to ---


def bulk(tenant: Tenant, count: int, status: str, *, next_attempt_at: str = "now()") -> None:
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(
            text(
                "INSERT INTO cases (id, tenant_id, submission_id, status, priority, next_attempt_at, queued_at) "
                f"SELECT uuidv7(), :tenant, uuidv7(), :status, n % 3, {next_attempt_at}, now() - n * interval '1 ms' "
                "FROM generate_series(1, :count) n"
            ),
            {"tenant": tenant.id, "status": status, "count": count},
        )


def bulk_deliveries(endpoint: Endpoint, count: int) -> None:
    with transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(
            text(
                "INSERT INTO deliveries (id, event_id, endpoint_id) "
                "SELECT uuidv7(), uuidv7(), :endpoint FROM generate_series(1, :count)"
            ),
            {"endpoint": endpoint.id, "count": count},
        )


def drop(ids: list[UUID]) -> None:
    """As if these had been worked on and settled."""
    with transaction() as session:
        session.execute(
            text("UPDATE cases SET status = 'failed', offered_until = NULL WHERE id = ANY(:ids)"), {"ids": ids}
        )


def analyze(table: str) -> None:
    """What autovacuum does by itself."""
    with transaction() as session:
        session.execute(text(f"ANALYZE {table}"))
