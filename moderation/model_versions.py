"""Which model versions there are, which one is champion, and which was before.

A manifest is stored as the JSON its checkpoint came with; this module does not load checkpoints. Workers find a new
champion in its row: the bell that `changing` rings only makes it sooner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from moderation import checkpoints, db, events, notices
from moderation.errors import Conflict, InvalidRequest, NotFound
from moderation.storage import Storage
from moderation.tables import Event, ModelVersion, TrainingRun
from moderation.vocabulary import EventType, ModelStage, NoticeKind

# Any constant: the advisory lock of a worker that puts another network into its memory.
RELOAD_LOCK = 4_207_313
MOST_REASON = 500  # characters


def register(session: Session, *, checkpoint: str, manifest: dict[str, Any], digest: str) -> ModelVersion:
    """Store a version as challenger; the same manifest again is the same version.

    Raises Conflict where another manifest has this name.
    """
    name = manifest["name"]
    known = session.scalar(select(ModelVersion).where(ModelVersion.digest == digest))
    if known is not None:
        known.checkpoint, known.removed_at = checkpoint, None
        return known
    if session.scalar(select(ModelVersion.id).where(ModelVersion.name == name)):
        raise Conflict(f"There is another model version named {name}; give this one a name of its own with --name.")
    version = ModelVersion(
        name=name, checkpoint=checkpoint, digest=digest, manifest=manifest, stage=ModelStage.CHALLENGER
    )
    session.add(version)
    session.flush()
    return version


def champion(session: Session) -> ModelVersion | None:
    """The version that judges, if any."""
    return session.scalar(select(ModelVersion).where(ModelVersion.stage == ModelStage.CHAMPION))


def versions(session: Session) -> list[ModelVersion]:
    """All of them, newest first."""
    return list(session.scalars(select(ModelVersion).order_by(ModelVersion.id.desc())))


def version_named(session: Session, name: str) -> ModelVersion:
    """Raises NotFound."""
    version = session.scalar(select(ModelVersion).where(ModelVersion.name == name))
    if version is None:
        raise NotFound(f"There is no model version {name!r}; `telltale models list` shows them.")
    return version


def champion_id(session: Session) -> UUID | None:
    """The champion's id, without its manifest."""
    return session.scalar(select(ModelVersion.id).where(ModelVersion.stage == ModelStage.CHAMPION))


@contextmanager
def changing() -> Iterator[Session]:
    """A transaction in which the champion may change: once it stands, relay and screening workers are woken."""
    with db.transaction(wake=True) as session:
        yield session
    db.ring(db.MODEL_CHANNEL)


def promote(
    session: Session,
    version_id: UUID,
    *,
    actor: str,
    reason: str | None = None,
    instead_of: UUID | None = None,
) -> ModelVersion:
    """Make a version champion and retire the one that was; promoting the champion changes nothing.

    `instead_of` is the champion that whoever decides this has seen: a page's, or a gate's. Call it within `changing`.
    Raises NotFound, InvalidRequest for a reason too long, and Conflict where the version's adapter is no longer kept,
    or another version has become champion since.
    """
    return _promote(session, version_id, actor=actor, reason=reason, instead_of=instead_of, rollback=False)


def rollback(
    session: Session, *, actor: str, reason: str | None = None, instead_of: UUID | None = None
) -> ModelVersion:
    """Make the version champion that was before this one; again, the one before that. Otherwise as `promote`.

    Raises Conflict where there was none.
    """
    now = champion(session)
    before = previous(session)
    if now is None or before is None:
        raise Conflict("No version was champion before this one: there is nothing to go back to.")
    return _promote(session, before.id, actor=actor, reason=reason, instead_of=instead_of or now.id, rollback=True)


def previous(session: Session) -> ModelVersion | None:
    """The version that `rollback` would make champion, if any: a rollback undoes a promotion, and is not one."""
    names = line(session)
    return version_named(session, names[-2]) if len(names) > 1 else None


