"""How one worker changes over: fetched, proven between two batches, or refused with a reason that can be read."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import torch
from sqlalchemy import Engine, select

from infra.demo.samples import samples
from infra.services import wait_until
from model import manifest as manifests
from model.adapters import WEIGHTS
from model.checkpoint import DEMO, DEMO_FOLDER
from model.decode import to_rgb
from model.detector import Detector
from moderation import cases as moderated
from moderation import checkpoints, exhibits, explanations, images, model_versions, rejudging, submissions
from moderation.db import transaction
from moderation.policy import Thresholds
from moderation.settings import settings
from moderation.storage import Storage, adapter_key
from moderation.tables import Case, Event, ModelVersion, Rejudging, Verdict
from moderation.vocabulary import CaseStatus, EventType, ExplainMode
from tests.factories import make_case, make_tenant
from tests.model import adapted, tiny
from workers import champion as following
from workers.champion import load_champion
from workers.screening import Screener

torch.set_num_threads(1)
GOLDEN = sorted((DEMO_FOLDER / "golden").iterdir())[:2]
PICTURES = 6
# Everything is decided at once, without words: they take most of the time, and are wanted in few tests.
NO_WORDS = Thresholds(fake_from=0.5, real_up_to=0.4999, min_pair_mass=0, explain=ExplainMode.REVIEW)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters on the demo checkpoint, each with answers of its own."""
    folder = tmp_path_factory.mktemp("adapters")
    first = adapted.make(folder / "first", DEMO, GOLDEN, seed=1, strength=0.03)
    second = adapted.make(folder / "second", DEMO, GOLDEN, seed=2, strength=0.03)
    return {"first": first, "second": second}


