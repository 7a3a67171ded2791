"""The restore drill: a service at work is backed up, restored elsewhere, and settles there what was in flight."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import func, select

from infra.cli import telltale
from infra.demo.receiver import Receiver
from moderation import attempts, endpoints
from moderation.db import transaction
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Delivery, Image
from moderation.vocabulary import CaseStatus, DeliveryStatus
from tests.conftest import ServiceRun, worker_of
from tests.e2e.conftest import champion, picture, statuses, submit
from tests.e2e.processes import Stage, wait_for
from tests.factories import make_case, make_endpoint, make_image, make_tenant
from tests.infra.fresh import elsewhere
from tests.moderation.test_fetching import PNG, answer
from tests.moderation.test_outbound import serving

__all__ = ["champion"]

SETTLED = {CaseStatus.DECIDED, CaseStatus.IN_REVIEW, CaseStatus.FAILED}
IN_FLIGHT = (CaseStatus.FETCHING, CaseStatus.QUEUED, CaseStatus.SCREENING)
TOLD = {
    CaseStatus.DECIDED: "decision.created",
    CaseStatus.IN_REVIEW: "case.in_review",
    CaseStatus.FAILED: "verdict.failed",
}
MOST = 40  # submissions before it is backed up, should the machine be slow


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks are sent."""
    made = Receiver()
    with made.server:
        yield made


@pytest.mark.timeout(400)  # five processes start in it, beside other tests
def test_what_was_in_flight_when_it_was_backed_up_is_settled_where_it_is_restored(
    stage: Stage,
    receiver: Receiver,
    services: ServiceRun,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backups = tmp_path / "backups"
    with serving(answer(200, PNG)) as linked:
        monkeypatch.setenv("TELLTALE_ALLOWED_HOSTS", json.dumps([receiver.server.host, f"127.0.0.1:{linked.port}"]))
        tenant, known = in_every_state(receiver, linked.url())
        with submissions_going_on(tenant) as (sent, backed_up):
            wait_for(lambda: len(sent) > 1, "submissions before it", stage)
            assert telltale_says("backup", backups)["missing"] == 0
            backed_up.set()
            before = len(sent)
            wait_for(lambda: len(sent) > before, "submissions after it", stage)
        with elsewhere(services, worker_of(request.config)):
            restored = telltale_says("restore", backups)
            assert restored["in_flight"]["cases under way"] == 1
            came = all_cases()
            assert set(known.values()) <= set(came) < {*known.values(), *sent}
            every_image_is_whole()
            for start in (stage.relay, stage.screening, stage.fetching, stage.delivery):
                start()
            wait_for(lambda: set(statuses(came)) <= SETTLED, "every case being settled", stage)
            wait_for(lambda: pending() == 0, "every webhook being delivered", stage)
            assert statuses([known[status] for status in sorted(SETTLED)]) == sorted(SETTLED)
            every_image_is_whole()
            stage.end()
    assert receiver.refused == 0
    assert [told(receiver, known[status]) for status in IN_FLIGHT] == [{"submission.accepted", "verdict.completed"}] * 3
    for status, event in TOLD.items():
        assert event in receiver.verified(str(known[status]))


def told(receiver: Receiver, case: UUID) -> set[str]:
    """The types of the events that a case in flight has in any case; what its policy made of it comes beside them."""
    return set(receiver.verified(str(case))) & {"submission.accepted", "verdict.completed", "verdict.failed"}


def telltale_says(*arguments: object) -> dict[str, dict[str, int]]:
    result = CliRunner().invoke(telltale, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    said: dict[str, dict[str, int]] = json.loads(result.stdout)
    return said


def in_every_state(receiver: Receiver, link: str) -> tuple[UUID, dict[str, UUID]]:
    """A platform with an endpoint, and its cases by where they are; nothing has been told to it yet."""
    with transaction() as session:
        tenant = make_tenant(session, "the platform")
        endpoint = make_endpoint(session, tenant, receiver.url)
        receiver.trust(*endpoints.secrets_of(endpoint))
        known = {CaseStatus.FETCHING: make_case(session, tenant, CaseStatus.FETCHING, image_url=link).id}
        for seed, status in enumerate(set(CaseStatus) - {CaseStatus.FETCHING}):
            image = make_image(session, tenant, picture(seed))
            Storage(settings()).put(image.s3_key, picture(seed), image.media_type)
            image.width = image.height = 96
            known[status] = make_case(session, tenant, status, image=image).id
        # One whose delivery is under way.
        due = session.scalars(select(Delivery.id).order_by(Delivery.id).limit(1)).one()
        assert attempts.take(session, due, timedelta(seconds=1)) is not None
    return tenant.id, known


@contextmanager
def submissions_going_on(tenant: UUID) -> Iterator[tuple[list[UUID], threading.Event]]:
    """Somebody submits images all the while; gives their cases, and what to set once they are backed up."""
    over, backed_up, sent = threading.Event(), threading.Event(), list[UUID]()

    def go_on() -> None:
        while not over.wait(0.05):
            if len(sent) >= MOST and not backed_up.is_set():
                continue
            sent.append(submit(tenant, picture(100 + len(sent))))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield sent, backed_up
    finally:
        over.set()
        thread.join()


def every_image_is_whole() -> None:
    """The store has what each row says."""
    with transaction() as session:
        for image in session.scalars(select(Image)):
            data = Storage(settings()).get(image.s3_key, max_bytes=image.bytes)
            assert hashlib.sha256(data).hexdigest() == image.sha256


def all_cases() -> list[UUID]:
    with transaction() as session:
        return list(session.scalars(select(Case.id)))


def pending() -> int:
    with transaction() as session:
        query = select(func.count()).select_from(Delivery).where(Delivery.status == DeliveryStatus.PENDING)
        return session.scalars(query).one()
