"""Model versions: one champion, whatever happens at once, and everybody is told."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from infra.services import wait_until
from moderation import checkpoints, model_versions
from moderation.db import MODEL_CHANNEL, listener, new_id, transaction
from moderation.errors import Conflict, DamagedCheckpoint, InvalidRequest, NotFound
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Delivery, Event, ModelVersion
from moderation.vocabulary import EventType, ModelStage
from tests.factories import make_endpoint, make_tenant, make_version

SOMEBODY = f"user:{new_id()}"


def champions() -> list[str]:
    with transaction() as session:
        query = select(ModelVersion.name).where(ModelVersion.stage == ModelStage.CHAMPION)
        return list(session.scalars(query))


def test_a_registered_version_is_a_challenger(db: Engine) -> None:
    with transaction() as session:
        assert make_version(session, "v1", champion=False).stage is ModelStage.CHALLENGER
        assert model_versions.champion(session) is None
        assert model_versions.version_named(session, "v1").name == "v1"
        with pytest.raises(NotFound):
            model_versions.version_named(session, "v2")


def test_the_same_manifest_again_is_the_same_version_wherever_it_lies_now(db: Engine) -> None:
    with transaction() as session:
        first = make_version(session, "v1")
        again = model_versions.register(session, checkpoint="/moved", manifest=first.manifest, digest=first.digest)
        assert (again.id, again.checkpoint, again.stage) == (first.id, "/moved", ModelStage.CHAMPION)
        with pytest.raises(Conflict, match="--name"):
            model_versions.register(session, checkpoint="/x", manifest=first.manifest, digest="another")


def test_promoting_retires_the_champion_and_tells_every_tenant(db: Engine) -> None:
    with transaction() as session:
        endpoints = {make_endpoint(session, make_tenant(session)).id for _ in range(2)}
        make_endpoint(session, make_tenant(session), event_types=["verdict.failed"])
        first, second = make_version(session, "v1"), make_version(session, "v2")
        assert (first.stage, second.stage) == (ModelStage.RETIRED, ModelStage.CHAMPION)
        event = session.scalars(select(Event).order_by(Event.id.desc()).limit(1)).one()
        assert (event.type, event.before, event.after) == (
            *(EventType.MODEL_PROMOTED, {"version": "v1"}),
            {"version": "v2", "reason": None, "rollback": False},
        )
        assert event.data == {"version": "v2", "kind": "demo", "instead_of": "v1", "rollback": False}
        told = session.scalars(select(Delivery.endpoint_id).where(Delivery.event_id == event.id)).all()
        assert set(told) == endpoints


def test_promoting_the_champion_changes_nothing(db: Engine) -> None:
    with transaction() as session:
        champion = make_version(session, "v1")
        promoted_at = champion.promoted_at
        model_versions.promote(session, champion.id, actor="again")
        assert champion.promoted_at == promoted_at
        assert session.scalar(select(func.count()).select_from(Event)) == 1


def test_what_is_not_there_cannot_be_promoted(db: Engine) -> None:
    with pytest.raises(NotFound), transaction() as session:
        model_versions.promote(session, new_id(), actor="x")


def test_a_retired_version_can_come_back(db: Engine) -> None:
    with transaction() as session:
        first = make_version(session, "v1")
        make_version(session, "v2")
        model_versions.promote(session, first.id, actor="rollback")
    assert champions() == ["v1"]


def test_the_database_itself_allows_one_champion(db: Engine) -> None:
    with transaction() as session:
        make_version(session, "v1")
        other = make_version(session, "v2", champion=False)
    with pytest.raises(IntegrityError), transaction() as session:
        session.get_one(ModelVersion, other.id).stage = ModelStage.CHAMPION


def test_of_promotions_at_once_one_wins_and_the_others_are_told(db: Engine) -> None:
    with transaction() as session:
        ids = [make_version(session, f"v{n}", champion=False).id for n in range(4)]
        seen = make_version(session, "seen").id
    barrier = threading.Barrier(len(ids), timeout=60)

    def promote(version_id: UUID) -> str:
        with transaction() as session:
            barrier.wait()
            try:
                return model_versions.promote(session, version_id, actor="thread", instead_of=seen).name
            except Conflict as error:
                return str(error)

    with ThreadPoolExecutor(len(ids)) as pool:
        outcomes = list(pool.map(promote, ids))
    (winner,) = champions()
    assert outcomes.count(winner) == 1
    lost = f"{winner} has become champion meanwhile, so nothing was changed: look at it, and decide again."
    assert outcomes.count(lost) == 3


def test_a_promotion_that_waited_for_another_is_told_too(db: Engine) -> None:
    """Nobody said what they had seen: it is what was champion when they began."""
    with transaction() as session:
        make_version(session, "v1")
        ids = {name: make_version(session, name, champion=False).id for name in ("v2", "v3")}

    def second() -> None:
        with transaction() as session:
            model_versions.promote(session, ids["v3"], actor="second")

    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            model_versions.promote(session, ids["v2"], actor="first")
            waiting = pool.submit(second)
            wait_until(lambda: is_waited_for(session), "the second, who waits for the lock")
        with pytest.raises(Conflict, match="v2 has become champion meanwhile"):
            waiting.result(timeout=60)
    assert champions() == ["v2"]


def is_waited_for(session: Session) -> bool:
    """Whether another transaction waits for what this one has locked."""
    waits = text("SELECT EXISTS (SELECT FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)))")
    return bool(session.scalar(waits))


def promote(name: str) -> None:
    with model_versions.changing() as session:
        version = model_versions.version_named(session, name)
        model_versions.promote(session, version.id, actor="test")


def rollback(**options: Any) -> str:
    with model_versions.changing() as session:
        return model_versions.rollback(session, actor=SOMEBODY, **options).name


def make(*names: str) -> None:
    with transaction() as session:
        for name in names:
            make_version(session, name, champion=False)


def test_a_rollback_undoes_promotions_one_after_the_other(db: Engine) -> None:
    make("v1", "v2", "v3", "v4")
    for name in ("v1", "v2", "v3"):
        promote(name)
    assert rollback(reason="reals fell") == "v2"
    assert rollback() == "v1", "not back to what was just undone"
    with pytest.raises(Conflict, match="nothing to go back to"):
        rollback()
    promote("v4")
    assert rollback() == "v1"
    promote("v3")
    promote("v1")
    assert rollback() == "v3"
    assert champions() == ["v3"]
    with transaction() as session:
        query = select(Event).where(Event.type == EventType.MODEL_PROMOTED).order_by(Event.id)
        event = session.scalars(query).all()[3]
        assert (event.actor, event.before) == (SOMEBODY, {"version": "v3"})
        assert event.after == {"version": "v2", "reason": "reals fell", "rollback": True}
        assert event.data is not None and "reals fell" not in event.data.values(), "every tenant's endpoint is told"


def test_a_rollback_of_another_version_than_was_seen_is_refused(db: Engine) -> None:
    make("v1", "v2", "v3")
    promote("v1")
    promote("v2")
    with transaction() as session:
        seen = model_versions.version_named(session, "v2").id
    promote("v3")
    with pytest.raises(Conflict, match="v3 has become champion meanwhile"):
        rollback(instead_of=seen)
    assert champions() == ["v3"]


def test_reasons_have_a_length(db: Engine) -> None:
    make("v1", "v2")
    promote("v1")
    promote("v2")
    with pytest.raises(InvalidRequest, match="501 characters"):
        rollback(reason="x" * 501)
    assert champions() == ["v2"]


def test_the_workers_are_woken_once_it_stands(db: Engine) -> None:
    make("v1")
    with listener(MODEL_CHANNEL, "test") as bell:
        promote("v1")
        heard = list(bell.notifies(timeout=60, stop_after=1))
    assert [note.channel for note in heard] == [MODEL_CHANNEL]


def test_one_worker_at_a_time_loads_anew(db: Engine) -> None:
    with model_versions.turn_to_reload() as first:
        with model_versions.turn_to_reload() as second:
            assert (first, second) == (True, False)
        with transaction() as session:
            idle = (
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND pid <> pg_backend_pid()"
            )
            assert session.execute(text(f"{idle} AND datname = current_database()")).scalar_one() == 0
    with model_versions.turn_to_reload() as third:
        assert third


class TestRemove:
    @pytest.fixture
    def names(self, db: Engine, bucket: str, tmp_path: Path) -> list[str]:
        """Six versions that are adapters in the store, each a day old; the fifth is champion, after the second."""
        names = [f"v{number}" for number in range(6)]
        with transaction() as session:
            for name in names:
                folder = tmp_path / name
                folder.mkdir()
                (folder / "weights").write_text(f"{tmp_path} {name}")
                version = make_version(session, name, champion=False)
                version.checkpoint = checkpoints.store(Storage(settings()), folder)
                version.created_at = datetime.now(UTC) - timedelta(days=1)
        promote("v1")
        promote("v4")
        with transaction() as session:
            session.execute(update(ModelVersion).values(promoted_at=datetime.now(UTC) - timedelta(days=1)))
        return names

    def remove(self, keep: int = 2, hours: float = 1) -> list[str]:
        return model_versions.remove(
            Storage(settings()), keep=keep, older_than=timedelta(hours=hours), actor="operator"
        )

    def test_the_champion_the_one_before_and_the_newest_stay(self, names: list[str], tmp_path: Path) -> None:
        assert self.remove(hours=48) == []
        assert self.remove(keep=6) == []
        assert self.remove() == ["v0", "v2", "v3"]
        assert self.remove() == []
        with transaction() as session:
            places = {name: model_versions.version_named(session, name).checkpoint for name in names}
            query = select(Event.after).where(Event.type == EventType.MODEL_REMOVED).order_by(Event.id)
            removed = session.scalars(query).all()
        assert [after["version"] for after in removed if after] == ["v0", "v2", "v3"]
        there = [name for name, place in places.items() if self.is_stored(place, tmp_path)]
        assert there == ["v1", "v4", "v5"]

    def is_stored(self, place: str, tmp_path: Path) -> bool:
        cache = tmp_path / "cache"
        cache.mkdir(exist_ok=True)
        try:
            checkpoints.fetch(Storage(settings()), checkpoints.digest_of(place) or "", cache)
        except DamagedCheckpoint:
            return False
        return True

    def test_what_is_removed_is_not_promoted_until_it_is_registered_again(self, names: list[str]) -> None:
        self.remove()
        with pytest.raises(Conflict, match="v0 is no longer kept"):
            promote("v0")
        with transaction() as session:
            gone = model_versions.version_named(session, "v0")
            model_versions.register(session, checkpoint=gone.checkpoint, manifest=gone.manifest, digest=gone.digest)
        promote("v0")
        assert champions() == ["v0"]

    def test_an_adapter_that_another_version_has_too_stays(self, names: list[str], tmp_path: Path) -> None:
        with transaction() as session:
            place = model_versions.version_named(session, "v0").checkpoint
            model_versions.version_named(session, "v5").checkpoint = place
        assert "v0" in self.remove()
        assert self.is_stored(place, tmp_path)