def line(session: Session) -> list[str]:
    """The names of the versions that became champion one after another, without what was rolled back; it is last."""
    query = select(Event.after).where(Event.type == EventType.MODEL_PROMOTED).order_by(Event.id)
    names: list[str] = []
    for after in session.scalars(query):
        assert after is not None
        if after.get("rollback"):
            del names[-2:]
        names.append(after["version"])
    return names


def _promote(
    session: Session, version_id: UUID, *, actor: str, reason: str | None, instead_of: UUID | None, rollback: bool
) -> ModelVersion:
    seen = instead_of or champion_id(session)
    version = _locked(session, version_id)
    before = champion(session)
    if before is not None and before.id == version.id:
        return version
    _require_unchanged(before, seen)
    if version.removed_at is not None:
        raise Conflict(f"The adapter of {version.name} is no longer kept: register it anew from its folder.")
    _move(session, before, version)
    _tell(session, before, version, actor=actor, reason=_checked(reason), rollback=rollback)
    return version


def _locked(session: Session, version_id: UUID) -> ModelVersion:
    """All of them, so that of two promotions at once the second sees what the first did."""
    everything = select(ModelVersion).order_by(ModelVersion.id).with_for_update()
    found = session.scalars(everything, execution_options=db.FRESH).all()
    version = next((version for version in found if version.id == version_id), None)
    if version is None:
        raise NotFound(f"There is no model version {version_id}; `telltale models list` shows them.")
    return version


def _require_unchanged(before: ModelVersion | None, seen: UUID | None) -> None:
    if before is not None and before.id != seen:
        raise Conflict(
            f"{before.name} has become champion meanwhile, so nothing was changed: look at it, and decide again."
        )


def _move(session: Session, before: ModelVersion | None, version: ModelVersion) -> None:
    if before is not None:
        before.stage = ModelStage.RETIRED
        session.flush()  # one champion at a time, in the database's eyes too
    version.stage = ModelStage.CHAMPION
    version.promoted_at = datetime.now(UTC)
    session.flush()


def _tell(
    session: Session,
    before: ModelVersion | None,
    version: ModelVersion,
    *,
    actor: str,
    reason: str | None,
    rollback: bool,
) -> None:
    """The reason stays in the audit trail and among operators: it may speak of one tenant, and others are told too."""
    instead = before.name if before else None
    event_id = events.record(
        session,
        EventType.MODEL_PROMOTED,
        tenant_id=None,
        actor=actor,
        before={"version": instead} if instead else None,
        after={"version": version.name, "reason": reason, "rollback": rollback},
        data={"version": version.name, "kind": version.manifest["kind"], "instead_of": instead, "rollback": rollback},
    )
    kind = NoticeKind.MODEL_ROLLED_BACK if rollback else NoticeKind.MODEL_PROMOTED
    title = f"Rolled back to {version.name}" if rollback else f"{version.name} is champion"
    what = f"It judges{f' in place of {instead}' if instead else ''}, for every platform."
    told = partial(notices.tell, session, kind, f"promotion {event_id}", title, actor=actor)
    why = f" Reason: {reason}" if reason else ""
    run_id = session.scalar(select(TrainingRun.id).where(TrainingRun.model_version_id == version.id).limit(1))
    told(f"{what} Done by {notices.by(session, actor)}.{why}", run_id=None if rollback else run_id)
    told(f"{what} Cases that are decided stay so.", for_operators=False)


def _checked(reason: str | None) -> str | None:
    reason = db.storable(reason or "").strip()
    if len(reason) > MOST_REASON:
        raise InvalidRequest(f"The reason has {len(reason)} characters; at most {MOST_REASON} are kept.")
    return reason or None


def swapped(session: Session, version: ModelVersion, *, worker: str, instead_of: str, seconds: float) -> None:
    """Write down that a worker judges with another version from now on; `seconds` since that became champion."""
    after = {"version": version.name, "worker": worker, "seconds": round(seconds, 3)}
    before = {"version": instead_of}
    events.record(session, EventType.MODEL_SWAPPED, tenant_id=None, actor="worker", before=before, after=after)


