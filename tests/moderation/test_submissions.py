"""Submissions: all of it or nothing, refused with a pointer, and 202 means stored."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import urllib3
from sqlalchemy import Connection, event, func, select, text, update

from moderation import db as database
from moderation import originals, submissions
from moderation.db import new_id, transaction
from moderation.errors import AddressRefused, InvalidRequest, NotFound, StorageUnavailable, TooBusy
from moderation.originals import Original
from moderation.settings import settings
from moderation.storage import Storage
from moderation.submissions import Link, Request
from moderation.tables import Case, Event, Image, Submission, Tenant, Upload
from moderation.vocabulary import CaseStatus, Priority
from tests.conftest import ServiceRun
from tests.factories import make_case, make_tenant
from tests.moderation.test_originals import drawn, facts_of, stored_under, unreachable

PUBLIC = "https://example.com/picture.png"


@pytest.fixture(scope="module")
def store(services: ServiceRun) -> Storage:
    return Storage(settings())


def request(tenant: Tenant, **fields: Any) -> Request:
    return Request(**{"tenant_id": tenant.id, "actor": "api_key:x", "request_id": "req-1", **fields})


def counted(*columns: Any) -> list[int]:
    with transaction() as session:
        return [session.scalar(select(func.count(column))) or 0 for column in columns]


# Of the events, those of cases: that the tenant was made is one too.
EVERYTHING = (Submission.id, Case.id, Image.id, Event.case_id)


def submit(store: Storage, tenant: Tenant, data: bytes, **fields: Any) -> Case:
    return submissions.submit_image(request(tenant, **fields), data, facts_of(data), storage=store, settings=settings())


# --- Images ---


def test_an_image_is_stored_queued_and_told_of(store: Storage, tenant: Tenant) -> None:
    data = drawn(31)
    case = submit(store, tenant, data, external_id="post-1", metadata={"k": "v"}, priority=Priority.HIGH)
    with transaction() as session:
        now = session.get_one(Case, case.id)
        assert (now.status, now.priority, now.sequence) == (CaseStatus.QUEUED, Priority.HIGH.rank, 1)
        sent = now.submission
        assert (sent.external_id, sent.details, sent.request_id) == ("post-1", {"k": "v"}, "req-1")
        assert now.image is not None
        assert store.get(now.image.s3_key, max_bytes=10**6) == data
        accepted = session.scalars(select(Event).where(Event.case_id == case.id)).one()
        assert (accepted.actor, accepted.request_id) == ("api_key:x", "req-1")


def test_the_same_bytes_at_the_same_moment_are_two_cases_of_one_image(
    store: Storage, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's are there between our looking for them and our writing the row."""
    data, keep = drawn(37), originals.keep
    faster: list[Case] = []

    def kept_too_late(*args: Any) -> Original:
        original = keep(*args)
        monkeypatch.setattr(originals, "keep", keep)
        faster.append(submit(store, tenant, data))
        return original

    monkeypatch.setattr(originals, "keep", kept_too_late)
    case = submit(store, tenant, data)
    assert case.image_id == faster[0].image_id and case.id != faster[0].id
    assert counted(*EVERYTHING) == [2, 2, 1, 2]
    assert len(store.listed(f"originals/{tenant.id}/", after="", limit=10)) == 1


def test_the_same_image_twice_is_two_cases_of_one_image(store: Storage, tenant: Tenant) -> None:
    first, second = submit(store, tenant, drawn(32)), submit(store, tenant, drawn(32))
    assert first.id != second.id and first.image_id == second.image_id


def test_without_the_store_nothing_is_accepted(tenant: Tenant) -> None:
    with pytest.raises(StorageUnavailable):
        submit(Storage(unreachable()), tenant, drawn(33))
    assert counted(*EVERYTHING) == [0, 0, 0, 0]


def test_what_fails_in_the_commit_leaves_no_rows(store: Storage, tenant: Tenant) -> None:
    def fails(session: object, cases: object) -> None:
        raise ZeroDivisionError

    data = drawn(34)
    with pytest.raises(ZeroDivisionError):
        submissions.submit_image(
            request(tenant), data, facts_of(data), storage=store, settings=settings(), on_commit=fails
        )
    with pytest.raises(ZeroDivisionError):
        submissions.submit_links([(request(tenant), Link(url=PUBLIC))], settings=settings(), on_commit=fails)
    assert counted(*EVERYTHING) == [0, 0, 0, 0]