@pytest.fixture
def storage(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, so that adapters are fetched."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(checkpoints, "default_cache", lambda: folder)
    return folder


def register(storage: Storage, folder: Path | str, *, champion: bool = False, **changes: Any) -> ModelVersion:
    """As the command does it."""
    path = DEMO_FOLDER if folder == DEMO else Path(folder)
    manifest = manifests.read(path).model_copy(update=changes)
    place = checkpoints.store(storage, path) if manifest.adapter else str(folder)
    with transaction() as session:
        version = model_versions.register(
            session, checkpoint=place, manifest=manifest.model_dump(mode="json"), digest=manifest.digest()
        )
        if champion:
            model_versions.promote(session, version.id, actor="test")
        return version


def promote(name: str) -> None:
    with model_versions.changing() as session:
        version = model_versions.version_named(session, name)
        model_versions.promote(session, version.id, actor="test")


@pytest.fixture
def screener(db: Engine, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screener]:
    """A worker that serves the demo checkpoint; it does not look for a champion by itself, and makes no exhibits."""
    monkeypatch.setattr(exhibits, "keep", lambda *_: None)
    register(storage, DEMO, champion=True)
    running = Screener(*load_champion(storage), storage, settings())
    yield running
    running.close()


def submitted(number: int = 0) -> UUID:
    with transaction() as session:
        tenant = make_tenant(session, thresholds=NO_WORDS)
    data = samples()[number].path.read_bytes()
    request = submissions.Request(tenant_id=tenant.id, actor="test", request_id="test")
    facts = images.inspect(data, settings().max_image_pixels)
    return submissions.submit_image(request, data, facts, storage=Storage(settings()), settings=settings()).id


def judged_by(screener: Screener) -> str:
    """The version on the verdict of a case that is screened now, and that its score is that version's."""
    case_id = submitted()
    screener.screen(case_id)
    with transaction() as session:
        case = session.get_one(Case, case_id)
        assert case.status in (CaseStatus.DECIDED, CaseStatus.IN_REVIEW), case.failure_detail
        assert case.verdict is not None
        return case.verdict.model_version.name


def events(type_: EventType) -> list[dict[str, Any]]:
    with transaction() as session:
        query = select(Event.after).where(Event.type == type_).order_by(Event.id)
        return [after for after in session.scalars(query) if after]


def test_an_adapter_is_fetched_and_takes_over(screener: Screener, storage: Storage, made: dict[str, Path]) -> None:
    began = time.monotonic()
    register(storage, made["first"], champion=True)
    register(storage, made["second"])
    assert judged_by(screener) == "telltale-demo"
    assert screener.champion.look() is True
    assert judged_by(screener) == "first"
    promote("second")
    assert screener.champion.look() is True
    assert judged_by(screener) == "second"
    swapped = events(EventType.MODEL_SWAPPED)
    assert [one["version"] for one in swapped] == ["first", "second"]
    assert all(one["worker"] == following.worker_name() for one in swapped)
    assert all(0 <= one["seconds"] <= time.monotonic() - began for one in swapped)


def test_back_to_the_base_without_an_adapter(screener: Screener, storage: Storage, made: dict[str, Path]) -> None:
    register(storage, made["first"], champion=True)
    screener.champion.look()
    with model_versions.changing() as session:
        model_versions.rollback(session, actor="test", reason="too strict")
    assert screener.champion.look() is True
    assert judged_by(screener) == "telltale-demo"


def test_a_worker_starts_with_an_adapter(db: Engine, storage: Storage, made: dict[str, Path]) -> None:
    register(storage, made["first"], champion=True)
    detector, version = load_champion(storage)
    assert (detector.manifest.name, version.name) == ("first", "first")


def test_nothing_happens_while_the_champion_is_the_same(screener: Screener) -> None:
    assert screener.champion.look() is True
    assert events(EventType.MODEL_SWAPPED) == events(EventType.MODEL_SWAP_REFUSED) == []


def test_the_bell_is_enough_and_so_is_patience(
    screener: Screener, storage: Storage, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(storage, made["first"])
    register(storage, made["second"])
    monkeypatch.setattr(following, "LOOK_EVERY_S", 600)
    screener.champion.start()
    promote("first")
    wait_until(lambda: screener.champion.version_id == version_id("first"), "the first change")
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.2)
    promote("second")  # ends the wait of ten minutes
    wait_until(lambda: screener.champion.version_id == version_id("second"), "the second change")
    with transaction() as session:  # and nobody rings for this one
        model_versions.rollback(session, actor="test")
    wait_until(lambda: screener.champion.version_id == version_id("first"), "the change back")
    screener.champion._stopping.set()
    screener.champion._thread.join()  # `stop` does not wait for ever, and the next test has a champion of its own


def test_golden_outputs_that_differ_are_refused_once_and_for_all(
    screener: Screener, storage: Storage, made: dict[str, Path]
) -> None:
    golden = manifests.read(made["first"]).golden
    wrong = (golden[0].model_copy(update={"logit": golden[0].logit + 5}), *golden[1:])
    register(storage, made["first"], champion=True, golden=wrong)
    for _ in range(3):
        assert screener.champion.look() is False
    assert judged_by(screener) == "telltale-demo"
    (refused,) = events(EventType.MODEL_SWAP_REFUSED)
    assert (refused["version"], refused["serving"], refused["tries_again"]) == ("first", "telltale-demo", False)
    assert "does not answer as measured" in refused["reason"]
    register(storage, made["second"], champion=True)
    assert screener.champion.look() is True, "the next promotion is another matter"
    assert judged_by(screener) == "second"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Of how long a worker waits before it tries a version again; it stands still."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_damage_in_the_store_is_refused_until_it_is_mended(
    screener: Screener, storage: Storage, made: dict[str, Path], tmp_path: Path, clock: SimpleNamespace
) -> None:
    folder = Path(shutil.copytree(made["first"], tmp_path / "damaged"))
    manifests.read(folder).model_copy(update={"name": "damaged"}).write(folder)
    version = register(storage, folder, champion=True)
    digest = checkpoints.digest_of(version.checkpoint)
    assert digest is not None
    storage.put(adapter_key(digest, WEIGHTS), b"something else", "application/octet-stream")
    assert screener.champion.look() is False
    assert judged_by(screener) == "telltale-demo"
    (refused,) = events(EventType.MODEL_SWAP_REFUSED)
    assert f"{WEIGHTS} is missing or longer" in refused["reason"] or "is not what was stored" in refused["reason"]
    assert refused["tries_again"] is True
    checkpoints.store(storage, folder)
    clock.now += following.PAUSE_S
    assert screener.champion.look() is True
    assert judged_by(screener) == "damaged"


