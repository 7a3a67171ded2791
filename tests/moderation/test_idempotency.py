"""Idempotency keys: same request, same answer; one at a time; a process that dies is not in the way for ever."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from moderation import idempotency
from moderation.db import transaction
from moderation.errors import Conflict, IdempotencyMismatch, InvalidRequest, RequestInProgress
from moderation.tables import IdempotencyKey
from tests.factories import make_tenant

ANSWER = {"id": "case-1", "status": "queued"}


@pytest.fixture
def tenant_id(db: Engine) -> UUID:
    with transaction() as session:
        return make_tenant(session).id


def complete(tenant_id: UUID, key: str, answer: dict[str, Any] = ANSWER) -> None:
    with transaction() as session:
        idempotency.complete(session, tenant_id, key, answer)


def change(tenant_id: UUID, key: str, **columns: object) -> None:
    with transaction() as session:
        row = session.get_one(IdempotencyKey, (tenant_id, key))
        for name, value in columns.items():
            setattr(row, name, value)


def test_the_same_request_again_gets_the_first_answer(tenant_id: UUID) -> None:
    assert idempotency.begin(tenant_id, "k", "print") is None
    complete(tenant_id, "k")
    for _ in range(2):
        assert idempotency.begin(tenant_id, "k", "print") == ANSWER


def test_an_empty_answer_is_an_answer(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    complete(tenant_id, "k", {})
    assert idempotency.begin(tenant_id, "k", "print") == {}


def test_another_request_under_the_same_key_is_refused_before_and_after_the_answer(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    with pytest.raises(IdempotencyMismatch, match="new key"):
        idempotency.begin(tenant_id, "k", "other")
    complete(tenant_id, "k")
    with pytest.raises(IdempotencyMismatch, match="new key"):
        idempotency.begin(tenant_id, "k", "other")
    assert idempotency.begin(tenant_id, "k", "print") == ANSWER


def test_while_the_first_runs_the_second_is_told_to_wait(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    with pytest.raises(RequestInProgress, match="try again"):
        idempotency.begin(tenant_id, "k", "print")


def test_a_request_that_died_is_in_the_way_only_as_long_as_its_lease(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    change(tenant_id, "k", lease_until=datetime.now(UTC) - timedelta(seconds=1))
    assert idempotency.begin(tenant_id, "k", "print") is None
    with pytest.raises(RequestInProgress):
        idempotency.begin(tenant_id, "k", "print")


def test_of_two_that_ran_under_one_key_only_the_first_to_finish_stands(tenant_id: UUID) -> None:
    """The first was slow, so slow that its lease lapsed, and the same request came again."""
    idempotency.begin(tenant_id, "k", "print")
    change(tenant_id, "k", lease_until=datetime.now(UTC) - timedelta(seconds=1))
    idempotency.begin(tenant_id, "k", "print")
    complete(tenant_id, "k", {"id": "case-2"})
    with pytest.raises(Conflict):
        complete(tenant_id, "k", {"id": "case-1"})
    assert idempotency.begin(tenant_id, "k", "print") == {"id": "case-2"}


def test_a_key_that_was_freed_meanwhile_does_not_let_the_slow_one_finish(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    idempotency.abandon(tenant_id, "k")
    with pytest.raises(Conflict):
        complete(tenant_id, "k")


def test_a_request_that_failed_frees_its_key_and_an_answer_stays(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    idempotency.abandon(tenant_id, "k")
    assert idempotency.begin(tenant_id, "k", "mended") is None
    complete(tenant_id, "k")
    idempotency.abandon(tenant_id, "k")
    assert idempotency.begin(tenant_id, "k", "mended") == ANSWER


def test_an_answer_is_as_durable_as_what_it_speaks_of(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    with pytest.raises(ZeroDivisionError), transaction() as session:
        idempotency.complete(session, tenant_id, "k", ANSWER)
        _ = 1 / 0
    with pytest.raises(RequestInProgress):
        idempotency.begin(tenant_id, "k", "print")


def test_after_a_day_a_key_is_new(tenant_id: UUID) -> None:
    idempotency.begin(tenant_id, "k", "print")
    complete(tenant_id, "k")
    change(tenant_id, "k", expires_at=datetime.now(UTC) + timedelta(seconds=10))
    assert idempotency.begin(tenant_id, "k", "print") == ANSWER
    change(tenant_id, "k", expires_at=datetime.now(UTC))
    assert idempotency.begin(tenant_id, "k", "other") is None
    complete(tenant_id, "k", {"id": "new"})
    assert idempotency.begin(tenant_id, "k", "other") == {"id": "new"}


def test_a_key_lasts_for_24_hours_and_is_forgotten_after(tenant_id: UUID) -> None:
    for key in ("old", "young"):
        idempotency.begin(tenant_id, key, "print")
    with transaction() as session:
        expires_at = session.get_one(IdempotencyKey, (tenant_id, "young")).expires_at
    assert abs(expires_at - datetime.now(UTC) - timedelta(hours=24)) < timedelta(minutes=1)
    change(tenant_id, "old", expires_at=datetime.now(UTC))
    with transaction() as session:
        assert idempotency.forget_expired(session) == 1
        assert session.scalars(select(IdempotencyKey.key)).all() == ["young"]


def test_tenants_share_no_keys(tenant_id: UUID) -> None:
    with transaction() as session:
        other = make_tenant(session).id
    idempotency.begin(tenant_id, "k", "print")
    complete(tenant_id, "k")
    assert idempotency.begin(other, "k", "something else") is None


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_1_to_255_characters(tenant_id: UUID, key: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 255"):
        idempotency.begin(tenant_id, key, "print")
    assert idempotency.begin(tenant_id, "x" * 255, "print") is None


def test_of_threads_with_the_same_key_exactly_one_goes_ahead(tenant_id: UUID) -> None:
    rivals, rounds = 5, 20
    barrier = threading.Barrier(rivals)

    def rival(_: int) -> list[str]:
        got = []
        for number in range(rounds):
            barrier.wait()
            try:
                answer = idempotency.begin(tenant_id, f"key {number}", "print")
            except RequestInProgress:
                got.append("wait")
            else:
                got.append("go" if answer is None else "answer")
        return got

    with ThreadPoolExecutor(rivals) as pool:
        for at_once in zip(*pool.map(rival, range(rivals)), strict=True):
            assert Counter(at_once) == {"go": 1, "wait": rivals - 1}


def test_threads_that_begin_abandon_and_complete_at_once_get_a_clear_word_and_no_other_error(tenant_id: UUID) -> None:
    """What each gets is one of: go ahead, wait, or the answer; the row may vanish under anybody's feet."""

    def sender(number: int) -> str:
        for _ in range(25):
            try:
                answer = idempotency.begin(tenant_id, "k", "print")
            except RequestInProgress:
                continue
            if answer is not None:
                return str(answer["by"])
            if number % 3:
                idempotency.abandon(tenant_id, "k")
                continue
            complete(tenant_id, "k", {"by": str(number)})
            return str(number)
        return "gave up"

    with ThreadPoolExecutor(6) as pool:
        heard = set(pool.map(sender, range(6))) - {"gave up"}
    assert len(heard) <= 1, "there is one answer at most"
