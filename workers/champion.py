"""Which version a screening worker serves, and how it changes to another one.

The champion's row says what should be served; a bell makes a change sooner noticed, and a look every few seconds makes
up for one that was not heard. An adapter on the base that is loaded takes its place between two batches. A version on
another base has the worker drained and loaded anew, one worker at a time. Whatever happens, nothing is served that did
not give its golden outputs on this network: the worker stays with what it has, and says why.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from model.adapters import AdapterError
from model.batcher import Batcher, BatcherClosed
from model.checkpoint import CheckpointError, golden_folder
from model.detector import Detector, DetectorLost, GoldenMismatch
from model.engines.engine import EngineError, OtherBase, Successor
from model.manifest import Manifest, ManifestError
from moderation import checkpoints, model_versions
from moderation.db import MODEL_CHANNEL, listener, transaction
from moderation.errors import ConfigurationError, DamagedCheckpoint, InvalidRequest, StorageUnavailable
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import ModelVersion
from workers.gate import Gate

log = logging.getLogger(__name__)

# Between two looks, where no bell is heard: so much a lost one costs.
LOOK_EVERY_S = 2.0
# A version that could not be had is tried again after this, then twice as long, and so on up to the second.
PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0

# What a version fails with before the network is touched; trying again may help.
NOT_READY = (
    *(StorageUnavailable, DamagedCheckpoint, InvalidRequest, ConfigurationError),
    *(CheckpointError, ManifestError, EngineError, OSError),
)
# What says by itself what is wrong.
PLAIN = (GoldenMismatch, AdapterError, EngineError, CheckpointError)


class SwapRefused(RuntimeError):
    """A version was not taken; `again` says whether trying again may help without anybody doing something."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class NotOurTurn(RuntimeError):
    """Another worker is loading anew."""


@dataclass
class _Trouble:
    """What keeps this worker from the champion: which promotion, told of already, and when it tries again, if ever."""

    promotion: tuple[UUID, datetime | None]
    told: set[str]
    pause_s: float = PAUSE_S
    not_before: float | None = 0.0


