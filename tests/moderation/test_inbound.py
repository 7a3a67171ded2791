"""Inbound webhooks: whose they are, which images they speak of, and bodies that speak of none."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from moderation import inbound, signing
from moderation.db import new_id, transaction
from moderation.errors import AddressRefused, InvalidRequest, SignatureInvalid
from moderation.inbound import Reference
from moderation.settings import settings
from moderation.submissions import Link
from moderation.tables import ReceivedWebhook, Source, Tenant
from moderation.vocabulary import SourceKind, SourceScheme
from tests.moderation.test_sources import URL, source, stored

# --- Who sent it ---


def test_standard_webhooks_are_verified_and_named_by_their_id() -> None:
    secret = signing.new_secret()
    body, now = b'{"a": 1}', datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(secret).sign("msg_1", now, body.decode()),
    }
    ours = source(secrets=[signing.new_secret(), secret])
    assert inbound.verify(ours, headers, body) == "msg_1"
    for broken in ({**headers, "webhook-id": "msg_2"}, {**headers, "webhook-signature": "v1,AAAA"}, {}):
        with pytest.raises(SignatureInvalid):
            inbound.verify(ours, broken, body)
    with pytest.raises(SignatureInvalid):
        inbound.verify(ours, headers, body + b" ")


def github_signature(body: bytes, secret: str = "s3cret") -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def test_github_webhooks_are_verified_and_named_by_their_delivery_or_their_body() -> None:
    ours, body = source(SourceScheme.GITHUB), b'{"a": 1}'
    signed = {"x-hub-signature-256": github_signature(body)}
    assert inbound.verify(ours, {**signed, "x-github-delivery": "d-1"}, body) == "d-1"
    assert inbound.verify(ours, signed, body) == hashlib.sha256(body).hexdigest()
    for headers in ({}, {"x-hub-signature-256": github_signature(body, "other")}, {"x-hub-signature-256": "sha256="}):
        with pytest.raises(SignatureInvalid):
            inbound.verify(ours, headers, body)


def test_bearer_webhooks_are_verified_and_named_by_a_header_of_the_sources_choice() -> None:
    body = b'{"a": 1}'
    signed = {"authorization": "Bearer s3cret", "x-event-id": "e-1"}
    assert inbound.verify(source(SourceScheme.BEARER, id_header="X-Event-Id"), signed, body) == "e-1"
    assert inbound.verify(source(SourceScheme.BEARER), signed, body) == hashlib.sha256(body).hexdigest()
    for wrong in ("", "Bearer", "Bearer other", "Basic s3cret", "s3cret"):
        with pytest.raises(SignatureInvalid):
            inbound.verify(source(SourceScheme.BEARER), {"authorization": wrong}, body)


@pytest.mark.parametrize("scheme", list(SourceScheme))
@given(
    headers=st.dictionaries(
        st.sampled_from(
            ["webhook-id", "webhook-timestamp", "webhook-signature", "x-hub-signature-256", "authorization"]
        ),
        st.text() | st.sampled_from(["v1,AAAA", "sha256=00", "Bearer x", "1767225600", "v1,\ud800"]),
    ),
    body=st.binary(),
)
def test_no_header_and_no_body_gets_through_or_breaks_the_verifier(
    scheme: SourceScheme, headers: dict[str, str], body: bytes
) -> None:
    ours = source(scheme, secrets=[signing.new_secret()])
    with pytest.raises(SignatureInvalid):
        inbound.verify(ours, headers, body)


# --- What it speaks of ---


def read(ours: Source, document: Any) -> list[Reference]:
    return inbound.references(ours, json.dumps(document).encode())


def test_pointers_find_the_link_the_id_and_the_metadata() -> None:
    document = {"data": {"image": {"url": URL}, "id": 17, "about": {"user": "u1"}}}
    assert read(source(), document) == [Reference(Link(url=URL), "17", {"user": "u1"})]


def test_pointers_reach_into_lists_and_through_escaped_names() -> None:
    ours = source(image_url_pointer="/a~1b/0/c~0d", external_id_pointer=None, metadata_pointer=None)
    assert read(ours, {"a/b": [{"c~d": URL}]}) == [Reference(Link(url=URL), None, {})]


@pytest.mark.parametrize("about", [None, "text", 5, ["a"]])
def test_what_is_missing_beside_the_link_is_left_out(about: Any) -> None:
    assert read(source(), {"data": {"image": {"url": URL}, "about": about}}) == [Reference(Link(url=URL), None, {})]


@pytest.mark.parametrize(
    "document",
    [{}, [], None, 5, "text", {"data": None}, {"data": []}, {"data": {"image": URL}}, {"data": {"image": {"url": 5}}}],
)
def test_a_body_without_a_link_where_it_should_be_says_where(document: Any) -> None:
    with pytest.raises(InvalidRequest, match="/data/image/url") as refused:
        read(source(), document)
    assert refused.value.pointer == "/data/image/url"


S3_SOURCE = {"kind": SourceKind.S3_EVENT, "s3_access_key": "a", "s3_secret_key": "b"}


def record(bucket: str, key: str) -> dict[str, Any]:
    return {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}}}


@pytest.mark.parametrize("name", ["a.png", "new folder/a b+c.png", "ü/日本/\U0001f9ff.png", "100%.png", "a%20b.png"])
def test_s3_keys_are_decoded_as_s3_encodes_them(name: str) -> None:
    (reference,) = read(source(**S3_SOURCE), {"Records": [record("uploads", quote_plus(name, safe="/"))]})
    assert reference.link == Link(s3_bucket="uploads", s3_object=name)
    assert (reference.external_id, reference.metadata) == (name, {"bucket": "uploads", "key": name})


def test_every_record_of_an_s3_event_is_an_image_and_a_broken_one_is_pointed_at() -> None:
    ours = source(**S3_SOURCE)
    good = [record("uploads", f"{n}.png") for n in range(3)]
    assert [one.external_id for one in read(ours, {"Records": good})] == ["0.png", "1.png", "2.png"]
    for broken in ({}, None, {"s3": {"bucket": {}, "object": {"key": "k"}}}, record("b", None)):  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest) as refused:
            read(ours, {"Records": [*good, broken]})
        assert refused.value.pointer == "/Records/3/s3"


def test_an_external_id_from_a_key_fits_where_ids_are_kept() -> None:
    (reference,) = read(source(**S3_SOURCE), {"Records": [record("b", "x" * 1024)]})
    assert reference.external_id == "x" * 255 and reference.link.s3_object == "x" * 1024


def test_s3s_test_event_and_removals_speak_of_no_image() -> None:
    ours = source(**S3_SOURCE)
    removal = {**record("b", "gone.png"), "eventName": "ObjectRemoved:Delete"}
    minio = {**record("b", "made.png"), "eventName": "s3:ObjectCreated:Put"}
    assert read(ours, {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}) == []
    assert [one.link.s3_object for one in read(ours, {"Records": [removal, minio]})] == ["made.png"]


@pytest.mark.parametrize("document", [{}, [], None, "x", {"Records": []}, {"Records": {}}])
def test_an_s3_event_without_records_is_refused(document: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(source(**S3_SOURCE), document)
    assert refused.value.pointer == "/Records"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "image", "url", "id", "Records", "s3", "bucket", "object", "key", "name", ""]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)

BODIES = st.binary() | JSON.map(json.dumps).map(str.encode) | JSON.map(lambda value: json.dumps(value).encode("utf-16"))


@pytest.mark.parametrize("ours", [source(), source(**S3_SOURCE)], ids=["json", "s3"])
@given(body=BODIES)
def test_whatever_the_body_is_it_is_read_or_it_is_an_invalid_request(ours: Source, body: bytes) -> None:
    try:
        found = inbound.references(ours, body)
    except InvalidRequest:
        return
    assert found
    assert all(one.link.url or one.link.s3_bucket is not None for one in found)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"NaN", b'"\\ud800"', b"\x00"],
    ids=range(9),
)
def test_bodies_that_break_parsers_are_an_invalid_request(body: bytes) -> None:
    for ours in (source(), source(**S3_SOURCE)):
        with pytest.raises(InvalidRequest):
            inbound.references(ours, body)


# --- The same webhook again ---


def test_the_same_id_gets_the_same_answer_and_stands_or_falls_with_its_commit(tenant: Tenant) -> None:
    made = stored(tenant)
    assert inbound.answer_of(made.id, "w1") is None
    with pytest.raises(ZeroDivisionError), transaction() as session:
        inbound.remember(session, made.id, "w1", {"cases": [1]})
        _ = 1 / 0
    assert inbound.answer_of(made.id, "w1") is None
    with transaction() as session:
        assert inbound.remember(session, made.id, "w1", {"cases": [1]})
    with transaction() as session:
        assert not inbound.remember(session, made.id, "w1", {"cases": [2]})
    assert inbound.answer_of(made.id, "w1") == {"cases": [1]}
    assert inbound.answer_of(stored(tenant, name="other").id, "w1") is None


def test_of_threads_with_the_same_webhook_one_is_remembered(tenant: Tenant) -> None:
    made, rivals = stored(tenant), 5
    barrier = threading.Barrier(rivals, timeout=60)

    def receive(number: int) -> list[bool]:
        got = []
        for webhook in range(15):
            barrier.wait()
            with transaction() as session:
                got.append(inbound.remember(session, made.id, f"w{webhook}", {"by": number}))
        return got

    with ThreadPoolExecutor(rivals) as pool:
        for at_once in zip(*pool.map(receive, range(rivals)), strict=True):
            assert sum(at_once) == 1


def test_ids_are_remembered_for_30_days(tenant: Tenant) -> None:
    made = stored(tenant)
    with transaction() as session:
        for name, days in (("young", 29), ("old", 31)):
            inbound.remember(session, made.id, name, {})
            row = session.get_one(ReceivedWebhook, (made.id, name))
            row.received_at = datetime.now(UTC) - timedelta(days=days)
    with transaction() as session:
        assert inbound.forget_received(session) == 1
        assert session.scalars(select(ReceivedWebhook.webhook_id)).all() == ["young"]


# --- Trying one ---


@pytest.mark.parametrize("scheme", list(SourceScheme))
def test_what_is_signed_here_holds(scheme: SourceScheme) -> None:
    ours, body = source(scheme, secrets=[signing.new_secret()], tenant_id=new_id()), json.dumps({"data": {}}).encode()
    assert inbound.try_out(ours, inbound.signed(ours, body), body, settings()).refusal is None
    assert inbound.try_out(ours, {}, body, settings()).refusal is not None


def tried(document: Any, **fields: Any) -> inbound.Trial:
    ours = source(secrets=[signing.new_secret()], tenant_id=new_id(), **fields)
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return inbound.try_out(ours, inbound.signed(ours, b"{}"), body, settings())


def test_a_trial_says_what_would_be_read() -> None:
    trial = tried({"data": {"image": {"url": URL}, "id": 17, "about": {"user": "u1"}}})
    (found,) = trial.images
    assert found.reference == Reference(Link(url=URL), "17", {"user": "u1"})
    assert found.problem is trial.problem is trial.nearest is None


@pytest.mark.parametrize(
    ("document", "nearest"),
    [
        ({"data": {"picture": 1}}, "At /data there is an object with picture."),
        ({"data": {"image": [1, 2]}}, "At /data/image there is a list of 2; name one by its number, such as /0."),
        ({"data": {"image": {"url": None}}}, "At /data/image/url there is null."),
        ({"data": "x"}, "At /data there is a text."),
        ([], "At the top there is a list of 0; name one by its number, such as /0."),
        ({}, "At the top there is an object with nothing in it."),
        (17, "At the top there is a number."),
    ],
)
def test_a_trial_says_how_far_the_pointer_goes(document: Any, nearest: str) -> None:
    trial = tried(document)
    assert trial.problem is not None and trial.problem.pointer == "/data/image/url"
    assert trial.nearest == nearest


def test_a_trial_says_what_a_submission_would_refuse_and_where() -> None:
    images = [
        tried({"data": {"image": {"url": "ftp://example.com/a"}}}).images[0],
        tried({"data": {"image": {"url": URL}, "id": "x" * 300}}).images[0],
        tried({"data": {"image": {"url": URL}, "about": {"a": "x" * 9000}}}).images[0],
    ]
    problems = [found.problem for found in images]
    assert [problem.pointer for problem in problems if problem] == ["/data/image/url", "/data/id", "/data/about"]
    assert isinstance(problems[0], AddressRefused)


@pytest.mark.parametrize("body", [b"", b"nothing", b"\xff", b"[" * 100_000])
def test_a_trial_of_what_is_no_json_says_so(body: bytes) -> None:
    trial = tried(body)
    assert trial.problem is not None and "not JSON" in trial.problem.message and trial.nearest is None


def test_a_trial_remembers_and_submits_nothing(tenant: Tenant) -> None:
    made, body = stored(tenant), json.dumps({"data": {"image": {"url": URL}}}).encode()
    trial = inbound.try_out(made, inbound.signed(made, body), body, settings())
    assert trial.webhook_id is not None and inbound.answer_of(made.id, trial.webhook_id) is None
