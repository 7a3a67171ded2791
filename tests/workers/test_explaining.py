"""Explanations on demand through the worker's own code: the demo checkpoint on a real image, and what can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
import torch
from sqlalchemy import Engine, delete, update

from infra.demo.samples import samples
from model.checkpoint import DEMO
from model.decode import UndecodableImage
from model.detector import Detector
from model.engines.vllm import ServerUnavailable
from moderation import explanations, images, submissions, tenants
from moderation.db import transaction
from moderation.errors import NotFound, StorageUnavailable
from moderation.explanations import Progress, State
from moderation.policy import Thresholds
from moderation.sandbox import SandboxClosed, SandboxTimeout
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, ExplanationRequest, Verdict
from moderation.vocabulary import CaseStatus, ExplainMode, Label
from tests.factories import make_tenant, make_version
from workers import screening as worker
from workers.screening import Screener

torch.set_num_threads(1)


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


@pytest.fixture
def case(screener: Screener) -> Case:
    """A case that the policy decided without words, and asked about since."""
    with transaction() as session:
        tenant = make_tenant(session)
        tenants.set_policy(session, tenant.id, Thresholds(0.5, 0.4999, explain=ExplainMode.REVIEW))
    data = samples()[0].path.read_bytes()
    request = submissions.Request(tenant_id=tenant.id, actor="test", request_id="test")
    facts = images.inspect(data, settings().max_image_pixels)
    case_id = submissions.submit_image(request, data, facts, storage=Storage(settings()), settings=settings()).id
    screener.screen(case_id)
    with transaction() as session:
        found = session.get_one(Case, case_id)
        assert (found.status, found.verdict and found.verdict.explanation) == (CaseStatus.DECIDED, None)
        explanations.ask(session, tenant.id, case_id, actor="test")
    return found


def verdict_of(case: Case) -> UUID:
    assert case.verdict_id is not None
    return case.verdict_id


def progress(case: Case) -> Progress:
    with transaction() as session:
        return explanations.progress(session.get_one(Verdict, verdict_of(case)))


def attempts(case: Case) -> int:
    with transaction() as session:
        return session.get_one(ExplanationRequest, verdict_of(case)).attempts


def raising(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def test_the_task_explains_what_the_policy_had_skipped(
    screener: Screener, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_screener", screener)
    worker.explain(str(case.verdict_id))
    said = progress(case)
    assert said.state is State.READY and said.text is not None
    with transaction() as session:
        found = session.get_one(Verdict, verdict_of(case))
        assert said.text.startswith(f"This is a {found.label} image.")
        assert found.explanation is not None
        assert found.explanation.model_version_id == screener.champion.version_id == found.model_version_id
        before = session.get_one(Case, case.id).sequence
    worker.explain(str(case.verdict_id))
    assert progress(case) == said
    with transaction() as session:
        assert session.get_one(Case, case.id).sequence == before, "twice is once"


def test_words_that_would_contradict_the_verdict_are_not_written(screener: Screener, case: Case) -> None:
    with transaction() as session:
        found = session.get_one(Verdict, verdict_of(case))
        other = Label.REAL if found.label is Label.FAKE else Label.FAKE
        session.execute(update(Verdict).values(label=other))
    screener.explainer.explain(verdict_of(case))
    said = progress(case)
    assert (said.state, said.text) == (State.FAILED, None)
    assert said.detail is not None and f"cannot explain an earlier verdict of {other.value}" in said.detail


@pytest.mark.parametrize("error", [SandboxTimeout("slow"), RuntimeError("a bug")])
def test_what_may_be_the_machines_fault_is_tried_again_and_fails_at_last(
    screener: Screener, case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(screener._sandbox, "call", raising(error))
    for attempt in range(1, settings().case_attempts + 1):
        with transaction() as session:
            session.execute(update(ExplanationRequest).values(next_attempt_at=case.created_at))
        screener.explainer.explain(verdict_of(case))
        assert attempts(case) == attempt
    assert progress(case).state is State.FAILED


@pytest.mark.parametrize("error", [StorageUnavailable("away"), SandboxClosed("closing"), ServerUnavailable("away")])
def test_what_is_no_fault_of_the_image_does_not_count(
    screener: Screener, case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(screener._store, "get", raising(error))
    screener.explainer.explain(verdict_of(case))
    assert (progress(case).state, attempts(case)) == (State.WAITING, 0)


@pytest.mark.parametrize("error", [NotFound("gone"), UndecodableImage("broken")])
def test_what_cannot_be_explained_says_why(
    screener: Screener, case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(screener._store, "get", raising(error))
    screener.explainer.explain(verdict_of(case))
    said = progress(case)
    assert said.state is State.FAILED and said.detail


def test_a_request_that_is_gone_is_nothing_to_do(screener: Screener, case: Case) -> None:
    with transaction() as session:
        session.execute(delete(ExplanationRequest))
    screener.explainer.explain(verdict_of(case))
    assert progress(case).state is State.NONE
