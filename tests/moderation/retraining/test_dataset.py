"""Data sets as files: FakeClue's folder with everything that may be in it, and nothing that may not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from model.evaluate.records import dataset as evaluation
from model.finetune.records import Record
from moderation import erasure
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import ConfigurationError, InvalidRequest, NotFound
from moderation.retraining import dataset, examples, runs, snapshot, tombstones
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Event, Tenant
from moderation.vocabulary import Answer, CaseStatus, EventType, RunStatus, Split
from tests.factories import make_case
from tests.learning import WORDING, allow, make_picture, make_review


@pytest.fixture
def store(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture
def cases(store: Storage, tenant: Tenant, anna: Person) -> list[Case]:
    """Four reviewed pictures, two of them fake, in categories that no file system would take as they are."""
    with transaction() as session:
        made = []
        for number in range(4):
            image = make_picture(session, store, tenant, (number, 0, 0))
            category = {"category": "../doc scan"} if number < 2 else {}
            case = make_case(session, tenant, CaseStatus.IN_REVIEW, image=image, details=category)
            make_review(session, case, anna, Answer.FAKE if number % 2 else Answer.REAL)
            made.append(case)
        return made


def divided(store: Storage, sides: dict[UUID, Split]) -> tuple[UUID, str]:
    """A run's id and its snapshot's digest."""
    taken = snapshot.taken(datetime.now(UTC) + timedelta(minutes=1), WORDING, timedelta(0), UUID(int=0))
    stored = snapshot.kept(store, taken)
    with transaction() as session:
        run = runs.ask(session, actor="test")
        lease = runs.take(session, timedelta(seconds=60))
        assert lease is not None
        run.snapshot_digest, run.snapshot_key = stored.digest, stored.key
        if sides:
            examples.record(session, run.id, taken, sides)
        runs.end(session, lease, RunStatus.REJECTED)
        return run.id, stored.digest


def test_a_run_is_written_as_our_own_tools_read_it(store: Storage, cases: list[Case], tmp_path: Path) -> None:
    sides = dict(
        zip([case.id for case in cases], [Split.TRAIN, Split.TRAIN, Split.HOLDOUT, Split.LEFT_OUT], strict=True)
    )
    run_id, digest = divided(store, sides)
    for what, out in ((str(run_id), tmp_path / "by run"), (digest, tmp_path / "by digest")):
        done = dataset.export(store, what, out, actor="test")
        assert (done.files, done.left_out) == ({"test": 1, "train": 2}, {"gone": 0, "left_out": 1})
        train, test = (evaluation.read(out / f"{file}.json") for file in ("train", "test"))
        assert not train.skipped and not test.skipped
        assert [(each.label, each.category) for each in train.samples] == [
            ("real", "../doc scan"),
            ("fake", "../doc scan"),
        ]
        assert [each.references for each in test.samples] == [("This is a real image.",)]
        assert train.samples[1].image.startswith("train/---doc-scan/fake/")
        for row in json.loads((out / "train.json").read_text()):
            assert Record.model_validate(row).conversations[0].value == WORDING.question


def test_a_snapshot_that_no_run_has_divided_is_one_file(store: Storage, cases: list[Case], tmp_path: Path) -> None:
    _, digest = divided(store, {})
    done = dataset.export(store, digest, tmp_path / "out", actor="test")
    assert done.files == {"all": 4}


def test_what_may_not_be_read_any_more_is_left_out_and_counted(
    store: Storage, cases: list[Case], tenant: Tenant, tmp_path: Path
) -> None:
    _, digest = divided(store, {})
    erased, restricted, purged, *_ = cases
    assert erased.image is not None and purged.image is not None
    with transaction() as session:
        erasure.erase(session, erased.tenant_id, erased.image.id, actor="test", request_id=None)
        session.get_one(Case, restricted.id).restricted = True
    store.delete(purged.image.s3_key)
    done = dataset.export(store, digest, tmp_path / "out", actor="test")
    assert (done.files, done.left_out["gone"]) == ({"all": 1}, 3)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 1
    with transaction() as session:
        allow(session, tenant, False)
    assert tombstones.place_in(store, digest)
    done = dataset.export(store, digest, tmp_path / "later", actor="test")
    assert (done.files, done.left_out["gone"]) == ({}, 4), "a tombstone counts as what it stands for"


def test_it_is_in_the_audit_trail(store: Storage, cases: list[Case], tmp_path: Path) -> None:
    _, digest = divided(store, {})
    dataset.export(store, digest, tmp_path / "out", actor="operator")
    with transaction() as session:
        event = session.scalars(select(Event).where(Event.type == EventType.DATASET_EXPORTED)).one()
    assert event.actor == "operator"
    assert event.after is not None and event.after["snapshot"] == digest


def test_what_is_there_is_not_fetched_again_and_what_is_not_what_it_was_is_refused(
    store: Storage, cases: list[Case], tmp_path: Path
) -> None:
    _, digest = divided(store, {})
    taken = snapshot.read(store, digest)

    def place(example: snapshot.Example) -> Path:
        return tmp_path / f"{example.sha256}.png"

    assert len(dataset.fetched(store, taken.examples, place)) == 4
    for case in cases[1:]:
        assert case.image is not None
        store.put(case.image.s3_key, b"\0" * case.image.bytes, "image/png")
    assert len(dataset.fetched(store, taken.examples, place)) == 4
    place(taken.examples[1]).write_bytes(b"half of it")
    with pytest.raises(ConfigurationError, match="not those that were sent"):
        dataset.fetched(store, taken.examples, place)


def test_a_folder_with_something_in_it_and_an_unknown_snapshot_are_refused(store: Storage, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    with pytest.raises(InvalidRequest, match="give a new one"):
        dataset.export(store, "ab", tmp_path / "full", actor="test")
    with pytest.raises(NotFound, match="no snapshot ab"):
        dataset.export(store, "ab", tmp_path / "out", actor="test")
    with transaction() as session:
        run = runs.ask(session, actor="test")
    with pytest.raises(NotFound, match="before it took one"):
        dataset.export(store, str(run.id), tmp_path / "out", actor="test")
    assert not (tmp_path / "out").exists()