def test_a_bell_that_fails_does_not_undo_what_was_accepted(store: Storage, tenant: Tenant) -> None:
    """The connection that rings is really cut, just as it rings, in a thread of the bell's own."""
    cut, rung = [], threading.Event()

    def cut_it(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("NOTIFY"):
            (pid,) = cursor.execute("SELECT pg_backend_pid()").fetchone()  # type: ignore[attr-defined]
            url = database.engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            cut.append(pid)
            rung.set()

    event.listen(database.engine(), "before_cursor_execute", cut_it)
    try:
        case = submit(store, tenant, drawn(35))
        assert rung.wait(60)
    finally:
        event.remove(database.engine(), "before_cursor_execute", cut_it)
    assert cut, "once, or for the test before this one too"
    with transaction() as session:
        assert session.get_one(Case, case.id).status is CaseStatus.QUEUED


# --- What is refused ---

DEEP: dict[str, Any] = {}
for _ in range(40):
    DEEP = {"a": DEEP}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an empty id": ({"external_id": ""}, "/external_id"),
    "an id of 256 characters": ({"external_id": "x" * 256}, "/external_id"),
    "a NUL in the id": ({"external_id": "a\x00b"}, "/external_id"),
    "half a character in the id": ({"external_id": "\ud800"}, "/external_id"),
    "metadata of 8193 bytes": ({"metadata": {"k": "x" * 8184}}, "/metadata"),
    "metadata in wide characters": ({"metadata": {"k": "\U0001f9ff" * 2100}}, "/metadata"),
    "a NUL in a value": ({"metadata": {"k": ["\x00"]}}, "/metadata"),
    "a NUL in a name": ({"metadata": {"\x00": 1}}, "/metadata"),
    "half a character in a value": ({"metadata": {"k": "\udfff"}}, "/metadata"),
    "not a number": ({"metadata": {"k": math.nan}}, "/metadata"),
    "an infinite number": ({"metadata": {"k": -math.inf}}, "/metadata"),
    "metadata nested too deep": ({"metadata": DEEP}, "/metadata"),
    "a subject of 256 characters": ({"metadata": {"subject": "x" * 256}}, "/metadata/subject"),
}


