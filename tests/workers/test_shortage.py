"""A worker for which something is short: memory of its device, connections to the database, or time to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from sqlalchemy import create_engine
from sqlalchemy.exc import TimeoutError as PoolTimeout

from infra.services import wait_until
from model.batcher import Batcher, BatcherClosed
from model.detector import Detection, Detector
from moderation import db as database
from moderation import fetching, submissions
from moderation.db import transaction
from moderation.errors import LostLease
from moderation.settings import settings
from moderation.submissions import Link
from moderation.vocabulary import CaseStatus
from tests.factories import make_tenant
from tests.workers.test_screening import JUDGED, case, detector, screener, submitted
from workers import departure as leaving
from workers.departure import Departure
from workers.screening import Screener

__all__ = ["detector", "screener"]


# --- Memory of the device ---


@contextmanager
def memory_for(images: int, detector: Detector) -> Iterator[list[int]]:
    """The network's memory runs out above so many images at once, as a GPU says it; all sizes that were tried."""
    tried: list[int] = []
    network = detector._engine._model.model.vision_tower  # type: ignore[attr-defined]

    def look(_module: object, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        tried.append(len(named["pixel_values"] if "pixel_values" in named else inputs[0]))
        if tried[-1] > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = network.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield tried
    finally:
        hook.remove()
        detector._engine._less_until = 0.0  # type: ignore[attr-defined]  # the next test has all of it


def test_a_batch_that_does_not_fit_is_halved_and_no_case_notices(screener: Screener, detector: Detector) -> None:
    screener._batcher.close()
    screener._batcher = Batcher(detector, max_batch=4, max_wait_ms=60_000)  # it is full before
    cases = [submitted() for _ in range(4)]
    with memory_for(2, detector) as tried, ThreadPoolExecutor(4) as threads:
        list(threads.map(screener.screen, cases))
    assert tried == [4, 2, 2]
    assert all(case(one).status in JUDGED and case(one).attempts == 1 for one in cases)


def test_where_not_one_image_fits_cases_wait_and_the_worker_lives_on(
    screener: Screener, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    waits, later = submitted(), submitted()
    with memory_for(0, detector):
        screener.screen(waits)
    assert (case(waits).status, case(waits).attempts) == (CaseStatus.QUEUED, 0)
    assert f"case {waits} waits: The memory of cpu does not suffice for one image." in caplog.text
    screener.screen(later)
    assert case(later).status in JUDGED


# --- Connections ---


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool of two connections."""
    engine = create_engine(settings().database_url, pool_size=2, max_overflow=0, pool_timeout=60)
    monkeypatch.setattr(database, "engine", lambda: engine)
    yield
    engine.dispose()


def take_all() -> Callable[[], None]:
    """Have both, once bells and hearts let go of them, so that nobody waits long for one; what gives them back."""
    pool: Any = database.engine().pool
    taken = [database.engine().connect() for _ in range(2)]
    before, pool._timeout = pool._timeout, 0.1

    def give_back() -> None:
        pool._timeout = before
        for connection in taken:
            connection.close()

    return give_back


@pytest.mark.usefixtures("narrow")
def test_a_worker_without_a_connection_takes_nothing_and_loses_no_attempt(screener: Screener) -> None:
    waits = submitted()
    give_back = take_all()
    with pytest.raises(PoolTimeout):
        screener.screen(waits)
    give_back()
    assert (case(waits).status, case(waits).attempts) == (CaseStatus.QUEUED, 0)
    screener.screen(waits)
    assert case(waits).status in JUDGED


@pytest.mark.usefixtures("narrow")
def test_what_was_judged_is_written_once_there_is_a_connection_again(
    screener: Screener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judge = screener._judge
    monkeypatch.setattr(database, "INSIST_EVERY_S", 0.1)
    monkeypatch.setattr(database, "INSIST_S", 60)

    def judge_and_take_all(job: object) -> object:
        said = judge(job)  # type: ignore[arg-type]
        give_back = take_all()

        def once_it_was_missed() -> None:
            wait_until(lambda: "finish is run again" in caplog.text, "a try without a connection")
            give_back()

        threading.Thread(target=once_it_was_missed).start()
        return said

    monkeypatch.setattr(screener, "_judge", judge_and_take_all)
    one = submitted()
    screener.screen(one)
    assert case(one).status in JUDGED and case(one).attempts == 1


# --- Time to stop ---


def test_what_is_in_hand_when_time_is_up_is_given_back(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(leaving.departure, "_end", ended.append)
    never: Future[Detection] = Future()
    in_hand = threading.Event()

    def never_done(*_: object) -> Future[Detection]:
        in_hand.set()
        return never

    one = submitted()
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setattr(screener._batcher, "submit", never_done)
        at_work = thread.submit(screener.screen, one)
        try:
            assert in_hand.wait(60) and case(one).status is CaseStatus.SCREENING
            leaving.departure.leave()
            assert (case(one).status, case(one).attempts, ended) == (CaseStatus.QUEUED, 0, [0])
        finally:
            never.set_exception(BatcherClosed())
        with pytest.raises(LostLease):  # whoever goes on all the same writes nothing
            at_work.result(timeout=60)
    screener.screen(one)
    assert case(one).status in JUDGED and case(one).attempts == 1


def test_a_link_is_given_back_too(screener: Screener) -> None:
    with transaction() as session:
        request = submissions.Request(tenant_id=make_tenant(session).id, actor="test", request_id="test")
    link = Link(url="https://example.com/a.png")
    one = submissions.submit_links([(request, link)], settings=settings())[0].id
    errand = fetching.begin(one, settings())
    assert errand is not None
    fetching.give_back(errand)
    assert (case(one).status, case(one).attempts, case(one).lease_until) == (CaseStatus.FETCHING, 0, None)


def test_what_was_finished_meanwhile_or_cannot_be_given_back_holds_nobody_up() -> None:
    given: list[str] = []
    ended = threading.Event()
    leaves = Departure(0.01, end=lambda status: ended.set())

    def fails(error: Exception) -> None:
        raise error

    with (
        leaves.holding(lambda: fails(LostLease("finished"))),
        leaves.holding(lambda: fails(RuntimeError("the database is away"))),
        leaves.holding(lambda: given.append("one")),
    ):
        with leaves.holding(lambda: given.append("done before")):
            pass
        leaves.begin()
        assert ended.wait(60)
    assert given == ["one"]


def test_what_a_thread_takes_up_while_others_are_given_back_is_given_back_too() -> None:
    given: list[str] = []
    ended: list[int] = []
    leaves = Departure(end=ended.append)
    with ExitStack() as late:

        def first() -> None:
            given.append("first")
            late.enter_context(leaves.holding(lambda: given.append("second")))

        with leaves.holding(first):
            leaves.leave()
    assert (given, ended) == (["first", "second"], [0])
