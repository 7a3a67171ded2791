"""The screening worker in one process: the demo checkpoint on real images, and all that can go wrong beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
import torch
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from infra.demo.samples import samples
from model import manifest as manifests
from model.checkpoint import DEMO, golden_folder
from model.decode import to_rgb
from model.detector import Detector, GoldenMismatch
from model.engines.engine import EngineError
from model.engines.vllm import ServerUnavailable
from moderation import exhibits, images, model_versions, provenance, renditions, submissions
from moderation.db import transaction
from moderation.errors import ConfigurationError, NotFound, StorageUnavailable
from moderation.sandbox import SandboxClosed, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case
from moderation.vocabulary import CaseStatus, EventType, FailureReason
from tests.factories import events_of, make_tenant, make_version
from tests.measuring import value
from tests.model.engines.replay import Replay, serving
from workers import champion as serving_worker
from workers import screening as worker
from workers.champion import load_champion
from workers.outage import Outage
from workers.screening import Screener

torch.set_num_threads(1)
JUDGED = (CaseStatus.DECIDED, CaseStatus.IN_REVIEW)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(DEMO, device="cpu")


@pytest.fixture
def screener(detector: Detector, db: Engine, bucket: str) -> Iterator[Screener]:
    with transaction() as session:
        version = make_version(session)
    made = Screener(detector, version, Storage(settings()), settings())
    yield made
    made.close()


def submitted() -> UUID:
    with transaction() as session:
        tenant = make_tenant(session)
    data = samples()[0].path.read_bytes()
    request = submissions.Request(tenant_id=tenant.id, actor="test", request_id="test")
    facts = images.inspect(data, settings().max_image_pixels)
    return submissions.submit_image(request, data, facts, storage=Storage(settings()), settings=settings()).id


def case(case_id: UUID) -> Case:
    with transaction() as session:
        return session.get_one(Case, case_id)


def raising(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def counted(screener: Screener) -> list[float]:
    """Batches, images, verdicts, scores, and what came of them."""
    detector = screener._batcher.detector
    version = detector.manifest.name
    return [
        value("telltale_batch_seconds_count", stage="explain"),
        value("telltale_images_judged_total", model_version=version, engine=detector.engine),
        sum(value("telltale_verdicts_total", model_version=version, label=label) for label in ("real", "fake")),
        value("telltale_p_fake_count", model_version=version),
        value("telltale_abstained_total")
        + sum(value("telltale_decisions_total", by="policy", label=label) for label in ("real", "fake")),
    ]


def test_a_case_is_judged_explained_and_settled(screener: Screener) -> None:
    case_id = submitted()
    before = counted(screener)
    for _ in range(2):  # the second time there is nothing to do
        screener.screen(case_id)
    assert [now - then for now, then in zip(counted(screener), before, strict=True)] == [1] * 5
    with transaction() as session:
        found = session.get_one(Case, case_id)
        assert found.status in JUDGED
        assert found.verdict is not None and found.verdict.explanation is not None
        assert found.verdict.explanation.text.startswith(f"This is a {found.verdict.label} image.")
        assert EventType.VERDICT_COMPLETED in events_of(session, case_id)


def test_moderators_have_something_to_look_at(screener: Screener) -> None:
    case_id = submitted()
    screener.screen(case_id)
    with transaction() as session:
        image = session.get_one(Case, case_id).image
        assert image is not None and exhibits.are_complete(session, image)
    assert renditions.read(Storage(settings()), image)[:2] == b"\xff\xd8"


def test_a_file_whose_provenance_ends_its_reader_is_judged_all_the_same(
    screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = screener._sandbox.call

    def die(function: Callable[..., object], *args: object, **kwargs: object) -> object:
        if function is not to_rgb:
            raise SandboxCrash("It died.")
        return call(function, *args, **kwargs)

    monkeypatch.setattr(screener._sandbox, "call", die)
    case_id = submitted()
    screener.screen(case_id)
    assert case(case_id).status in JUDGED
    with transaction() as session:
        image = session.get_one(Case, case_id).image
        assert image is not None and exhibits.are_complete(session, image)
        assert image.provenance == provenance.unread()


def test_screening_twice_changes_nothing_the_second_time(screener: Screener) -> None:
    case_id = submitted()
    screener.screen(case_id)
    before = case(case_id).sequence
    screener.screen(case_id)
    assert case(case_id).sequence == before


@pytest.mark.parametrize("error", [SandboxTimeout("slow"), SandboxCrash("died"), RuntimeError("a bug")])
def test_what_may_be_the_machines_fault_is_tried_again(
    screener: Screener, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    case_id = submitted()
    monkeypatch.setattr(screener._sandbox, "call", raising(error))
    screener.screen(case_id)
    assert (case(case_id).status, case(case_id).attempts) == (CaseStatus.QUEUED, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SandboxTimeout("slow"), FailureReason.UNDECODABLE),
        (SandboxMemory("large"), FailureReason.IMAGE_TOO_LARGE),
        (RuntimeError("a bug"), FailureReason.INTERNAL),
    ],
)
def test_the_last_attempt_ends_the_case_with_its_reason(
    screener: Screener, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: FailureReason
) -> None:
    case_id = submitted()
    monkeypatch.setattr(screener, "_settings", settings().model_copy(update={"case_attempts": 1}))
    monkeypatch.setattr(screener._sandbox, "call", raising(error))
    screener.screen(case_id)
    assert (case(case_id).status, case(case_id).failure_reason) == (CaseStatus.FAILED, reason)


@pytest.mark.parametrize("error", [StorageUnavailable("away"), SandboxClosed("closing")])
def test_what_is_no_fault_of_the_image_does_not_count(
    screener: Screener, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    case_id = submitted()
    monkeypatch.setattr(screener._store, "get", raising(error))
    screener.screen(case_id)
    assert (case(case_id).status, case(case_id).attempts) == (CaseStatus.QUEUED, 0)


def test_while_the_store_is_away_nothing_is_taken_and_given_back_over_and_over(
    screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One case tries whether it is back; the others stay where they are, and their history as short as it was."""
    cases = [submitted() for _ in range(3)]
    screener._outage = Outage(first_s=3600, patience_s=0)
    with monkeypatch.context() as away:
        away.setattr(screener._store, "get", raising(StorageUnavailable("away")))
        for case_id in cases * 2:
            screener.screen(case_id)
    with transaction() as session:
        taken = [events_of(session, case_id).count(EventType.CASE_TAKEN.value) for case_id in cases]
    assert taken == [1, 0, 0]
    screener._outage.over()
    screener.screen(cases[1])
    assert case(cases[1]).status in JUDGED