class Champion:
    """The version that judges in this process. `look` is called from one thread; all else from any."""

    def __init__(self, version: ModelVersion, batcher: Batcher, gate: Gate, store: Storage, settings: Settings) -> None:
        self._version = version
        self._batcher = batcher
        self._gate = gate
        self._store = store
        self._settings = settings
        self._ids = {batcher.detector.manifest.name: version.id}
        self._trouble: _Trouble | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="champion", daemon=True)

    @property
    def version_id(self) -> UUID:
        """Of the version that will judge what is submitted now."""
        return self._version.id

    def id_of(self, name: str) -> UUID:
        """The version's id by the name that its verdicts carry: they may be those of the version before."""
        return self._ids[name]

    def start(self) -> None:
        """Follow the champion from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Follow it no longer; a change under way ends with its batcher."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * LOOK_EVERY_S)

    def look(self) -> bool:
        """Change over where another version is champion, and this worker can; whether it serves the champion."""
        with transaction() as session:
            if model_versions.champion_id(session) in (None, self._version.id):
                self._trouble = None
                return True
            version = model_versions.champion(session)
        if version is None or version.id == self._version.id or not self._may_try(version):
            return False
        try:
            self._change_to(version)
        except NotOurTurn:
            return False
        except SwapRefused as refused:
            self._stay(version, refused)
            return False
        return True

    def _watch(self) -> None:
        """Look whenever the bell rings and every few seconds, through outages of the database."""
        while not self._stopping.is_set():
            try:
                with listener(MODEL_CHANNEL, "telltale-screening") as bell:
                    while not self._stopping.is_set():
                        self.look()
                        for _ in bell.notifies(timeout=LOOK_EVERY_S, stop_after=1):
                            break
            except BatcherClosed:
                return
            except Exception:
                # Whatever it is, this worker goes on judging with what it has, and must hear of the next champion.
                log.warning("could not look for a new champion", exc_info=True)
                self._stopping.wait(LOOK_EVERY_S)

    def _change_to(self, version: ModelVersion) -> None:
        began = time.monotonic()
        before = self._version.name
        place, successor = self._get_ready(version)
        if successor is None:
            self._reload(version, place)
        else:
            self._exchange(successor, place)
        self._version, self._trouble = version, None
        log.info("%s judges now instead of %s, %.1f s after it was noticed", version.name, before, _since(began))
        with transaction() as session:
            took = seconds_since(version.promoted_at)
            model_versions.swapped(session, version, worker=worker_name(), instead_of=before, seconds=took)

    def _get_ready(self, version: ModelVersion) -> tuple[Path | str, Successor | None]:
        """What can be done while the running version works: where the other one is, and what will take over.

        No successor where only loading anew will do. Raises SwapRefused.
        """
        try:
            place, manifest = place_of(version, self._store), manifest_of(version)
            self._ids[manifest.name] = version.id  # before the first verdict that carries the name
            try:
                return place, self._batcher.detector.successor(place, revision=manifest.revision, manifest=manifest)
            except OtherBase:
                return place, None
        except NOT_READY as error:
            raise SwapRefused(str(error), again=True) from error

    def _exchange(self, successor: Successor, place: Path | str) -> None:
        """Between two batches, proven there. Raises SwapRefused, BatcherClosed, DetectorLost (this process ends)."""
        golden = golden_folder(place)
        began = time.monotonic()
        try:
            self._batcher.exchange(lambda detector: detector.succeeded_by(successor, golden)).result()
        except (BatcherClosed, DetectorLost):
            raise
        except Exception as error:  # whatever it is: the detector has put back what was there
            raise SwapRefused(_told(error), again=False) from error
        log.info("the batch before, the exchange and its golden outputs took %.0f ms", _since(began) * 1000)

    def _reload(self, version: ModelVersion, place: Path | str) -> None:
        """Drain, let go of the network, load the other one. Raises NotOurTurn, SwapRefused, BatcherClosed.

        Cases wait outside of the gate meanwhile, under nobody's lease: the relay offers them to other workers.
        """
        refusal: list[SwapRefused] = []

        def load_anew(detector: Detector) -> Detector:
            detector.release()  # two of them do not fit one card
            try:
                return proven(version, place, self._settings)
            except Exception as error:  # noqa: BLE001  (whatever it is, this worker must go on with something)
                refusal.append(SwapRefused(_told(error), again=False))
            gc.collect()  # only now is the network that failed let go of
            return self._loaded_back()

        with model_versions.turn_to_reload() as mine:
            if not mine:
                raise NotOurTurn
            log.info("%s stands on another network: draining this worker to load it", version.name)
            with self._gate.enter(alone=True):
                self._batcher.exchange(load_anew, watched=False).result()
        if refusal:
            raise refusal[0]

    def _loaded_back(self) -> Detector:
        """The version that was served until now. Raises DetectorLost."""
        try:
            return proven(self._version, place_of(self._version, self._store), self._settings)
        except Exception as error:
            raise DetectorLost(f"{self._version.name} could not be loaded again: {error}") from error

    def _may_try(self, version: ModelVersion) -> bool:
        trouble = self._trouble
        if trouble is None or trouble.promotion != (version.id, version.promoted_at):
            return True
        return trouble.not_before is not None and time.monotonic() >= trouble.not_before

    def _stay(self, version: ModelVersion, refused: SwapRefused) -> None:
        """Go on with what there is, and leave word of it: once for each reason of each promotion."""
        promotion = (version.id, version.promoted_at)
        if self._trouble is None or self._trouble.promotion != promotion:
            self._trouble = _Trouble(promotion, set())
        trouble, reason = self._trouble, str(refused)
        trouble.not_before = time.monotonic() + trouble.pause_s if refused.again else None
        trouble.pause_s = min(2 * trouble.pause_s, LONGEST_PAUSE_S)
        log.error("%s is not taken, %s goes on: %s", version.name, self._version.name, reason)
        if reason in trouble.told:
            return
        trouble.told.add(reason)
        with transaction() as session:
            model_versions.swap_refused(
                session,
                version,
                worker=worker_name(),
                serving=self._version.name,
                reason=reason,
                again=refused.again,
            )


def load_champion(store: Storage) -> tuple[Detector, ModelVersion]:
    """The champion, loaded (or connected to, where `vllm_url` is set) and proven to answer as when it was registered.

    Raises ConfigurationError where there is none, StorageUnavailable or DamagedCheckpoint where its adapter cannot be
    fetched, CheckpointError where it cannot be loaded, EngineError where the server is away or serves something else,
    GoldenMismatch where it answers otherwise.
    """
    with transaction() as session:
        version = model_versions.champion(session)
    if version is None:
        raise ConfigurationError(
            "No model version is champion: run `telltale models register CHECKPOINT --promote` once."
        )
    detector = proven(version, place_of(version, store), settings())
    log.info("champion %s answers its golden images as measured", version.name)
    return detector, version


def proven(version: ModelVersion, place: Path | str, rules: Settings) -> Detector:
    """A version loaded or connected to, at `place`, that gave its golden outputs.

    Raises CheckpointError, EngineError, GoldenMismatch.
    """
    manifest = manifest_of(version)
    if rules.vllm_url is not None:
        detector = Detector.connect(rules.vllm_url, place, revision=manifest.revision, manifest=manifest)
    else:
        detector = Detector.load(
            place, revision=manifest.revision, manifest=manifest, compiled_rows=rules.compiled_batch
        )
    detector.verify_golden(golden_folder(place))
    return detector


def place_of(version: ModelVersion, store: Storage) -> Path | str:
    """Where a version can be loaded from: as its row says, or the folder its stored adapter was fetched to.

    Raises StorageUnavailable, DamagedCheckpoint.
    """
    digest = checkpoints.digest_of(version.checkpoint)
    return version.checkpoint if digest is None else checkpoints.fetch(store, digest)


def manifest_of(version: ModelVersion) -> Manifest:
    """A version's manifest. Raises ManifestError where a newer program wrote it."""
    try:
        return Manifest.model_validate(version.manifest)
    except ValueError as error:
        raise ManifestError(f"The manifest of {version.name} is none of this program's version: {error}") from error


def worker_name() -> str:
    """This process, as events name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, PLAIN) else f"{type(error).__name__}: {error}"


def _since(began: float) -> float:
    return time.monotonic() - began


def seconds_since(moment: datetime | None) -> float:
    """How long ago something happened, by this machine's clock; 0 where that is not known."""
    return max(0.0, (datetime.now(UTC) - moment).total_seconds()) if moment else 0.0
