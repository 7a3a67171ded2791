"""Fetching: links of every kind on real servers, and for each failure its reason, its event, and its second chance."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select, text, update

from moderation import dispatch, erasure, fetching, images, originals, sources
from moderation.db import transaction
from moderation.errors import LostLease, StorageUnavailable
from moderation.sandbox import Sandbox
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import Case, Delivery, Event, Image, Source, Submission, Tenant
from moderation.vocabulary import CaseStatus, EventType, FailureReason, SourceKind, SourceScheme
from tests import factories
from tests.conftest import ServiceRun
from tests.factories import make_case, make_tenant
from tests.misbehaving import hang, segfault, swallow
from tests.moderation.test_originals import drawn, unreachable
from tests.moderation.test_outbound import raw_server, serving

PNG = drawn(51)
Handle = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(1, settings().decode_memory_bytes, 60)
    yield made
    made.close()


@pytest.fixture(scope="module")
def store(services: ServiceRun) -> Storage:
    return Storage(settings())


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        made = make_tenant(session)
        factories.make_endpoint(session, made, event_types=["verdict.failed"])
        return made


def allowing(*ports: int, **changes: Any) -> Settings:
    """Settings under which these ports on loopback may be called, however slow the machine is just now."""
    hosts = tuple(f"127.0.0.1:{port}" for port in ports)
    return settings().model_copy(update={"allowed_hosts": hosts, "fetch_timeout_s": 60.0, **changes})


def answer(status: int, body: bytes = b"", **headers: str) -> Handle:
    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return handle


def link(tenant: Tenant, url: str, **fields: Any) -> UUID:
    with transaction() as session:
        return make_case(session, tenant, CaseStatus.FETCHING, image_url=url, **fields).id


def fetch(case_id: UUID, *, store: Storage, sandbox: Sandbox, settings: Settings) -> None:
    """What the worker does with a case."""
    errand = fetching.begin(case_id, settings)
    if errand is not None:
        fetching.read(errand, store=store, sandbox=sandbox, settings=settings)


def reread(case_id: UUID) -> Case:
    with transaction() as session:
        case = session.get_one(Case, case_id)
        _ = case.image
        return case


def wait_of(case_id: UUID) -> float:
    """Seconds from when the case was last given back until its next attempt."""
    released = Event.case_id == case_id, Event.type == EventType.CASE_RELEASED
    with transaction() as session:
        given_back = session.scalars(select(func.max(Event.created_at)).where(*released)).one()
        return (session.get_one(Case, case_id).next_attempt_at - given_back).total_seconds()


def make_due(case_id: UUID) -> None:
    with transaction() as session:
        session.execute(update(Case).where(Case.id == case_id).values(next_attempt_at=datetime(2020, 1, 1, tzinfo=UTC)))


def assert_failed(case_id: UUID, reason: FailureReason) -> None:
    """The case ended with this reason, and the tenant's endpoint is told so."""
    case = reread(case_id)
    assert (case.status, case.failure_reason) == (CaseStatus.FAILED, reason), case.failure_detail
    assert case.failure_detail and case.image_id is None
    with transaction() as session:
        told = session.scalars(select(Event).join(Delivery).where(Event.case_id == case_id)).one()
    assert told.type is EventType.VERDICT_FAILED and told.data is not None
    assert told.data["failure"] == {"reason": reason.value, "detail": case.failure_detail}


# --- What works ---


def test_a_link_becomes_an_image_and_the_case_is_queued(tenant: Tenant, store: Storage, sandbox: Sandbox) -> None:
    with serving(answer(200, PNG, Content_Type="image/png")) as server:
        case_id = link(tenant, server.url())
        fetch(case_id, store=store, sandbox=sandbox, settings=allowing(server.port))
        fetch(case_id, store=store, sandbox=sandbox, settings=allowing(server.port))
    assert len(server.seen) == 1, "fetching again does nothing"
    case = reread(case_id)
    assert (case.status, case.attempts, case.lease_until) == (CaseStatus.QUEUED, 0, None)
    assert case.image is not None and case.image.media_type == "image/png"
    assert store.get(case.image.s3_key, max_bytes=10**6) == PNG
    with transaction() as session:
        assert dispatch.offer_cases(session, dispatch.SCREENING, window=8, lease=factories.LEASE) == [case_id]


