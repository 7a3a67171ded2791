"""Platforms' webhooks in: signed three ways, images found in them, repeated ones recognised, also side by side."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from typing import Any

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from api.app import Application
from moderation import sealing, signing, sources
from moderation.db import new_id, transaction
from moderation.settings import settings
from moderation.tables import Case, ReceivedWebhook, Source, Submission
from moderation.vocabulary import SourceKind, SourceScheme
from tests.api.bad_input import LINK, make_source, webhook
from tests.api.conftest import Client
from tests.api.test_submissions import count, use


def post(client: Client, source: Source, body: bytes, **headers: str) -> TestResponse:
    return client.http.post(f"/v1/hooks/{source.id}", data=body, headers=headers, content_type="application/json")


def document(**fields: Any) -> bytes:
    return json.dumps({"id": "post-1", "image": {"url": LINK}, **fields}).encode()


def bearer(source: Source) -> dict[str, str]:
    return {"Authorization": f"Bearer {sources.secrets_of(source)[0]}"}


def test_a_webhook_opens_a_case_with_what_it_says(client: Client) -> None:
    source = make_source(client)
    answer = webhook(client, source)
    assert answer.status_code == 202, answer.text
    (opened,) = answer.get_json()["cases"]
    assert (opened["status"], opened["external_id"]) == ("fetching", "post-1")
    assert client.get(opened["url"]).get_json()["id"] == opened["id"]
    with transaction() as session:
        submission = session.get_one(Case, opened["id"]).submission
        assert (submission.source_id, submission.image_url) == (source.id, LINK)


def test_either_secret_signs_while_one_rotates(client: Client) -> None:
    source = make_source(client)
    fresh = signing.new_secret()
    with transaction() as session:
        session.get_one(Source, source.id).secrets = [sealing.seal(fresh, source.id), source.secrets[0]]
    assert webhook(client, source, webhook_id="a").status_code == 202
    assert webhook(client, source, webhook_id="b", secret=fresh).status_code == 202


def test_github_style(client: Client) -> None:
    source = make_source(client, SourceScheme.GITHUB)
    body = document()
    digest = hmac.new(sources.secrets_of(source)[0].encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": "d-1"}
    first, again = post(client, source, body, **headers), post(client, source, body, **headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.get_json() == again.get_json()
    assert post(client, source, body + b" ", **headers).status_code == 401


def test_bearer_without_an_id_is_known_by_its_body(client: Client) -> None:
    source = make_source(client, SourceScheme.BEARER)
    for _ in range(2):
        assert post(client, source, document(), **bearer(source)).status_code == 202
    assert post(client, source, document(id="post-2"), **bearer(source)).status_code == 202
    assert count(Case) == 2


def test_an_api_key_does_not_open_a_hook(client: Client) -> None:
    assert post(client, make_source(client), document(), **client.headers).status_code == 401


def bucket_source(client: Client) -> Source:
    with transaction() as session:
        return sources.create(
            session,
            Source(
                tenant_id=client.tenant.id,
                name="bucket",
                scheme=SourceScheme.BEARER,
                kind=SourceKind.S3_EVENT,
                s3_access_key="key",
            ),
            s3_secret_key="secret",
        )


def test_an_s3_test_event_is_accepted_and_opens_no_case(client: Client) -> None:
    source = bucket_source(client)
    test_event = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}).encode()
    answer = post(client, source, test_event, **bearer(source))
    assert (answer.status_code, answer.get_json()) == (202, {"cases": []})


def test_an_s3_event_opens_a_case_for_each_record(client: Client) -> None:
    source = bucket_source(client)
    records = [{"s3": {"bucket": {"name": "b"}, "object": {"key": key}}} for key in ("a+1.png", "b%2Fc.png")]
    answer = post(client, source, json.dumps({"Records": records}).encode(), **bearer(source))
    assert answer.status_code == 202, answer.text
    with transaction() as session:
        keys = session.scalars(select(Submission.s3_object).order_by(Submission.id)).all()
    assert keys == ["a 1.png", "b/c.png"]
    too_many = json.dumps({"Records": records * 51}).encode()
    assert post(client, source, too_many, **bearer(source)).status_code == 400


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b"\xff", b'{"image": {"url": 1}}', b"[" * 100_000, b""])
def test_a_webhook_without_an_image_is_a_400_and_may_come_again(client: Client, body: bytes) -> None:
    source = make_source(client, SourceScheme.BEARER)
    answer = post(client, source, body, **bearer(source))
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")
    assert count(ReceivedWebhook) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"image": {"url": "ftp://example.com/a"}},
        {"image": {"url": LINK + "\ud800"}},
        {"image": {"url": LINK}, "id": "a\x00"},
        {"image": {"url": LINK}, "id": "a\ud800"},
        {"image": {"url": LINK}, "id": "x" * 300},
    ],
)
def test_a_webhook_that_cannot_be_taken_leaves_nothing(client: Client, fields: dict[str, Any]) -> None:
    source = make_source(client, SourceScheme.BEARER)
    assert post(client, source, document(**fields), **bearer(source)).status_code == 400
    assert (count(Case), count(ReceivedWebhook)) == (0, 0)


def test_a_webhook_id_has_a_limit(client: Client) -> None:
    source = make_source(client, SourceScheme.GITHUB)
    body = document()
    digest = hmac.new(sources.secrets_of(source)[0].encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": "d" * 4000}
    assert post(client, source, body, **headers).status_code == 400


def test_a_large_body_is_refused_before_it_is_verified(client: Client) -> None:
    answer = post(client, make_source(client), b" " * (1024 * 1024 + 1))
    assert answer.status_code == 413


def test_an_unknown_and_a_disabled_source_look_the_same(client: Client) -> None:
    source = make_source(client)
    with transaction() as session:
        session.get_one(Source, source.id).disabled_at = func.now()
    (secret,) = sources.secrets_of(source)
    disabled = webhook(client, source)
    source.id = new_id()
    unknown = webhook(client, source, secret=secret)
    assert disabled.status_code == unknown.status_code == 404
    assert disabled.get_json()["type"] == unknown.get_json()["type"]


def test_a_full_queue_makes_the_platform_come_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(client)
    use(client, monkeypatch, settings=settings().model_copy(update={"max_waiting_cases": 1}))
    assert webhook(client, source, webhook_id="a").status_code == 202
    assert webhook(client, source, webhook_id="b").status_code == 429
    assert webhook(client, source, webhook_id="a").status_code == 202
    assert (count(Case), count(ReceivedWebhook)) == (1, 1)


def test_the_same_webhook_many_times_at_once_opens_one_case(client: Client, app: Application) -> None:
    source = make_source(client)
    answers: list[TestResponse] = []
    together = threading.Barrier(8)

    def send() -> None:
        own = Client(client.tenant, client.token, app.test_client())
        together.wait()
        answers.append(webhook(own, source))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.text for answer in answers}) == 1
    assert (count(Case), count(Submission)) == (1, 1)
