"""Alive says nothing of anything else; ready says which part is missing. And what every answer carries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import create_engine

from moderation import db as db_module
from moderation import schema
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from tests.api.conftest import Client
from tests.api.test_submissions import use
from tests.factories import make_endpoint, make_version
from tests.moderation.test_sealing import key, with_keys

__all__ = ["with_keys"]


def away(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine("postgresql+psycopg://nobody:secret@127.0.0.1:9/none")
    monkeypatch.setattr(db_module, "engine", lambda: engine)


def test_ready_with_a_champion(client: Client, bucket: str) -> None:
    with transaction() as session:
        version = make_version(session)
    answer = client.http.get("/health/ready")
    assert answer.status_code == 200
    assert answer.get_json() == {
        "status": "ready",
        "checks": {"database": "ok", "model": "ok", "object_store": "ok", "keys": "ok"},
        "model": {"version": version.name, "kind": "demo"},
    }


def test_not_ready_without_a_champion(client: Client, bucket: str) -> None:
    answer = client.http.get("/health/ready")
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert answer.get_json()["checks"]["model"] != "ok"


def test_not_ready_without_the_key_of_a_stored_secret(
    client: Client, bucket: str, with_keys: Callable[[str], None]
) -> None:
    with transaction() as session:
        make_version(session)
        make_endpoint(session, client.tenant)
    with_keys(key(7))
    answer = client.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.get_json()["checks"]["keys"] == "some cannot be decrypted; see TELLTALE_SECRET_KEYS"
    assert client.http.get("/health/live").status_code == 200


def test_not_ready_without_a_store_but_alive(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction() as session:
        make_version(session)
    use(client, monkeypatch, storage=Storage(settings().model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})))
    answer = client.http.get("/health/ready")
    assert answer.status_code == 503
    checks = {"database": "ok", "model": "ok", "object_store": "does not answer", "keys": "ok"}
    assert answer.get_json()["checks"] == checks
    assert client.http.get("/health/live").status_code == 200


def test_not_ready_without_a_database_but_alive(client: Client, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    away(monkeypatch)
    answer = client.http.get("/health/ready")
    assert answer.status_code == 503
    assert answer.get_json()["checks"]["database"] == "does not answer"
    assert "secret" not in answer.text and "127.0.0.1" not in answer.text
    assert client.http.get("/health/live").get_json() == {"status": "alive"}


@pytest.mark.usefixtures("db", "bucket")
def test_not_ready_on_an_older_schema(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "NEEDED", "9999")
    answer = client.http.get("/health/ready")
    assert answer.status_code == 503 and "`telltale migrate`" in answer.get_json()["checks"]["database"]


@pytest.mark.parametrize("sent", ["abc-123", "0af7651916cd43dd8448eb211c80319c", "a/b:c=d+e_f.g"])
def test_a_sane_request_id_is_kept(client: Client, sent: str) -> None:
    assert client.get("/v1/cases", headers={"X-Request-Id": sent}).headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, '"><script>', "\xe9"])
def test_another_one_is_replaced(client: Client, sent: str) -> None:
    got = client.get("/v1/cases", headers={"X-Request-Id": sent}).headers["X-Request-Id"]
    assert got and got != sent


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/", {}, 404),
        ("PUT", "/v1/cases", {}, 405),
        ("GET", "/v1/submissions", {}, 405),
        ("GET", "/v1/cases", {"Accept": "text/html"}, 406),
        ("GET", "/v1/cases", {"Accept": "image/*"}, 406),
    ],
)
def test_what_http_refuses_is_a_problem_too(
    client: Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.http.open(path, method=method, headers={**client.headers, **headers})
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert answer.get_json()["status"] == status
    assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"]
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/problem+json", "text/html, */*;q=0.1", ""])
def test_who_can_read_json_gets_it(client: Client, accept: str) -> None:
    assert client.get("/v1/cases", headers={"Accept": accept}).status_code == 200


def test_no_page_of_another_site_may_read_an_answer(client: Client) -> None:
    answer = client.get("/v1/cases", headers={"Origin": "https://example.com"})
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
