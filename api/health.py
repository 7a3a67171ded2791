"""Whether this process lives, and whether it can serve. Both are open to everybody and say nothing of any tenant."""

from __future__ import annotations

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from api import problems
from api.auth import public
from api.bodies import Answer, Shown
from api.problems import NotReady
from api.process import current
from moderation import db, keyring, model_versions, schema
from moderation.errors import ConfigurationError, StorageUnavailable
from moderation.storage import Storage

api = APIBlueprint("health", __name__, abp_tags=[Tag(name="Health")])

OK = "ok"


class Alive(Shown):
    """The process answers."""

    status: str = Field(examples=["alive"])


class Ready(Shown):
    """Every part answers. `model.kind` says `demo` where the demo model judges, which is not FakeVLM."""

    status: str = Field(examples=["ready"])
    checks: dict[str, str] = Field(examples=[{"database": OK, "object_store": OK, "model": OK, "keys": OK}])
    model: dict[str, str] = Field(examples=[{"version": "demo-1", "kind": "demo"}])


@api.get(
    "/health/live",
    operation_id="getLiveness",
    summary="Is the process alive?",
    responses={200: Alive} | problems.declared(),
)
@public
def live() -> Answer:
    """Touches nothing but a thread for requests, of which none may be free while the database hangs.

    To decide whether to restart a process, ask whether it takes connections instead.
    """
    return {"status": "alive"}


@api.get(
    "/health/ready",
    operation_id="getReadiness",
    summary="Can it serve?",
    responses={200: Ready} | problems.declared(503),
)
@public
def ready() -> Answer:
    """Checks the database, the object store, that some model version is champion, and the keys of stored secrets."""
    model, checks = _model()
    checks["keys"] = _keys() if checks["database"] == OK else "unknown"
    checks["object_store"] = _object_store(current().storage)
    if set(checks.values()) != {OK}:
        raise NotReady(checks)
    return {"status": "ready", "checks": checks, "model": model}


def _model() -> tuple[dict[str, str], dict[str, str]]:
    try:
        schema.check()
        with db.transaction() as session:
            champion = model_versions.champion(session)
    except SQLAlchemyError as error:
        # The reason may name hosts and users: it is for the log, not for everybody.
        return {}, {"database": _state(error), "model": "unknown"}
    except ConfigurationError as error:
        problems.log.warning("Not ready: %s", error)
        return {}, {"database": error.message, "model": "unknown"}
    if champion is None:
        return {}, {"database": OK, "model": "no model version is champion; see `telltale models`"}
    return {"version": champion.name, "kind": str(champion.manifest["kind"])}, {"database": OK, "model": OK}


def _keys() -> str:
    try:
        with db.transaction() as session:
            keyring.check(session)
    except SQLAlchemyError as error:
        return _state(error)
    except ConfigurationError as error:
        problems.log.warning("Not ready: %s", error)
        return "some cannot be decrypted; see TELLTALE_SECRET_KEYS"
    return OK


def _object_store(storage: Storage) -> str:
    try:
        storage.ping()
    except StorageUnavailable as error:
        return _state(error)
    return OK


def _state(error: Exception) -> str:
    problems.log.warning("Not ready: %s", error)
    return "does not answer"