@pytest.mark.parametrize(("fields", "pointer"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_kept_is_refused_with_a_pointer(tenant: Tenant, fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        submissions.check(request(tenant, **fields), settings())
    assert refused.value.pointer == pointer


KEPT: dict[str, dict[str, Any]] = {
    "an id of 255 characters": {"external_id": "\U0001f9ff" * 255},
    "metadata of 8192 bytes": {"metadata": {"k": "x" * 8183}},
    "a backslash before u0000": {"metadata": {"k": "\\u0000", "l": "\\\\u0000"}},
    "control characters": {"metadata": {"k": "\x01\x1f\x7f\u2028"}},
    "numbers": {"metadata": {"k": [1e308, -0.0, 10**400, 5e-324, True, None]}},
    "a subject of 255 wide characters": {"metadata": {"subject": "".join(chr(0x1F400 + n) for n in range(255))}},
    "a long list as a subject": {"metadata": {"subject": list(range(1000, 2000))}},
    "deep, but not too deep": {"metadata": {"k": [[[[[[[[1]]]]]]]]}},
}


@pytest.mark.parametrize("fields", KEPT.values(), ids=KEPT.keys())
def test_what_can_be_kept_comes_back_as_it_was(tenant: Tenant, fields: dict[str, Any]) -> None:
    opened = submissions.submit_links([(request(tenant, **fields), Link(url=PUBLIC))], settings=settings())
    with transaction() as session:
        sent = session.get_one(Submission, opened[0].submission_id)
        assert (sent.external_id, sent.details) == (fields.get("external_id"), fields.get("metadata", {}))


# --- Links ---


def test_a_batch_is_accepted_whole(tenant: Tenant) -> None:
    batch = [(request(tenant, external_id=f"x{n}"), Link(url=f"{PUBLIC}?{n}")) for n in range(100)]
    opened = submissions.submit_links(batch, settings=settings())
    assert [case.status for case in opened] == [CaseStatus.FETCHING] * 100
    assert counted(*EVERYTHING) == [100, 100, 0, 100]


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_1_to_100_links(tenant: Tenant, count: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 100"):
        submissions.submit_links([(request(tenant), Link(url=PUBLIC))] * count, settings=settings())


BAD_LINKS: dict[str, Link] = {
    "no host": Link(url="http:///picture.png"),
    "a name and a password": Link(url="http://me:secret@example.com/picture.png"),
    "a file": Link(url="file:///etc/passwd"),
    "half a character": Link(url="https://example.com/\ud800"),
    "a NUL in a key": Link(s3_bucket="b", s3_object="a\x00b"),
    "half a character in a bucket": Link(s3_bucket="\ud800", s3_object="a"),
}


@pytest.mark.parametrize("link", BAD_LINKS.values(), ids=BAD_LINKS.keys())
def test_one_bad_link_refuses_the_batch_and_is_pointed_at(tenant: Tenant, link: Link) -> None:
    good = Link(url=PUBLIC)
    with pytest.raises((AddressRefused, InvalidRequest)) as refused:
        submissions.submit_links([(request(tenant), one) for one in (good, good, link)], settings=settings())
    assert (refused.value.pointer or "").startswith("/2/")
    assert counted(*EVERYTHING) == [0, 0, 0, 0]


# --- Back-pressure ---


def test_a_full_queue_refuses_its_tenant_and_no_other(store: Storage, tenant: Tenant) -> None:
    full = settings().model_copy(update={"max_waiting_cases": 3})
    with transaction() as session:
        other = make_tenant(session)
        for status in (CaseStatus.QUEUED, CaseStatus.FETCHING, CaseStatus.SCREENING):
            make_case(session, tenant, status)
            make_case(session, other, CaseStatus.DECIDED)
    data = drawn(36)
    with pytest.raises(TooBusy) as busy:
        submissions.submit_image(request(tenant), data, facts_of(data), storage=store, settings=full)
    assert busy.value.retry_after > 0
    with pytest.raises(TooBusy):
        submissions.submit_links([(request(tenant), Link(url=PUBLIC))], settings=full)
    assert stored_under(store, f"originals/{tenant.id}/") == set()
    submissions.submit_image(request(other), data, facts_of(data), storage=store, settings=full)


# --- Fingerprints ---


def test_a_fingerprint_tells_requests_apart_and_not_how_they_were_written(tenant: Tenant) -> None:
    base = submissions.fingerprint(request(tenant, metadata={"a": 1, "b": 2}), "sha")
    assert submissions.fingerprint(request(tenant, metadata={"b": 2, "a": 1}, request_id="other"), "sha") == base
    others = [
        submissions.fingerprint(request(tenant, metadata={"a": 1, "b": 2}), "other"),
        submissions.fingerprint(request(tenant, metadata={"a": 1, "b": 3}), "sha"),
        submissions.fingerprint(request(tenant, metadata={"a": 1, "b": 2}, external_id="x"), "sha"),
        submissions.fingerprint(request(tenant, metadata={"a": 1, "b": 2}, priority=Priority.LOW), "sha"),
    ]
    assert len({base, *others}) == 5


# --- Uploads ---


def test_an_upload_arrives_through_its_form_and_is_read_back(store: Storage, tenant: Tenant) -> None:
    upload, form = submissions.offer_upload(tenant.id, storage=store, settings=settings())
    data = drawn(37)
    sent = urllib3.request("POST", form["url"], fields={**form["fields"], "file": ("picture.png", data)})
    assert sent.status in (200, 204), sent.data
    assert submissions.read_upload(tenant.id, upload.id, storage=store, settings=settings()) == data


def test_an_upload_that_is_empty_expired_unknown_or_anothers_is_not_there(store: Storage, tenant: Tenant) -> None:
    upload, _ = submissions.offer_upload(tenant.id, storage=store, settings=settings())
    with transaction() as session:
        other = make_tenant(session)

    def read(tenant_id: Any, upload_id: Any) -> str:
        with pytest.raises(NotFound) as refused:
            submissions.read_upload(tenant_id, upload_id, storage=store, settings=settings())
        assert refused.value.pointer == "/upload_id"
        return refused.value.message

    assert "Nothing has arrived" in read(tenant.id, upload.id)
    store.put(upload.s3_key, b"data", "image/png")
    stranger, nobody = read(other.id, upload.id), read(other.id, unknown := new_id())
    assert stranger.replace(str(upload.id), "") == nobody.replace(str(unknown), ""), "the two are never told apart"
    with transaction() as session:
        session.execute(update(Upload).values(expires_at=datetime.now(UTC)))
    assert "expired" in read(tenant.id, upload.id)


def test_expired_uploads_are_forgotten_with_what_arrived(store: Storage, tenant: Tenant) -> None:
    old, young = (submissions.offer_upload(tenant.id, storage=store, settings=settings())[0] for _ in range(2))
    for upload in (old, young):
        store.put(upload.s3_key, b"data", "image/png")
    with transaction() as session:
        session.get_one(Upload, old.id).expires_at = datetime.now(UTC) - timedelta(seconds=1)
    assert submissions.forget_uploads(store) == 1
    assert submissions.forget_uploads(store) == 0
    assert (store.exists(old.s3_key), store.exists(young.s3_key)) == (False, True)
    with transaction() as session:
        assert session.scalars(select(Upload.id)).all() == [young.id]
        assert session.scalar(text("SELECT count(*) FROM cases")) == 0
