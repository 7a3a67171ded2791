"""Every hostile address through everything that calls one: links, webhooks' links, sources' stores, endpoints.

None may be connected to, and nobody is told what a name resolved to. What hostile servers do once they are connected to
is in tests/moderation/test_outbound.py.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import Engine
from standardwebhooks import Webhook
from werkzeug.test import TestResponse

from api import process
from api.app import Application
from moderation import attempts, endpoints, fetching, signing, sources
from moderation.db import new_id, transaction
from moderation.errors import InvalidRequest
from moderation.settings import settings
from moderation.tables import Case, Endpoint, Source
from moderation.vocabulary import CaseStatus, FailureReason, SourceKind, SourceScheme
from tests.api.conftest import Client, new_client
from tests.attacks.hostile import LITERAL, NAMED, PUBLIC, REBINDING, ZONE, Wire
from tests.factories import LEASE, make_endpoint

URLS = {**LITERAL, **NAMED}
# Enough to see that all of it is checked there too.
SOME = {**dict(list(LITERAL.items())[::8]), **NAMED}
REBOUND = f"http://{REBINDING}/x.png"


@dataclass(frozen=True)
class Platform:
    """A platform that means harm: its client, a source and its secret, a source of a bucket, an endpoint."""

    client: Client
    source_id: UUID
    secret: str
    bucket_source_id: UUID
    bucket_token: str
    endpoint_id: UUID


@pytest.fixture(scope="module")
def platform(app: Application, engine: Engine) -> Platform:
    """One for all; nothing it does is accepted."""
    client, secret, token = new_client(app), signing.new_secret(), "a long bearer token"
    with transaction() as session:
        fields = {"tenant_id": client.tenant.id, "image_url_pointer": "/image"}
        source = Source(name="uploads", scheme=SourceScheme.STANDARD, kind=SourceKind.JSON, **fields)
        sources.create(session, source, secret=secret)
        bucket = Source(
            name="bucket", scheme=SourceScheme.BEARER, kind=SourceKind.S3_EVENT, s3_access_key="k", **fields
        )
        sources.create(session, bucket, secret=token, s3_secret_key="s")
        endpoint = make_endpoint(session, client.tenant)
    return Platform(client, source.id, secret, bucket.id, token, endpoint.id)


@pytest.fixture
def wire() -> Wire:
    """Who was asked for, and what was connected to."""
    return Wire()


@contextmanager
def on(wire: Wire) -> Iterator[None]:
    """Our calls go over this wire; our own services are reached as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", wire.resolve)
        patch.setattr(socket, "create_connection", wire.connect)
        yield


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_a_submitted_link(platform: Platform, wire: Wire, url: str) -> None:
    answer = platform.client.post("/v1/submissions", json={"image_url": url})
    assert_refused(platform, wire, answer, answer.get_json().get("id"))


@pytest.mark.parametrize("url", SOME.values(), ids=SOME)
def test_a_link_in_a_webhook(platform: Platform, wire: Wire, url: str) -> None:
    body, moment = json.dumps({"image": url}), datetime.now(UTC)
    id_, at = str(new_id()), str(int(moment.timestamp()))
    signed = Webhook(platform.secret).sign(id_, moment, body)
    headers = {"webhook-id": id_, "webhook-timestamp": at, "webhook-signature": signed}
    answer = platform.client.http.post(f"/v1/hooks/{platform.source_id}", data=body, headers=headers)
    opened = answer.get_json().get("cases")
    assert_refused(platform, wire, answer, opened[0]["id"] if opened else None)


def assert_refused(platform: Platform, wire: Wire, answer: TestResponse, case_id: str | None) -> None:
    """The link was refused at once, or its case ended when a worker read it, and nothing was connected to."""
    if case_id is None:
        assert answer.status_code == 400, answer.text
        assert answer.get_json()["type"].rsplit(":")[-1] in ("address-refused", "invalid-request")
        return
    assert_case_ends(platform, wire, UUID(case_id), FailureReason.LINK_REFUSED)


def assert_case_ends(platform: Platform, wire: Wire, case_id: UUID, *reasons: FailureReason) -> None:
    """A worker reads it, connects to nothing, and ends it for one of these reasons."""
    fetch(platform, wire, case_id)
    with transaction() as session:
        case = session.get_one(Case, case_id)
    assert case.status is CaseStatus.FAILED and case.failure_reason in reasons, case.failure_detail
    assert case.failure_detail and not says_where(case.failure_detail)
    assert wire.connected == []


def fetch(platform: Platform, wire: Wire, case_id: UUID) -> None:
    """What the worker does."""
    errand = fetching.begin(case_id, settings())
    assert errand is not None
    parts = platform.client.http.application.extensions[process.EXTENSION]
    with on(wire):
        fetching.read(errand, store=parts.storage, sandbox=parts.sandbox, settings=settings())


def says_where(message: str) -> bool:
    """Whether a message says what a name resolved to; a host that is an address is named as it was given."""
    resolved = {address for answers in ZONE.values() for found in answers for address in found}
    return "attacker.example" in message and any(address in message for address in resolved)


