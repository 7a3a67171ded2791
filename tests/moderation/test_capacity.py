"""Too many cases that wait are turned away, of one tenant or of all, and finding that out is cheap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from moderation import capacity, cases
from moderation import db as database
from moderation.capacity import refuse_if_full
from moderation.db import transaction
from moderation.errors import ServiceBusy, TooBusy
from moderation.settings import Settings, settings
from moderation.tables import Case, Tenant
from moderation.vocabulary import CaseStatus, FailureReason
from tests.factories import make_case, make_tenant
from tests.reading import copy, reading_few

pytestmark = pytest.mark.usefixtures("db")


class Clock:
    """Stands still until it is set forward."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which counts grow old; of those of other tests there are none."""
    made = Clock()
    monkeypatch.setattr(capacity, "time", made)
    monkeypatch.setattr(capacity, "_counts", {})
    return made


def limits(own: int, all_: int) -> Settings:
    return settings().model_copy(update={"max_waiting_cases": own, "max_waiting_in_all": all_})


def waiting(count: int) -> tuple[Tenant, list[Case]]:
    """A tenant with so many cases that wait."""
    with transaction() as session:
        tenant = make_tenant(session)
        return tenant, [make_case(session, tenant, CaseStatus.QUEUED) for _ in range(count)]


@contextmanager
def asked() -> Iterator[list[str]]:
    """The counts that were made within."""
    counts: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "AS ahead" in statement:
            counts.append(statement)

    event.listen(database.engine(), "before_cursor_execute", note)
    yield counts
    event.remove(database.engine(), "before_cursor_execute", note)


def test_a_tenant_at_its_limit_is_told_when_to_come_back() -> None:
    tenant, _ = waiting(2)
    refuse_if_full(tenant.id, limits(3, 100))
    with pytest.raises(TooBusy, match="2 of your cases are waiting") as busy:
        refuse_if_full(tenant.id, limits(2, 100))
    assert busy.value.retry_after == capacity.RETRY_AFTER_S and not isinstance(busy.value, ServiceBusy)


def test_all_together_have_a_limit_too() -> None:
    for _ in range(2):
        waiting(2)
    newcomer, _ = waiting(0)
    refuse_if_full(newcomer.id, limits(100, 5))
    with pytest.raises(ServiceBusy) as busy:
        refuse_if_full(newcomer.id, limits(100, 4))
    assert "4" not in busy.value.message, "how much others have waiting is nobody's business"


def test_what_is_settled_does_not_count(clock: Clock) -> None:
    tenant, [case, _] = waiting(2)
    with pytest.raises(TooBusy):
        refuse_if_full(tenant.id, limits(2, 50))
    with transaction() as session:
        cases.fail(session, session.get_one(Case, case.id), FailureReason.UNDECODABLE, "It was broken.")
    with pytest.raises(TooBusy):  # for a moment nobody asks anew
        refuse_if_full(tenant.id, limits(2, 50))
    clock.now += capacity.FULL_S
    refuse_if_full(tenant.id, limits(2, 50))


def test_where_there_is_much_room_and_where_there_is_none_nobody_counts_again() -> None:
    roomy, _ = waiting(1)
    full, _ = waiting(1)
    with asked() as counts:
        for _ in range(5):
            refuse_if_full(roomy.id, limits(90_000, 90_001))
            with pytest.raises(TooBusy):
                refuse_if_full(full.id, limits(1, 90_001))
    assert len(counts) == 3, "one of each tenant, and one of all"


def test_near_the_limit_every_one_is_counted(clock: Clock) -> None:
    tenant, _ = waiting(0)
    for _ in range(3):
        refuse_if_full(tenant.id, limits(3, 90_002))
        with transaction() as session:
            make_case(session, tenant, CaseStatus.QUEUED)
        clock.now += 3 / capacity.CASES_PER_S
    with pytest.raises(TooBusy):
        refuse_if_full(tenant.id, limits(3, 90_002))


def test_settled_cases_are_not_read_for_it() -> None:
    with transaction() as session:
        tenant = make_tenant(session)
        make_case(session, tenant, CaseStatus.QUEUED)
        copy(session, "cases", make_case(session, tenant, CaseStatus.DECIDED).id, "submission_id")
        with reading_few(session, "cases"):
            assert session.scalar(capacity._OF_ALL, {"limit": 10}) == 1
        with reading_few(session, "cases"):
            assert session.scalar(capacity._OF_TENANT, {"tenant": tenant.id, "limit": 10}) == 1
