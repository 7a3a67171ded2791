"""Submitting: files, links, uploads, batches; what an Idempotency-Key promises; and that an error leaves nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from typing import Any
from uuid import UUID

import pytest
import urllib3
from sqlalchemy import create_engine, func, select
from werkzeug.test import TestResponse

from api import process
from api.app import Application
from api.bodies import CaseShown
from moderation import db as db_module
from moderation import idempotency, images
from moderation.db import transaction
from moderation.sandbox import Sandbox, SandboxCrash
from moderation.settings import settings
from moderation.storage import Storage, original_key
from moderation.tables import Case, IdempotencyKey, Image, Submission
from moderation.vocabulary import CaseStatus
from tests.api.conftest import Client
from tests.factories import make_case
from tests.images import encoded, picture, png

LINK = "https://example.com/picture.jpg"


def count(table: Any) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_file_becomes_a_case_and_its_bytes_are_kept_as_sent(client: Client, bucket: str) -> None:
    data = png()
    fields = {"external_id": "post-1", "metadata": '{"uploader": "ü"}', "priority": "high"}
    answer = client.send(data, fields=fields)
    assert answer.status_code == 202
    case = answer.get_json()
    assert answer.headers["Location"] == f"/v1/cases/{case['id']}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert (case["status"], case["external_id"], case["metadata"]) == ("queued", "post-1", {"uploader": "ü"})
    assert case["priority"] == "high"
    key = original_key(client.tenant.id, UUID(case["image"]["id"]))
    assert Storage(settings()).get(key, max_bytes=10**6) == data
    assert client.get(answer.headers["Location"]).get_json() == case


def test_a_link_becomes_a_case_that_waits_to_be_fetched(client: Client) -> None:
    answer = client.post("/v1/submissions", json={"image_url": LINK, "metadata": {"a": [1, None]}})
    assert answer.status_code == 202
    case = answer.get_json()
    assert (case["status"], case["image"], case["metadata"]) == ("fetching", None, {"a": [1, None]})


def test_what_is_shown_is_what_is_documented(client: Client) -> None:
    with transaction() as session:
        made = [make_case(session, client.tenant, status).id for status in CaseStatus]
    for case_id in made:
        shown = client.get(f"/v1/cases/{case_id}").get_json()
        CaseShown.model_validate_json(json.dumps(shown))
        assert set(shown) == set(CaseShown.model_fields)


def test_the_same_image_again_is_another_case_of_the_same_image(client: Client) -> None:
    first, second = client.send(), client.send()
    assert first.get_json()["id"] != second.get_json()["id"]
    assert first.get_json()["image"]["id"] == second.get_json()["image"]["id"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"priority": "asap"}, "/priority"),
        ({"external_id": "x" * 256}, "/external_id"),
        ({"external_id": "a\x00b"}, "/external_id"),
        ({"metadata": "[1]"}, "/metadata"),
        ({"metadata": "{"}, "/metadata"),
        ({"metadata": '{"a": NaN}'}, "/metadata"),
        ({"metadata": '{"a": 1e999}'}, "/metadata"),
        ({"metadata": '{"a": "\\u0000"}'}, "/metadata"),
        ({"metadata": '{"a": "\\ud800"}'}, "/metadata"),
        ({"metadata": "[" * 100_000}, "/metadata"),
        ({"metadata": json.dumps({"a": "x" * 9000})}, "/metadata"),
        ({"metadata": json.dumps({"subject": "x" * 256})}, "/metadata/subject"),
        ({"metadat": "{}"}, "/metadat"),
        ({"priority": ["low", "high"]}, "/priority"),
        ({"second": (io.BytesIO(b"x"), "x.png")}, "/second"),
    ],
)
def test_a_wrong_field_is_pointed_at(client: Client, fields: dict[str, Any], pointer: str) -> None:
    answer = client.send(fields=fields)
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, pointer), answer.text
    assert count(Case) == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"image_url": LINK, "upload_id": "0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a55"}, ""),
        ({"image_url": LINK, "metadata": None}, "/metadata"),
        ({"image_url": LINK, "metadata": {"a": "\x00"}}, "/metadata"),
        ({"image_url": LINK, "metadata": {"subject": "x" * 256}}, "/metadata/subject"),
        ({"image_url": 7}, "/image_url"),
        ({"image_url": LINK + "\ud800"}, "/image_url"),
        ({"image_url": LINK, "external_id": "\ud800"}, "/external_id"),
        ({"image_url": LINK, "metadata": {"\ud800": 1}}, "/metadata"),
        ({"image_url": "ftp://example.com/a"}, "/image_url"),
        ({"image_url": "https://user:secret@example.com/a"}, "/image_url"),
        ({"image_url": "http://me:secret@example.com/a"}, "/image_url"),
        ({"upload_id": "mine"}, "/upload_id"),
        ([], ""),
        (7, ""),
    ],
)
def test_a_wrong_json_body_is_pointed_at(client: Client, body: Any, pointer: str) -> None:
    answer = client.post("/v1/submissions", json=body)
    assert (answer.status_code, answer.get_json().get("pointer", "")) == (400, pointer), answer.text
    assert count(Case) == 0


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"a": 1e999}', b'{"a": NaN}', b"[" * 100_000, b"nul"])
def test_json_that_is_none_is_a_400(client: Client, content: bytes) -> None:
    answer = client.post("/v1/submissions", data=content, content_type="application/json")
    assert (answer.status_code, answer.get_json()["title"]) == (400, "The request is not valid")
    assert "not JSON" in answer.get_json()["detail"]


@pytest.mark.parametrize("content_type", ["image/png", "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_a_415_that_says_what_to_send(client: Client, content_type: str) -> None:
    answer = client.post("/v1/submissions", data=png(), content_type=content_type)
    assert answer.status_code == 415
    assert "multipart/form-data" in answer.get_json()["detail"] and content_type in answer.get_json()["detail"]


@pytest.mark.parametrize("wait", ["-1", "31", "nan", "soon"])
def test_a_wrong_wait_is_pointed_at(client: Client, wait: str) -> None:
    answer = client.send(path=f"/v1/submissions?wait={wait}")
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, "/wait")


def test_a_waiting_limit_answers_429_with_retry_after(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    use(client, monkeypatch, settings=settings().model_copy(update={"max_waiting_cases": 1}))
    assert client.send().status_code == 202
    answer = client.send()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
    assert count(Case) == 1


def use(client: Client, monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    """Let the application have other parts for this test."""
    app = client.http.application
    known = app.extensions[process.EXTENSION]
    monkeypatch.setitem(app.extensions, process.EXTENSION, dataclasses.replace(known, **parts))


# --- Idempotency-Key ---

KEY = {"Idempotency-Key": "k-1"}


def test_the_same_key_and_request_get_the_same_answer(client: Client) -> None:
    first, second = client.send(headers=KEY), client.send(headers=KEY)
    assert second.status_code == first.status_code == 202
    assert second.get_json() == first.get_json()
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert count(Case) == 1


def test_a_key_is_one_tenants(client: Client, stranger: Client) -> None:
    first, second = client.send(headers=KEY), stranger.send(headers=KEY)
    assert second.status_code == 202 and second.get_json()["id"] != first.get_json()["id"]


@pytest.mark.parametrize(
    "change",
    [{"external_id": "other"}, {"metadata": '{"a": 2}'}, {"priority": "low"}],
    ids=lambda change: next(iter(change)),
)
def test_the_same_key_with_other_fields_is_a_422(client: Client, change: dict[str, str]) -> None:
    fields = {"external_id": "one", "metadata": '{"a": 1}', "priority": "high"}
    assert client.send(headers=KEY, fields=fields).status_code == 202
    assert client.send(headers=KEY, fields=fields | change).status_code == 422
    assert client.post("/v1/submissions", headers=KEY, json={"image_url": LINK}).status_code == 422
    assert count(Case) == 1


def test_a_key_whose_request_runs_is_a_409(client: Client) -> None:
    first = client.send(headers=KEY)
    with transaction() as session:
        row = session.get_one(IdempotencyKey, (client.tenant.id, "k-1"))
        fingerprint = row.fingerprint
        session.delete(row)
    assert isinstance(idempotency.begin(client.tenant.id, "k-1", fingerprint), idempotency.Claim)
    answer = client.send(headers=KEY)
    assert (first.status_code, answer.status_code, answer.headers["Retry-After"]) == (202, 409, "1")


def test_an_error_frees_the_key(client: Client) -> None:
    assert client.send(b"", headers=KEY).status_code == 422
    assert client.send(headers=KEY).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_without_sense_is_a_400(client: Client, key: str) -> None:
    answer = client.send(headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, "/Idempotency-Key")


def test_many_at_once_under_one_key_open_one_case(client: Client, app: Application) -> None:
    answers: list[TestResponse] = []

    def send() -> None:
        own = Client(client.tenant, client.token, app.test_client())
        answers.append(own.send(headers=KEY))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.get_json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert count(Case) == 1


# --- Uploads ---


def put_file(form: dict[str, Any], data: bytes) -> int:
    return urllib3.request("POST", form["url"], fields={**form["fields"], "file": ("picture", data)}).status


def test_a_large_file_goes_through_an_upload(client: Client) -> None:
    form = client.post("/v1/uploads")
    assert form.status_code == 201
    upload = form.get_json()
    data = encoded(picture(size=(600, 400)))
    assert put_file(upload, data) in (200, 201, 204)
    answer = client.post("/v1/submissions", json={"upload_id": upload["id"], "external_id": "big"})
    assert answer.status_code == 202, answer.text
    assert answer.get_json()["image"]["bytes"] == len(data)
    put_file(upload, png())  # whoever has the form may write again; what was submitted stays
    key = original_key(client.tenant.id, UUID(answer.get_json()["image"]["id"]))
    assert Storage(settings()).get(key, max_bytes=10**7) == data


def test_an_upload_that_never_arrived_says_so(client: Client) -> None:
    upload = client.post("/v1/uploads").get_json()
    answer = client.post("/v1/submissions", json={"upload_id": upload["id"]})
    assert (answer.status_code, answer.get_json()["pointer"]) == (404, "/upload_id")
    assert "Nothing has arrived" in answer.get_json()["detail"]


# --- Batches ---


def test_a_batch_opens_a_case_for_each_link_in_order(client: Client) -> None:
    links = [{"image_url": f"{LINK}?{n}", "external_id": f"e-{n}"} for n in range(100)]
    first = client.post("/v1/submissions/batch", json={"submissions": links}, headers=KEY)
    assert first.status_code == 202
    assert [case["external_id"] for case in first.get_json()["cases"]] == [link["external_id"] for link in links]
    again = client.post("/v1/submissions/batch", json={"submissions": links}, headers=KEY)
    assert again.get_json() == first.get_json() and again.headers["Idempotent-Replayed"] == "true"
    assert count(Case) == 100


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"image_url": "http:///a"}, "/submissions/1/image_url"),
        ({"image_url": LINK, "metadata": {"a": "\x00"}}, "/submissions/1/metadata"),
        ({"image_url": LINK, "metadata": {"subject": "x" * 256}}, "/submissions/1/metadata/subject"),
        ({"image_url": LINK, "surprise": 1}, "/submissions/1/surprise"),
        ({}, "/submissions/1/image_url"),
    ],
)
def test_one_wrong_link_refuses_the_batch(client: Client, wrong: dict[str, Any], pointer: str) -> None:
    answer = client.post("/v1/submissions/batch", json={"submissions": [{"image_url": LINK}, wrong]})
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, pointer)
    assert count(Case) == 0


@pytest.mark.parametrize("size", [0, 101])
def test_a_batch_has_1_to_100_links(client: Client, size: int) -> None:
    answer = client.post("/v1/submissions/batch", json={"submissions": [{"image_url": LINK}] * size})
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, "/submissions")


# --- What fails leaves nothing ---


def test_a_store_that_is_away_is_a_503_and_nothing_is_accepted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    away = settings().model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"})
    use(client, monkeypatch, storage=Storage(away))
    answer = client.send(headers=KEY)
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert int(answer.headers["Retry-After"]) > 0
    assert [count(table) for table in (Case, Submission, Image, IdempotencyKey)] == [0, 0, 0, 0]


def test_a_database_that_is_away_is_a_503(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    away = create_engine("postgresql+psycopg://nobody:secret@127.0.0.1:9/none")
    monkeypatch.setattr(db_module, "engine", lambda: away)
    answer = client.send()
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")
    assert int(answer.headers["Retry-After"]) > 0
    assert "secret" not in answer.text and "127.0.0.1" not in answer.text


class Broken(Sandbox):
    """A sandbox whose process always dies."""

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        raise SandboxCrash("The process that did the work ended with signal SIGKILL.")


def test_an_image_that_breaks_the_decoder_is_a_422(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    use(client, monkeypatch, sandbox=Broken(1, 2**30, 1))
    answer = client.send(headers=KEY)
    assert answer.status_code == 422
    assert "SIGKILL" not in answer.text
    assert count(Case) == 0 and count(IdempotencyKey) == 0


def test_a_defect_of_ours_is_a_500_that_tells_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "inspect", None)
    answer = client.send()
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    assert "None" not in answer.text and "Traceback" not in answer.text
    assert answer.get_json()["request_id"] == answer.headers["X-Request-Id"]
