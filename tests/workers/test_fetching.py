"""The fetching worker: it keeps its case for as long as it lives, and gives it back unharmed when it ends."""

from __future__ import annotations

import http.server
import threading
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

from infra.services import wait_until
from moderation import fetching, images
from moderation.db import transaction
from moderation.errors import StorageUnavailable
from moderation.settings import Settings
from moderation.tables import Tenant
from moderation.vocabulary import CaseStatus
from tests import factories
from tests.leases import is_kept, lapse
from tests.misbehaving import hang
from tests.moderation.test_fetching import PNG, allowing, answer, link, reread
from tests.moderation.test_outbound import serving
from workers import fetching as worker
from workers.fetching import Fetcher
from workers.outage import Outage


def patient(*ports: int) -> Settings:
    """Nothing takes too long here, however slow the machine is."""
    return allowing(*ports, fetch_timeout_s=60.0, decode_timeout_s=120.0)


def begin_and_hang(begun: Path, *_: object) -> None:
    """For the sandbox's process."""
    begun.touch()
    hang()


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return factories.make_tenant(session)


def test_a_case_whose_link_takes_longer_than_its_lease_is_nobody_elses(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BEATS_PER_LEASE", 6000)  # ten a second
    reached, go_on = threading.Event(), threading.Event()

    def slow(request: http.server.BaseHTTPRequestHandler) -> None:
        reached.set()
        go_on.wait(120)
        answer(200, PNG)(request)

    with serving(slow) as server:
        rules = allowing(server.port, case_lease_s=600, fetch_timeout_s=120.0)
        case_id, fetcher = link(tenant, server.url()), Fetcher(rules)
        work = threading.Thread(target=fetcher.fetch, args=(case_id,))
        work.start()
        try:
            assert reached.wait(60)
            lapse()
            wait_until(lambda: is_kept(case_id), "the next beat")
            assert fetching.begin(case_id, rules) is None
        finally:
            go_on.set()
            work.join()
            fetcher.close()
    case = reread(case_id)
    assert (case.status, case.fence, case.lease_until) == (CaseStatus.QUEUED, 1, None)


def test_a_worker_that_ends_gives_its_case_back_and_no_attempt_is_lost(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = tmp_path / "decoding"
    monkeypatch.setattr(images, "inspect", partial(begin_and_hang, decoding))
    with serving(answer(200, PNG)) as server:
        case_id, fetcher = link(tenant, server.url()), Fetcher(patient(server.port))
        work = threading.Thread(target=fetcher.fetch, args=(case_id,))
        work.start()
        wait_until(decoding.exists, "the decoder's hanging")
        assert reread(case_id).lease_until is not None
        fetcher.close()
        work.join()
    case = reread(case_id)
    assert (case.status, case.attempts, case.lease_until) == (CaseStatus.FETCHING, 0, None)
    assert case.next_attempt_at <= datetime.now(UTC), "another worker may have it at once"
    assert not fetcher._heart._thread.is_alive()


def test_while_our_own_store_is_away_links_are_not_read_for_nothing(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def refuse(*_: object) -> None:
        raise StorageUnavailable("away")

    def count(request: http.server.BaseHTTPRequestHandler) -> None:
        read.append(request.path)
        answer(200, PNG)(request)

    with serving(count) as server:
        cases, fetcher = [link(tenant, server.url()) for _ in range(3)], Fetcher(patient(server.port))
        fetcher._outage = Outage(first_s=3600, patience_s=0)
        with monkeypatch.context() as away:
            away.setattr(fetcher._store, "put", refuse)
            for case_id in cases * 2:
                fetcher.fetch(case_id)
        assert len(read) == 1
        assert [reread(case_id).attempts for case_id in cases] == [0, 0, 0]
        fetcher._outage.over()
        fetcher.fetch(cases[1])
        fetcher.close()
    assert reread(cases[1]).status is CaseStatus.QUEUED


def test_a_link_that_fails_before_the_store_is_asked_does_not_say_that_the_store_is_back(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def refuse(*_: object) -> None:
        raise StorageUnavailable("away")

    with serving(answer(404)) as missing, serving(answer(200, PNG)) as server:
        fetcher = Fetcher(patient(missing.port, server.port))
        monkeypatch.setattr(fetcher._outage, "over", lambda: said.append("over"))
        with monkeypatch.context() as away:
            away.setattr(fetcher._store, "put", refuse)
            fetcher.fetch(link(tenant, missing.url()))
            assert said == []
        for expected in (["over"], ["over"]):
            fetcher.fetch(link(tenant, server.url()))
            assert said == expected, "the second time the bytes are there already, and the store is not asked"
        fetcher.close()