def test_a_case_waits_for_a_vllm_server_that_is_away(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    case_id = submitted()
    monkeypatch.setattr(screener._batcher, "submit", raising(ServerUnavailable("away")))
    screener.screen(case_id)
    assert (case(case_id).status, case(case_id).attempts) == (CaseStatus.QUEUED, 0)


def test_bytes_that_are_gone_are_looked_for_again_and_end_the_case(
    screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = submitted()
    monkeypatch.setattr(screener._store, "get", raising(NotFound("gone")))
    monkeypatch.setattr(worker, "ERROR_RETRY_AFTER", timedelta(0))
    for _ in range(settings().case_attempts):
        assert case(case_id).failure_reason is None
        screener.screen(case_id)
    assert case(case_id).failure_reason is FailureReason.IMAGE_ERASED


@pytest.mark.usefixtures("db")
class TestLoadChampion:
    def register(self, **changes: object) -> None:
        manifest = manifests.read(golden_folder(DEMO)).model_copy(update=changes)
        with transaction() as session:
            version = model_versions.register(
                session, checkpoint=DEMO, manifest=manifest.model_dump(mode="json"), digest=manifest.digest()
            )
            model_versions.promote(session, version.id, actor="test")

    def test_the_shipped_checkpoint_answers_as_measured(self) -> None:
        self.register()
        detector, version = load_champion(Storage(settings()))
        assert detector.manifest.name == version.name

    def test_without_a_champion_it_says_what_to_do(self) -> None:
        with pytest.raises(ConfigurationError, match="telltale models register"):
            load_champion(Storage(settings()))

    def test_a_checkpoint_that_answers_otherwise_is_refused(self) -> None:
        golden = manifests.read(golden_folder(DEMO)).golden
        self.register(golden=(golden[0].model_copy(update={"logit": golden[0].logit + 5}), *golden[1:]))
        with pytest.raises(GoldenMismatch):
            load_champion(Storage(settings()))
        with pytest.raises(SystemExit):
            worker._start()

    def test_a_database_that_is_away_when_it_starts_ends_the_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Seed 2 of `make chaos`: Celery logged the error and served on without a detector, failing every task."""
        away = OperationalError("SELECT", {}, OSError("the database system is starting up"))
        monkeypatch.setattr(worker, "load_champion", raising(away))
        with pytest.raises(SystemExit):
            worker._start()

    def test_the_vllm_server_runs_it_where_one_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The golden outputs are compared with what a real server said of them."""
        self.register()
        with serving(Replay()) as url:
            monkeypatch.setattr(serving_worker, "settings", lambda: settings().model_copy(update={"vllm_url": url}))
            detector, version = load_champion(Storage(settings()))
        assert (detector.engine, detector.manifest.name) == ("vllm", version.name)

    def test_a_vllm_server_that_answers_otherwise_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        golden = manifests.read(golden_folder(DEMO)).golden
        self.register(golden=(golden[0].model_copy(update={"logit": golden[0].logit + 5}), *golden[1:]))
        with serving(Replay()) as url:
            monkeypatch.setattr(serving_worker, "settings", lambda: settings().model_copy(update={"vllm_url": url}))
            with pytest.raises(GoldenMismatch):
                load_champion(Storage(settings()))

    def test_a_vllm_server_of_another_model_stops_the_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.register(name="another")
        with serving(Replay()) as url:
            monkeypatch.setattr(serving_worker, "settings", lambda: settings().model_copy(update={"vllm_url": url}))
            with pytest.raises(EngineError, match="serves telltale-demo:float32, not another"):
                load_champion(Storage(settings()))
            with pytest.raises(SystemExit):
                worker._start()
