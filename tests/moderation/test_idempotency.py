"""Idempotency keys: same request, same answer; one at a time; a process that dies is not in the way for ever."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from moderation import idempotency
from moderation.db import transaction
from moderation.errors import Conflict, IdempotencyMismatch, InvalidRequest, RequestInProgress
from moderation.idempotency import Claim
from moderation.tables import IdempotencyKey
from tests.factories import make_tenant

ANSWER = {"id": "case-1", "status": "queued"}


@pytest.fixture
def tenant_id(db: Engine) -> UUID:
    with transaction() as session:
        return make_tenant(session).id


def begin(tenant_id: UUID, key: str = "k", fingerprint: str = "print") -> Claim:
    claim = idempotency.begin(tenant_id, key, fingerprint)
    assert isinstance(claim, Claim)
    return claim


def complete(claim: Claim, answer: dict[str, Any] = ANSWER) -> None:
    with transaction() as session:
        idempotency.complete(session, claim, answer)


def change(tenant_id: UUID, key: str, **columns: object) -> None:
    with transaction() as session:
        row = session.get_one(IdempotencyKey, (tenant_id, key))
        for name, value in columns.items():
            setattr(row, name, value)


def test_the_same_request_again_gets_the_first_answer(tenant_id: UUID) -> None:
    complete(begin(tenant_id))
    for _ in range(2):
        assert idempotency.begin(tenant_id, "k", "print") == ANSWER


def test_an_empty_answer_is_an_answer(tenant_id: UUID) -> None:
    complete(begin(tenant_id), {})
    assert idempotency.begin(tenant_id, "k", "print") == {}


def test_another_request_under_the_same_key_is_refused_before_and_after_the_answer(tenant_id: UUID) -> None:
    claim = begin(tenant_id)
    with pytest.raises(IdempotencyMismatch, match="new key"):
        idempotency.begin(tenant_id, "k", "other")
    complete(claim)
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
    begin(tenant_id)
    with pytest.raises(RequestInProgress):
        idempotency.begin(tenant_id, "k", "print")


@pytest.fixture
def slow_and_late(tenant_id: UUID) -> tuple[Claim, Claim]:
    """A request so slow that its claim lapsed, and the same one sent again."""
    slow = begin(tenant_id)
    lapsed = datetime.now(UTC) - timedelta(seconds=1)
    change(tenant_id, "k", lease_until=lapsed)
    return replace(slow, lease_until=lapsed), begin(tenant_id)


def test_of_two_that_run_under_one_key_the_later_one_answers(
    tenant_id: UUID, slow_and_late: tuple[Claim, Claim]
) -> None:
    slow, late = slow_and_late
    with pytest.raises(Conflict):
        complete(slow, {"id": "case-1"})
    complete(late, {"id": "case-2"})
    with pytest.raises(Conflict):
        complete(slow, {"id": "case-1"})
    assert idempotency.begin(tenant_id, "k", "print") == {"id": "case-2"}


def test_a_slow_request_that_fails_does_not_free_the_key_of_the_later_one(
    tenant_id: UUID, slow_and_late: tuple[Claim, Claim]
) -> None:
    """Otherwise a different request could have the key, and be given the later one's answer."""
    slow, late = slow_and_late
    idempotency.abandon(slow)
    with pytest.raises(IdempotencyMismatch):
        idempotency.begin(tenant_id, "k", "other")
    complete(late)
    assert idempotency.begin(tenant_id, "k", "print") == ANSWER


def test_a_key_that_was_freed_meanwhile_does_not_let_the_slow_one_finish(tenant_id: UUID) -> None:
    claim = begin(tenant_id)
    idempotency.abandon(claim)
    with pytest.raises(Conflict):
        complete(claim)


def test_a_request_that_failed_frees_its_key_and_an_answer_stays(tenant_id: UUID) -> None:
    idempotency.abandon(begin(tenant_id))
    mended = begin(tenant_id, "k", "mended")
    complete(mended)
    idempotency.abandon(mended)
    assert idempotency.begin(tenant_id, "k", "mended") == ANSWER


def test_an_answer_is_as_durable_as_what_it_speaks_of(tenant_id: UUID) -> None:
    claim = begin(tenant_id)
    with pytest.raises(ZeroDivisionError), transaction() as session:
        idempotency.complete(session, claim, ANSWER)
        _ = 1 / 0
    with pytest.raises(RequestInProgress):
        idempotency.begin(tenant_id, "k", "print")


def test_after_a_day_a_key_is_new(tenant_id: UUID) -> None:
    complete(begin(tenant_id))
    change(tenant_id, "k", expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert idempotency.begin(tenant_id, "k", "print") == ANSWER
    change(tenant_id, "k", expires_at=datetime.now(UTC))
    complete(begin(tenant_id, "k", "other"), {"id": "new"})
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
    complete(begin(tenant_id))
    begin(other, "k", "something else")


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_1_to_255_characters(tenant_id: UUID, key: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 255"):
        idempotency.begin(tenant_id, key, "print")
    begin(tenant_id, "x" * 255)


def test_of_threads_with_the_same_key_exactly_one_goes_ahead(tenant_id: UUID) -> None:
    rivals, rounds = 5, 20
    barrier = threading.Barrier(rivals, timeout=60)

    def rival(_: int) -> list[str]:
        got = []
        for number in range(rounds):
            barrier.wait()
            try:
                answer = idempotency.begin(tenant_id, f"key {number}", "print")
            except RequestInProgress:
                got.append("wait")
            else:
                got.append("go" if isinstance(answer, Claim) else "answer")
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
            if not isinstance(answer, Claim):
                return str(answer["by"])
            if number % 3:
                idempotency.abandon(answer)
                continue
            complete(answer, {"by": str(number)})
            return str(number)
        return "gave up"

    with ThreadPoolExecutor(6) as pool:
        heard = set(pool.map(sender, range(6))) - {"gave up"}
    assert len(heard) <= 1, "there is one answer at most"