def test_no_transaction_is_open_while_somebody_elses_server_takes_its_time(
    tenant: Tenant, store: Storage, sandbox: Sandbox
) -> None:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' "
        "AND datname = current_database() AND pid <> pg_backend_pid()"
    )
    seen_open: list[int] = []

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        with transaction() as session:
            seen_open.append(session.scalars(query).one())
        answer(200, PNG)(request)

    with serving(handle) as server:
        fetch(link(tenant, server.url()), store=store, sandbox=sandbox, settings=allowing(server.port))
    assert seen_open == [0]


def test_links_to_the_same_bytes_at_once_are_one_image(tenant: Tenant, store: Storage, sandbox: Sandbox) -> None:
    with serving(answer(200, PNG)) as server:
        ids = [link(tenant, server.url(f"/{n}.png")) for n in range(4)]
        with ThreadPoolExecutor(4) as pool:
            rules = allowing(server.port)
            list(pool.map(lambda id_: fetch(id_, store=store, sandbox=sandbox, settings=rules), ids))
    assert len({reread(case_id).image_id for case_id in ids}) == 1
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 1


# --- What ends at once ---

ENDS: dict[str, tuple[Handle, FailureReason]] = {
    "gone": (answer(404), FailureReason.LINK_STATUS),
    "forbidden": (answer(403, b"<html>no</html>"), FailureReason.LINK_STATUS),
    "a redirect inwards": (answer(302, Location="http://10.1.2.3/picture.png"), FailureReason.LINK_REFUSED),
    "a redirect to metadata": (answer(301, Location="http://169.254.169.254/"), FailureReason.LINK_REFUSED),
    "a redirect to a file": (answer(302, Location="file:///etc/passwd"), FailureReason.LINK_REFUSED),
    "a web page": (answer(200, b"<!doctype html><p>hi", Content_Type="text/html"), FailureReason.LINK_NOT_IMAGE),
    "a web page that says it is a PNG": (
        answer(200, b"<html><p>hi</p></html>", Content_Type="image/png"),
        FailureReason.LINK_NOT_IMAGE,
    ),
    "text": (answer(200, b"just words", Content_Type="image/jpeg"), FailureReason.LINK_NOT_IMAGE),
    "SVG": (answer(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>"), FailureReason.LINK_NOT_IMAGE),
    "nothing": (answer(200, b""), FailureReason.UNDECODABLE),
    "a truncated image": (answer(200, PNG[: len(PNG) // 2]), FailureReason.UNDECODABLE),
}


@pytest.mark.parametrize(("handle", "reason"), ENDS.values(), ids=ENDS.keys())
def test_a_link_that_cannot_get_better_ends_the_case_at_once(
    tenant: Tenant, store: Storage, sandbox: Sandbox, handle: Handle, reason: FailureReason
) -> None:
    with serving(handle) as server:
        case_id = link(tenant, server.url())
        fetch(case_id, store=store, sandbox=sandbox, settings=allowing(server.port))
    assert_failed(case_id, reason)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.png", "http://192.168.1.1/x.png", "http://[::1]/x.png"])
def test_a_private_link_is_never_called(tenant: Tenant, store: Storage, sandbox: Sandbox, url: str) -> None:
    case_id = link(tenant, url)
    fetch(case_id, store=store, sandbox=sandbox, settings=settings())
    assert_failed(case_id, FailureReason.LINK_REFUSED)


def test_a_link_to_too_many_bytes_or_pixels_is_too_large(tenant: Tenant, store: Storage, sandbox: Sandbox) -> None:
    for limit in ({"max_image_bytes": 100}, {"max_image_pixels": 100}):
        with serving(answer(200, PNG)) as server:
            case_id = link(tenant, server.url())
            fetch(case_id, store=store, sandbox=sandbox, settings=allowing(server.port, **limit))
        assert_failed(case_id, FailureReason.IMAGE_TOO_LARGE)


# --- What may get better ---


def statuses(*answers: Handle) -> Handle:
    """A server that answers each request with the next of these."""
    left = list(answers)

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        left.pop(0)(request)

    return handle


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_that_has_a_bad_moment_is_asked_again_later(
    tenant: Tenant, store: Storage, sandbox: Sandbox, status: int
) -> None:
    with serving(statuses(answer(status), answer(200, PNG))) as server:
        case_id, rules = link(tenant, server.url()), allowing(server.port)
        fetch(case_id, store=store, sandbox=sandbox, settings=rules)
        case = reread(case_id)
        assert (case.status, case.attempts, case.lease_until) == (CaseStatus.FETCHING, 1, None)
        assert wait_of(case_id) == 5
        fetch(case_id, store=store, sandbox=sandbox, settings=rules)
        assert len(server.seen) == 1, "not before its time"
        make_due(case_id)
        fetch(case_id, store=store, sandbox=sandbox, settings=rules)
    assert reread(case_id).status is CaseStatus.QUEUED


def test_a_server_that_stays_broken_ends_the_case_after_the_last_attempt(
    tenant: Tenant, store: Storage, sandbox: Sandbox
) -> None:
    with serving(answer(500)) as server:
        case_id, rules = link(tenant, server.url()), allowing(server.port)
        for wait in (5, 60, None):
            fetch(case_id, store=store, sandbox=sandbox, settings=rules)
            case = reread(case_id)
            if wait is not None:
                assert case.status is CaseStatus.FETCHING
                assert wait_of(case_id) == wait
                make_due(case_id)
    assert len(server.seen) == rules.case_attempts
    assert_failed(case_id, FailureReason.LINK_STATUS)


def failing_for_good(case_id: UUID, store: Storage, sandbox: Sandbox, rules: Settings) -> None:
    """The case's one attempt."""
    fetch(case_id, store=store, sandbox=sandbox, settings=rules.model_copy(update={"case_attempts": 1}))


def test_a_host_that_hangs_costs_its_time_and_then_ends_the_case(
    tenant: Tenant, store: Storage, sandbox: Sandbox
) -> None:
    released = threading.Event()
    with raw_server(lambda connection: released.wait(120)) as port:
        case_id = link(tenant, f"http://127.0.0.1:{port}/x.png")
        started = time.monotonic()
        failing_for_good(case_id, store, sandbox, allowing(port, fetch_timeout_s=0.5))
        took_s = time.monotonic() - started
        released.set()
    assert took_s < 100
    assert_failed(case_id, FailureReason.LINK_UNREACHABLE)


def test_a_host_that_does_not_answer_or_breaks_off_ends_the_case(
    tenant: Tenant, store: Storage, sandbox: Sandbox
) -> None:
    nobody = link(tenant, "http://127.0.0.1:9/x.png")
    failing_for_good(nobody, store, sandbox, allowing(9))
    assert_failed(nobody, FailureReason.LINK_UNREACHABLE)
    with raw_server(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")) as port:
        cut_off = link(tenant, f"http://127.0.0.1:{port}/x.png")
        failing_for_good(cut_off, store, sandbox, allowing(port))
    assert_failed(cut_off, FailureReason.LINK_UNREACHABLE)


def test_a_circle_of_redirects_ends_the_case(tenant: Tenant, store: Storage, sandbox: Sandbox) -> None:
    with serving(answer(302, Location="/again.png")) as server:
        case_id = link(tenant, server.url())
        failing_for_good(case_id, store, sandbox, allowing(server.port))
        assert len(server.seen) == settings().fetch_redirects + 1
    assert_failed(case_id, FailureReason.LINK_UNREACHABLE)


def test_an_outage_of_our_own_store_is_no_attempt_of_the_link(tenant: Tenant, sandbox: Sandbox) -> None:
    away = Storage(unreachable())
    with serving(answer(200, PNG)) as server:
        case_id, rules = link(tenant, server.url()), allowing(server.port)
        for _ in range(rules.case_attempts + 1):
            make_due(case_id)
            with pytest.raises(StorageUnavailable):  # having given the case back
                fetch(case_id, store=away, sandbox=sandbox, settings=rules)
            case = reread(case_id)
            assert (case.status, case.attempts, case.lease_until) == (CaseStatus.FETCHING, 0, None)
            assert wait_of(case_id) == 10
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 0


@pytest.mark.parametrize("decoder", [hang, segfault])
def test_a_decoder_that_hangs_or_dies_has_its_attempts_and_then_the_image_is_to_blame(
    tenant: Tenant, store: Storage, monkeypatch: pytest.MonkeyPatch, decoder: Callable[..., None]
) -> None:
    box = Sandbox(1, settings().decode_memory_bytes, 0.5 if decoder is hang else 60)
    with serving(answer(200, PNG)) as server:
        case_id, rules = link(tenant, server.url()), allowing(server.port, case_attempts=2)
        with monkeypatch.context() as patched:
            patched.setattr(images, "inspect", decoder)
            fetch(case_id, store=store, sandbox=box, settings=rules)
            case = reread(case_id)
            assert (case.status, case.attempts) == (CaseStatus.FETCHING, 1)
            make_due(case_id)
            fetch(case_id, store=store, sandbox=box, settings=rules)
        assert_failed(case_id, FailureReason.UNDECODABLE)
    box.close()


def test_an_image_that_needs_too_much_memory_is_too_large_at_once(
    tenant: Tenant, store: Storage, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "inspect", swallow)
    with serving(answer(200, PNG)) as server:
        case_id = link(tenant, server.url())
        fetch(case_id, store=store, sandbox=sandbox, settings=allowing(server.port))
    assert_failed(case_id, FailureReason.IMAGE_TOO_LARGE)


def test_a_worker_lost_on_every_attempt_fails_the_case(tenant: Tenant, store: Storage, sandbox: Sandbox) -> None:
    with serving(answer(200, PNG)) as server:
        case_id = link(tenant, server.url())
        with transaction() as session:
            session.get_one(Case, case_id).attempts = settings().case_attempts
        fetch(case_id, store=store, sandbox=sandbox, settings=allowing(server.port))
        assert server.seen == []
    assert_failed(case_id, FailureReason.WORKER_LOST)


def test_an_image_erased_while_its_link_was_read_again_does_not_come_back_without_bytes(
    tenant: Tenant, store: Storage, sandbox: Sandbox
) -> None:
    """Two links to the same bytes: the first image is erased and purged, the second keeps bytes of its own."""
    with serving(answer(200, PNG)) as server:
        rules = allowing(server.port)
        first = link(tenant, server.url())
        fetch(first, store=store, sandbox=sandbox, settings=rules)
        with transaction() as session:
            erasure.erase(session, tenant.id, reread(first).image_id, actor="x", request_id=None)  # type: ignore[arg-type]
        originals.purge(store, originals.doomed())
        second = link(tenant, server.url())
        fetch(second, store=store, sandbox=sandbox, settings=rules)
    image = reread(second).image
    assert image is not None and image.id != reread(first).image_id
    assert store.get(image.s3_key, max_bytes=10**6) == PNG
    with transaction() as session:
        links = select(Submission.image_url).join(Case).where(Case.id.in_([first, second])).order_by(Case.id)
        assert session.scalars(links).all() == [None, server.url()]


def test_a_late_fetcher_writes_nothing(tenant: Tenant, store: Storage, sandbox: Sandbox) -> None:
    """Its lease ran out while the host took its time, and another worker has the case."""
    reached, go_on = threading.Event(), threading.Event()

    def slow(request: http.server.BaseHTTPRequestHandler) -> None:
        reached.set()
        go_on.wait(60)
        answer(404)(request)

    with serving(slow) as server, ThreadPoolExecutor(1) as pool:
        case_id, rules = link(tenant, server.url()), allowing(server.port)
        late = pool.submit(fetch, case_id, store=store, sandbox=sandbox, settings=rules)
        assert reached.wait(60)
        with transaction() as session:
            session.execute(update(Case).where(Case.id == case_id).values(lease_until=datetime(2020, 1, 1, tzinfo=UTC)))
        with transaction() as session:
            newer = factories.take_case(session, session.get_one(Case, case_id))
        go_on.set()
        with pytest.raises(LostLease):
            late.result()
    case = reread(case_id)
    assert (case.status, case.fence, case.failure_reason) == (CaseStatus.FETCHING, newer.fence, None)


# --- Objects in a platform's own bucket ---


def s3_case(tenant: Tenant, key: str, **source: Any) -> UUID:
    given = {
        "s3_endpoint_url": settings().s3_endpoint_url,
        "s3_region": "us-east-1",
        "s3_access_key": settings().s3_access_key,
        "s3_secret_key": settings().s3_secret_key,
        **source,
    }
    with transaction() as session:
        secret = given.pop("s3_secret_key")
        made = Source(
            tenant_id=tenant.id, name="uploads", scheme=SourceScheme.BEARER, kind=SourceKind.S3_EVENT, **given
        )
        sources.create(session, made, s3_secret_key=secret)
        sent = {"image_url": None, "s3_bucket": settings().s3_bucket, "s3_object": key, "source_id": made.id}
        return make_case(session, tenant, CaseStatus.FETCHING, **sent).id


def s3_port() -> int:
    return int((settings().s3_endpoint_url or "").rsplit(":", 1)[1])


def test_an_object_in_the_sources_bucket_is_read_with_its_own_credentials(
    tenant: Tenant, store: Storage, sandbox: Sandbox
) -> None:
    store.put("theirs/a b+ü.png", PNG, "image/png")
    case_id = s3_case(tenant, "theirs/a b+ü.png")
    fetch(case_id, store=store, sandbox=sandbox, settings=allowing(s3_port()))
    assert reread(case_id).status is CaseStatus.QUEUED, reread(case_id).failure_detail


S3_FAILURES: dict[str, tuple[dict[str, Any], FailureReason]] = {
    "a missing object": ({}, FailureReason.LINK_STATUS),
    "credentials that do not hold": ({"s3_secret_key": "wrong"}, FailureReason.LINK_STATUS),
    "a store that is private": ({"s3_endpoint_url": "http://10.0.0.9:9000"}, FailureReason.LINK_REFUSED),
}


@pytest.mark.parametrize(("source", "reason"), S3_FAILURES.values(), ids=S3_FAILURES.keys())
def test_an_object_that_cannot_be_read_ends_the_case(
    tenant: Tenant, store: Storage, sandbox: Sandbox, source: dict[str, Any], reason: FailureReason
) -> None:
    case_id = s3_case(tenant, "theirs/missing.png", **source)
    fetch(case_id, store=store, sandbox=sandbox, settings=allowing(s3_port()))
    assert_failed(case_id, reason)


def test_a_case_whose_link_was_forgotten_ends(tenant: Tenant, store: Storage, sandbox: Sandbox) -> None:
    with transaction() as session:
        case_id = make_case(session, tenant, CaseStatus.FETCHING, image_url=None).id
    fetch(case_id, store=store, sandbox=sandbox, settings=settings())
    assert_failed(case_id, FailureReason.UNDECODABLE)