def swap_refused(
    session: Session, version: ModelVersion, *, worker: str, serving: str, reason: str, again: bool
) -> None:
    """Write down that a worker stays with the version it has, and why; `again`: it goes on trying."""
    after = {
        "version": version.name,
        "serving": serving,
        "worker": worker,
        "reason": db.storable(reason),
        "tries_again": again,
    }
    events.record(session, EventType.MODEL_SWAP_REFUSED, tenant_id=None, actor="worker", after=after)


@dataclass(frozen=True)
class Worker:
    """What a screening worker last said of the champion's promotion: it judges with it, or `refused` says why not."""

    name: str
    at: datetime
    seconds: float | None = None
    refused: str | None = None
    serving: str | None = None
    tries_again: bool = False


def workers(session: Session) -> list[Worker]:
    """Of every worker that was told of the champion's promotion, the last that it said, by name.

    A worker that started since has nothing to say: it loaded the champion.
    """
    promoted = select(Event.id).where(Event.type == EventType.MODEL_PROMOTED).order_by(Event.id.desc())
    promotion = session.scalar(promoted.limit(1))
    if promotion is None:
        return []
    told = Event.type.in_((EventType.MODEL_SWAPPED, EventType.MODEL_SWAP_REFUSED))
    query = select(Event).where(told, Event.id > promotion)
    said = {event.after["worker"]: event for event in session.scalars(query.order_by(Event.id)) if event.after}
    return [_worker(name, event) for name, event in sorted(said.items())]


def _worker(name: str, event: Event) -> Worker:
    said = event.after or {}
    if event.type is EventType.MODEL_SWAPPED:
        return Worker(name, event.created_at, seconds=said["seconds"])
    return Worker(
        name, event.created_at, refused=said["reason"], serving=said["serving"], tries_again=said["tries_again"]
    )


@contextmanager
def turn_to_reload() -> Iterator[bool]:
    """Whether it is this worker's turn to put another network into its memory: one does at a time.

    The turn ends with the block, or with the process.
    """
    with db.turn(RELOAD_LOCK) as mine:
        yield mine


def expendable(session: Session, *, keep: int, older_than: timedelta) -> list[ModelVersion]:
    """Versions whose stored adapter may go: neither champion nor the one before it, nor among the `keep` newest, and
    neither made nor promoted within `older_than`; oldest first.
    """
    before = previous(session)
    stored = [version for version in versions(session) if checkpoints.digest_of(version.checkpoint) is not None]
    limit = datetime.now(UTC) - older_than
    return [
        version
        for version in reversed(stored[keep:])
        if version.stage is not ModelStage.CHAMPION
        and version.removed_at is None
        and (before is None or version.id != before.id)
        and max(version.created_at, version.promoted_at or version.created_at) < limit
    ]


def remove(storage: Storage, *, keep: int, older_than: timedelta, actor: str) -> list[str]:
    """Remove the adapters of `expendable` versions, in rows first: whoever is killed in between leaves bytes, no lies.

    Their names. A version that is removed cannot be promoted; registering its folder again brings it back.
    """
    with db.transaction() as session:
        session.execute(select(ModelVersion.id).with_for_update())
        gone = expendable(session, keep=keep, older_than=older_than)
        for version in gone:
            version.removed_at = datetime.now(UTC)
            after = {"version": version.name}
            events.record(session, EventType.MODEL_REMOVED, tenant_id=None, actor=actor, after=after)
        kept = set(session.scalars(select(ModelVersion.checkpoint).where(ModelVersion.removed_at.is_(None))))
    for place in {version.checkpoint for version in gone} - kept:  # two versions may have one adapter
        checkpoints.remove(storage, checkpoints.digest_of(place) or "")
    return [version.name for version in gone]