def test_a_store_that_is_away_is_asked_again_later(
    screener: Screener,
    storage: Storage,
    made: dict[str, Path],
    clock: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(storage, made["first"], champion=True)
    away = Storage(settings().model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"}))
    monkeypatch.setattr(screener.champion, "_store", away)
    assert screener.champion.look() is False
    monkeypatch.setattr(screener.champion, "_store", storage)
    assert screener.champion.look() is False, "not at once"
    assert judged_by(screener) == "telltale-demo"
    (refused,) = events(EventType.MODEL_SWAP_REFUSED)
    assert refused["tries_again"] is True
    clock.now += following.PAUSE_S
    assert screener.champion.look() is True
    assert judged_by(screener) == "first"


class TestAnotherBase:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        return adapted.prove(tiny.save(tmp_path / "other"), GOLDEN)

    def test_the_worker_is_drained_and_loads_it(self, screener: Screener, storage: Storage, other: Path) -> None:
        register(storage, other, champion=True)
        assert screener.champion.look() is True
        assert judged_by(screener) == "tiny"
        promote("telltale-demo")
        assert screener.champion.look() is True
        assert judged_by(screener) == "telltale-demo"

    def test_cases_wait_outside_meanwhile_and_none_is_lost(
        self, screener: Screener, storage: Storage, other: Path
    ) -> None:
        cases = [submitted(number % 3) for number in range(9)]
        register(storage, other, champion=True)
        with ThreadPoolExecutor(4) as threads:
            running = [threads.submit(screener.screen, case_id) for case_id in cases[:5]]
            changing = threads.submit(screener.champion.look)
            running += [threads.submit(screener.screen, case_id) for case_id in cases[5:]]
            assert changing.result(timeout=120) is True
            for one in running:
                one.result(timeout=120)
        with transaction() as session:
            found = session.scalars(select(Case).where(Case.id.in_(cases))).all()
            assert {case.status for case in found} <= {CaseStatus.DECIDED, CaseStatus.IN_REVIEW}
            assert {case.verdict.model_version.name for case in found if case.verdict} <= {"telltale-demo", "tiny"}

    def test_while_another_worker_loads_this_one_goes_on(
        self, screener: Screener, storage: Storage, other: Path
    ) -> None:
        register(storage, other, champion=True)
        with model_versions.turn_to_reload():
            assert screener.champion.look() is False
            assert judged_by(screener) == "telltale-demo"
        assert screener.champion.look() is True

    def test_one_that_does_not_answer_as_measured_has_the_old_one_loaded_again(
        self, screener: Screener, storage: Storage, other: Path
    ) -> None:
        golden = manifests.read(other).golden
        wrong = (golden[0].model_copy(update={"logit": golden[0].logit + 5}), *golden[1:])
        register(storage, other, champion=True, golden=wrong)
        assert screener.champion.look() is False
        assert judged_by(screener) == "telltale-demo"
        (refused,) = events(EventType.MODEL_SWAP_REFUSED)
        assert refused["tries_again"] is False


class TestExplaining:
    """Words on demand name the version whose batch wrote them, which is not always that of the verdict."""

    @pytest.fixture
    def asked(self, screener: Screener) -> UUID:
        """The verdict of the base, decided without words, and asked about since."""
        case_id = submitted()
        screener.screen(case_id)
        with transaction() as session:
            case = session.get_one(Case, case_id)
            assert case.verdict is not None and case.verdict.explanation is None
            explanations.ask(session, case.tenant_id, case_id, actor="test")
            return case.verdict.id

    def said(self, verdict_id: UUID) -> tuple[str, str]:
        """Whose verdict it is, and whose words."""
        with transaction() as session:
            verdict = session.get_one(Verdict, verdict_id)
            words = verdict.explanation
            assert words is not None, verdict.explanation_request and verdict.explanation_request.failure_detail
            assert words.text.startswith(f"This is a {verdict.label} image.")
            return verdict.model_version.name, session.get_one(ModelVersion, words.model_version_id).name

    def test_after_a_promotion_the_new_version_explains_and_is_named(
        self, screener: Screener, storage: Storage, made: dict[str, Path], asked: UUID
    ) -> None:
        register(storage, made["first"], champion=True)
        assert screener.champion.look() is True
        screener.explainer.explain(asked)
        assert self.said(asked) == ("telltale-demo", "first")

    def test_words_written_just_before_the_change_are_the_old_versions(
        self,
        screener: Screener,
        storage: Storage,
        made: dict[str, Path],
        asked: UUID,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        register(storage, made["first"], champion=True)
        submit = screener._batcher.submit

        def overtaken(*arguments: Any) -> Any:
            """The worker has changed over by the time the words are there."""
            said = submit(*arguments)
            said.result(timeout=60)
            assert screener.champion.look() is True
            return said

        monkeypatch.setattr(screener._batcher, "submit", overtaken)
        screener.explainer.explain(asked)
        assert screener.champion.version_id == version_id("first")
        assert self.said(asked) == ("telltale-demo", "telltale-demo")


class TestRejudging:
    def test_cases_in_review_get_the_new_verdict_beside_the_old(
        self, screener: Screener, storage: Storage, made: dict[str, Path]
    ) -> None:
        case_id = submitted()
        screener.screen(case_id)
        with transaction() as session:
            case = session.get_one(Case, case_id)
            if case.status is CaseStatus.DECIDED:
                moderated.appeal(session, case.tenant_id, case_id, actor="test", message=None)
        register(storage, made["first"], champion=True)
        screener.champion.look()
        with transaction() as session:
            assert rejudging.ask(session, actor="test") == 1
        screener.rejudge(case_id)
        screener.rejudge(case_id)
        with transaction() as session:
            case = session.get_one(Case, case_id)
            said = rejudging.verdicts_of(session, case)
            assert [one.model_version.name for one in said] == ["telltale-demo", "first"]
            assert case.verdict_id == said[0].id
            assert said[0].logit != pytest.approx(said[1].logit, abs=0.02)
            assert session.scalar(select(Rejudging)) is None

    def test_an_image_whose_bytes_are_gone_is_looked_for_again_and_asks_for_no_more(
        self, screener: Screener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workers.screening.ERROR_RETRY_AFTER", timedelta(0))
        with transaction() as session:
            case = make_case(session, make_tenant(session), CaseStatus.IN_REVIEW)
            session.add(Rejudging(case_id=case.id, asked_by="test"))
            verdict = case.verdict
            assert verdict is not None
            other = model_versions.register(
                session, checkpoint="/x", manifest=verdict.model_version.manifest | {"name": "gone"}, digest="gone"
            )
            verdict.model_version_id = other.id
        for _ in range(settings().case_attempts):
            with transaction() as session:
                assert session.scalar(select(Rejudging)) is not None
            screener.rejudge(case.id)
        with transaction() as session:
            assert session.scalar(select(Rejudging)) is None

    def test_a_case_in_flight_while_its_version_retires(
        self, screener: Screener, storage: Storage, made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        register(storage, made["first"])
        case_id = submitted()
        judge = Detector.detect_prepared

        def promoted_meanwhile(self: Detector, *arguments: Any, **options: Any) -> Any:
            promote("first")
            return judge(self, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(Detector, "detect_prepared", promoted_meanwhile)
            screener.screen(case_id)
        screener.champion.look()
        screener.rejudge(case_id)
        with transaction() as session:
            said = rejudging.verdicts_of(session, session.get_one(Case, case_id))
            assert [one.model_version.name for one in said] == ["telltale-demo", "first"]


def test_verdicts_carry_the_version_of_their_batch(screener: Screener, storage: Storage, made: dict[str, Path]) -> None:
    """Many threads, and a change amid them: every score is what the version that it names says of that image."""
    register(storage, made["first"], champion=True)
    cases = {submitted(number % PICTURES): number % PICTURES for number in range(24)}
    halfway, changed = threading.Event(), threading.Event()

    def screen(item: tuple[int, UUID]) -> None:
        if item[0] == 8:
            halfway.set()
        if item[0] == 20:
            changed.wait()  # else, on a machine that is busy, all could be judged before
        screener.screen(item[1])

    with ThreadPoolExecutor(5) as threads:
        done = [threads.submit(screen, item) for item in enumerate(cases)]
        try:
            assert halfway.wait(60)
            assert screener.champion.look() is True
        finally:
            changed.set()
        for one in done:
            one.result(timeout=120)
    folders = {"telltale-demo": DEMO_FOLDER, "first": made["first"]}
    logits = {name: logits_of(folder) for name, folder in folders.items()}
    assert min(abs(one - other) for one, other in zip(*logits.values(), strict=True)) > 0.01
    names = set()
    with transaction() as session:
        for case in session.scalars(select(Case).where(Case.id.in_(cases))):
            assert case.verdict is not None, case.failure_detail
            name = case.verdict.model_version.name
            names.add(name)
            assert case.verdict.logit == pytest.approx(logits[name][cases[case.id]], abs=0.002)
    assert names == {"telltale-demo", "first"}


def logits_of(folder: Path) -> list[float]:
    """What a version says of the samples, loaded alone."""
    pictures = [to_rgb(sample.path) for sample in samples()[:PICTURES]]
    return [one.logit for one in Detector.load(folder, device="cpu").judge(pictures)]


def version_id(name: str) -> UUID:
    with transaction() as session:
        return model_versions.version_named(session, name).id