@pytest.mark.parametrize("url", SOME.values(), ids=SOME)
def test_the_store_of_a_source(platform: Platform, wire: Wire, url: str) -> None:
    """However the address came into the row."""
    with transaction() as session:
        session.get_one(Source, platform.bucket_source_id).s3_endpoint_url = url
    record = {"s3": {"bucket": {"name": "b"}, "object": {"key": f"{url}.png"}}}
    answer = platform.client.http.post(
        f"/v1/hooks/{platform.bucket_source_id}",
        json={"Records": [record]},
        headers={"Authorization": f"Bearer {platform.bucket_token}"},
    )
    case_id = UUID(answer.get_json()["cases"][0]["id"])
    assert_case_ends(platform, wire, case_id, FailureReason.LINK_REFUSED, FailureReason.INTERNAL)


# Whatever is no address of the web; one that is private may be of a store on the deployment's own network.
NO_STORES = {name: url for name, url in LITERAL.items() if name.startswith(("user", "backslash", "NUL", "ftp", "file"))}


@pytest.mark.parametrize("url", NO_STORES.values(), ids=NO_STORES)
def test_a_source_with_such_a_store_is_not_made(platform: Platform, url: str) -> None:
    with pytest.raises(InvalidRequest) as refused, transaction() as session:
        source = session.get_one(Source, platform.bucket_source_id)
        sources.change(session, source, {"s3_endpoint_url": url}, actor="test")
    assert refused.value.pointer == "/s3_endpoint_url"


@pytest.mark.parametrize("url", LITERAL.values(), ids=LITERAL)
def test_an_endpoint_is_not_made(platform: Platform, url: str) -> None:
    answer = platform.client.post("/v1/endpoints", json={"url": url})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("url", SOME.values(), ids=SOME)
def test_a_delivery(platform: Platform, wire: Wire, url: str) -> None:
    """However the address came into the row, and whatever its name has become since."""
    outcome = deliver(platform, wire, url)
    assert outcome.status is None and outcome.error and not says_where(outcome.error)
    assert wire.connected == []


def deliver(platform: Platform, wire: Wire, url: str) -> attempts.Outcome:
    """One attempt to send a ping to this address."""
    with transaction() as session:
        endpoint = session.get_one(Endpoint, platform.endpoint_id)
        endpoint.url = url
        delivery = endpoints.ping(session, endpoint)
        session.flush()
        parcel = attempts.take(session, delivery.id, LEASE)
    assert parcel is not None
    with on(wire):
        return attempts.send(parcel, settings())


def test_what_is_connected_to_is_what_was_checked(platform: Platform, wire: Wire) -> None:
    """A name that is public when it is checked and ours a moment later: it is asked for once."""
    answer = platform.client.post("/v1/submissions", json={"image_url": REBOUND})
    fetch(platform, wire, UUID(answer.get_json()["id"]))
    assert (wire.asked, wire.connected) == ([REBINDING], [(PUBLIC, 80)])


def test_a_delivery_goes_to_what_was_checked(platform: Platform, wire: Wire) -> None:
    assert platform.client.post("/v1/endpoints", json={"url": REBOUND}).status_code == 201
    outcome = deliver(platform, wire, REBOUND)
    assert outcome.error and (wire.asked, wire.connected) == ([REBINDING], [(PUBLIC, 80)])
    again = deliver(platform, wire, REBOUND)
    assert again.error and "not a public address" in again.error and len(wire.connected) == 1, (
        "checked at every attempt"
    )


# Names that botocore gives an address of its own, or asks for a session first.
BUCKETS = [
    "pictures--use1-az4--x-s3",
    "pictures--ol-s3",
    "arn:aws:s3:us-east-1:123456789012:accesspoint/pictures",
    "arn:aws:s3-outposts:us-east-1:123456789012:outpost/op-1/accesspoint/pictures",
    "arn:aws:s3-object-lambda:us-east-1:123456789012:accesspoint/pictures",
]


@pytest.mark.parametrize("bucket", BUCKETS)
def test_signing_for_a_store_calls_nobody(platform: Platform, bucket: str) -> None:
    """botocore only signs: whatever the bucket is called, the one call to a source's store is ours, and is checked."""
    wire, calls = Wire(), []
    with transaction() as session:
        session.get_one(Source, platform.bucket_source_id).s3_endpoint_url = "http://127.0.0.1:9000"
    record = {"s3": {"bucket": {"name": bucket}, "object": {"key": "x.png"}}}
    answer = platform.client.http.post(
        f"/v1/hooks/{platform.bucket_source_id}",
        json={"Records": [record]},
        headers={"Authorization": f"Bearer {platform.bucket_token}"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib3.connectionpool.HTTPConnectionPool.urlopen", lambda *a, **k: calls.append(a))
        fetch(platform, wire, UUID(answer.get_json()["cases"][0]["id"]))
    assert (calls, wire.connected) == ([], [])
