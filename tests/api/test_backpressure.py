"""Before anything runs full senders are told to come back, and where something is full nothing is half done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError
from psycopg.errors import DiskFull
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.test import TestResponse

from api.intake import cases as polls
from moderation import db as database
from moderation import submissions
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Image, Submission, Upload
from tests.api.bad_input import make_source, webhook
from tests.api.conftest import Client
from tests.api.test_submissions import KEY, LINK, count, use
from tests.factories import make_version

LINKS = {"submissions": [{"image_url": LINK}, {"image_url": LINK}]}


def ways_in(client: Client) -> dict[str, TestResponse]:
    """One answer of every way by which images come."""
    return {
        "file": client.send(),
        "link": client.post("/v1/submissions", json={"image_url": LINK}),
        "batch": client.post("/v1/submissions/batch", json=LINKS),
        "upload": client.post("/v1/uploads"),
        "webhook": webhook(client, make_source(client)),
    }


def refused(answer: TestResponse, status: int, kind: str) -> bool:
    """Whether it is that problem, with a time to come back after."""
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json"), answer.text
    assert int(answer.headers["Retry-After"]) > 0
    return bool(answer.get_json()["type"] == f"urn:telltale:problem:{kind}")


@pytest.mark.parametrize(("limit", "kind"), [("max_waiting_cases", "too-busy"), ("max_waiting_in_all", "service-busy")])
def test_every_way_in_is_closed_while_too_much_waits(
    client: Client, monkeypatch: pytest.MonkeyPatch, limit: str, kind: str
) -> None:
    assert client.send().status_code == 202
    use(client, monkeypatch, settings=settings().model_copy(update={limit: 1}))
    for name, answer in ways_in(client).items():
        assert refused(answer, 429, kind), name
    assert [count(table) for table in (Case, Submission, Image, Upload)] == [1, 1, 1, 0]


def test_nothing_is_decoded_for_whom_there_is_no_room(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.send().status_code == 202
    use(client, monkeypatch, settings=settings().model_copy(update={"max_waiting_cases": 1}), sandbox=None)
    assert refused(client.send(), 429, "too-busy")


@pytest.mark.parametrize(("code", "status"), [("QuotaExceeded", 403), ("XMinioStorageFull", 507), ("Other", 507)])
def test_a_store_without_space_says_so(client: Client, monkeypatch: pytest.MonkeyPatch, code: str, status: int) -> None:
    store = Storage(settings())

    def full(**_: object) -> None:
        said: Any = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(said, "PutObject")

    monkeypatch.setattr(store._at_once, "put", lambda *_: False)
    monkeypatch.setattr(store._client, "put_object", full)
    use(client, monkeypatch, storage=store)
    answer = client.send()
    assert refused(answer, 503, "storage-full") and answer.headers["Retry-After"] == "60"
    assert [count(table) for table in (Case, Submission, Image)] == [0, 0, 0]


def test_a_database_without_space_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OperationalError("INSERT", {}, DiskFull("could not extend file"))

    monkeypatch.setattr(submissions.cases, "open_case", full)
    answer = client.send()
    assert refused(answer, 503, "database-full") and answer.headers["Retry-After"] == "60"
    assert [count(table) for table in (Case, Submission, Image)] == [0, 0, 0]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    """A pool of one connection for whoever serves, who is this thread; what was asked for one.

    The relay's bell is rung from another, at any moment, and keeps its own.
    """
    engine = create_engine(settings().database_url, pool_size=1, max_overflow=0, pool_timeout=0.2)
    usual, here, asked = database.engine, threading.get_ident(), []

    def pool() -> Engine:
        if threading.get_ident() != here:
            return usual()
        asked.append(engine)
        return engine

    monkeypatch.setattr(database, "engine", pool)
    yield asked
    engine.dispose()


@contextmanager
def all_connections_taken() -> Iterator[None]:
    with database.engine().connect():
        yield


@pytest.mark.usefixtures("bucket")
def test_a_full_pool_refuses_in_time_and_probes_tell_it_from_a_dead_process(
    client: Client, narrow: list[Engine]
) -> None:
    with transaction() as session:
        make_version(session)
    with all_connections_taken():
        narrow.clear()
        assert refused(client.send(), 503, "database-busy")
        assert len(narrow) == 1, "it is waited for once"
        assert client.http.get("/health/live").status_code == 200
        ready = client.http.get("/health/ready")
        assert (ready.status_code, ready.get_json()["checks"]["database"]) == (503, "does not answer")
    assert client.http.get("/health/ready").status_code == 200
    assert client.send().status_code == 202


@pytest.mark.usefixtures("narrow")
def test_a_pool_that_fills_up_on_the_way_leaves_nothing_half_done(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are stored, and then there is no connection for the rows; the same request later opens one case."""
    taken: list[Any] = []
    with monkeypatch.context() as patch:
        keep = submissions.originals.keep

        def keep_and_take(*args: Any) -> Any:
            kept = keep(*args)
            taken.append(database.engine().connect())
            return kept

        patch.setattr(submissions.originals, "keep", keep_and_take)
        assert refused(client.send(headers=KEY), 503, "database-busy")
    taken[0].close()
    assert [count(table) for table in (Case, Submission, Image)] == [0, 0, 0]
    assert client.send(headers={"Idempotency-Key": "another"}).status_code == 202
    assert count(Case) == 1


def test_a_long_poll_that_loses_the_database_does_not_deny_the_case(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise PoolTimeout("QueuePool limit reached")

    monkeypatch.setattr(polls.cases, "case_of", busy)
    answer = client.send(path="/v1/submissions?wait=5")
    assert (answer.status_code, answer.get_json()["status"]) == (202, "queued")
    assert count(Case) == 1
