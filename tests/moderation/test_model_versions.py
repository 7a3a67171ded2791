"""Model versions: one champion, whatever happens at once, and everybody is told."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import IntegrityError

from moderation import model_versions
from moderation.db import new_id, transaction
from moderation.errors import Conflict, NotFound
from moderation.tables import Delivery, Event, ModelVersion
from moderation.vocabulary import EventType, ModelStage
from tests.factories import make_endpoint, make_tenant, make_version


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
            *(EventType.MODEL_PROMOTED, {"version": "v1"}, {"version": "v2"}),
        )
        assert event.data == {"version": "v2", "kind": "demo"}
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


def test_of_promotions_at_once_all_succeed_one_after_the_other(db: Engine) -> None:
    with transaction() as session:
        ids = [make_version(session, f"v{n}", champion=False).id for n in range(4)]
    for _ in range(5):
        barrier = threading.Barrier(len(ids))

        def promote(number: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with transaction() as session:
                model_versions.promote(session, ids[number], actor="thread")

        with ThreadPoolExecutor(len(ids)) as pool:
            list(pool.map(promote, range(len(ids))))
        assert len(champions()) == 1
    with transaction() as session:
        events = session.scalars(select(Event).order_by(Event.created_at)).all()
    assert len(events) >= 5 * 3, "each is told of, but for the one that was champion already"
