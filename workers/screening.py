"""The screening worker: takes a case, fetches and decodes its image, has it judged, and writes what was said.

The one place beside retraining that loads the model, or connects to the server that runs it. A case that may have
killed a worker runs alone, decoding happens in a process that can be killed, and a GPU call that hangs ends this
process; in every case the leases lapse and the relay offers the cases again.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Protocol
from uuid import UUID

from celery.signals import worker_init, worker_shutdown
from PIL import Image

from model.batcher import Batcher, BatcherClosed
from model.checkpoint import CheckpointError
from model.decode import UndecodableImage, to_rgb
from model.detector import Detection, Detector, GoldenMismatch, Verdict
from model.engines.engine import EngineError, MemoryShort
from model.engines.vllm import ServerUnavailable
from model.manifest import ManifestError
from moderation import exhibits, logs, rejudging, screening
from moderation.errors import ConfigurationError, DamagedCheckpoint, NotFound, StorageUnavailable
from moderation.sandbox import Sandbox, SandboxClosed, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.screening import Job, Reading
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import ModelVersion
from moderation.traits import Traits
from moderation.vocabulary import FailureReason, Label
from workers import gpus, picture, tally
from workers.celery_app import EXPLAIN, REJUDGE, SCREEN, app, starting
from workers.champion import Champion, load_champion
from workers.departure import departure
from workers.explaining import Explainer
from workers.gate import Gate
from workers.heartbeat import BEATS_PER_LEASE, Heartbeat
from workers.outage import Outage

log = logging.getLogger(__name__)

AWAY_RETRY_AFTER = timedelta(seconds=10)
ERROR_RETRY_AFTER = timedelta(seconds=5)
PRELOADED = ("workers.picture",)
# Between two operations of the network its thread lets go of the interpreter, and another that takes it keeps it for
# so long: by Python's default of 5 ms the network stood still for a quarter of the time (docs/performance.md).
SWITCH_S = 0.0005
CANNOT_START = (
    *(ConfigurationError, StorageUnavailable, DamagedCheckpoint),
    *(CheckpointError, ManifestError, EngineError, GoldenMismatch),
)


class Desk(Protocol):
    """Where a job comes from and what became of it goes: `moderation.screening`, or `moderation.rejudging`."""

    def finish(self, job: Job, reading: Reading, model_version_id: UUID) -> None: ...

    def give_up(self, job: Job, reason: FailureReason, detail: str) -> None: ...

    def postpone(self, job: Job, delay: timedelta, *, counts: bool) -> None: ...


class Screener:
    """What one process needs to screen: a detector behind its batcher, a sandbox for decoding, the store."""

    def __init__(self, detector: Detector, version: ModelVersion, store: Storage, settings: Settings) -> None:
        self._settings = settings
        self._store = store
        self._gate = Gate()
        self._outage = Outage()
        self._batcher = Batcher(
            detector,
            max_batch=settings.batch_size,
            max_wait_ms=settings.batch_wait_ms,
            hang_after_s=settings.gpu_timeout_s,
            on_ran=tally.ran,
        )
        self._sandbox = Sandbox(
            settings.decode_processes, settings.decode_memory_bytes, settings.decode_timeout_s, PRELOADED
        )
        beat_s = settings.case_lease_s / BEATS_PER_LEASE
        self._heart = Heartbeat(partial(screening.renew, settings=settings), beat_s)
        self._second_heart = Heartbeat(partial(rejudging.renew, settings=settings), beat_s)
        self.champion = Champion(version, self._batcher, self._gate, store, settings)
        self.explainer = Explainer(self.champion, self._batcher, self._sandbox, store, self._gate, settings)

    def close(self) -> None:
        """Finish what is in flight and let go of everything."""
        self.champion.stop()
        self._batcher.close()
        self._heart.stop()
        self._second_heart.stop()
        self.explainer.close()
        self._sandbox.close()

    def screen(self, case_id: UUID) -> None:
        """Take one case through to its end. Running it twice is harmless."""
        with self._outage.turn() as go:
            if go and not self._screen(case_id, alone=False) and screening.must_run_alone(case_id):
                self._screen(case_id, alone=True)

    def _screen(self, case_id: UUID, *, alone: bool) -> bool:
        """Whether there was something to do. Beside others none is begun that was begun before."""
        with self._gate.enter(alone=alone):
            job = screening.begin(case_id, self.champion.version_id, self._settings, again=alone)
            if job is None:
                return False
            with self._heart.keeping(job.lease), departure.holding(_giving_back(screening, job)):
                self._judge_and_write(job, screening)
            return True

    def rejudge(self, case_id: UUID) -> None:
        """Give a case this version's verdict beside its own. Running it twice is harmless."""
        with self._outage.turn() as go, self._gate.enter(alone=go and rejudging.must_run_alone(case_id)):
            if not go:
                return
            job = rejudging.begin(case_id, self.champion.version_id, self._settings)
            if job is None:
                return
            with self._second_heart.keeping(job.lease), departure.holding(_giving_back(rejudging, job)):
                self._judge_and_write(job, rejudging)

    def _judge_and_write(self, job: Job, desk: Desk) -> None:
        logs.add(case_id=job.lease.case_id, request_id=job.request_id, attempt=job.lease.attempt)
        try:
            reading, version_id = self._judge(job)
        except (StorageUnavailable, ServerUnavailable, MemoryShort) as error:
            self._outage.met(error)
            log.warning("case %s waits: %s", job.lease.case_id, error)
            desk.postpone(job, AWAY_RETRY_AFTER, counts=False)
        except (BatcherClosed, SandboxClosed):
            desk.postpone(job, timedelta(0), counts=False)
        except NotFound:
            # An erased image does not come this far: it may be a store that is not all there yet, after a restart.
            self._try_again_or_give_up(desk, job, FailureReason.IMAGE_ERASED, "The image's bytes are no longer stored.")
        except UndecodableImage as error:
            desk.give_up(job, FailureReason.UNDECODABLE, str(error))
        except SandboxMemory as error:
            desk.give_up(job, FailureReason.IMAGE_TOO_LARGE, error.message)
        except (SandboxTimeout, SandboxCrash) as error:
            # It may be the machine, overloaded or out of memory, and not the image.
            self._try_again_or_give_up(desk, job, FailureReason.UNDECODABLE, error.message)
        except Exception as error:
            log.exception("case %s could not be judged", job.lease.case_id)
            self._try_again_or_give_up(
                desk, job, FailureReason.INTERNAL, f"Judging failed with {type(error).__name__}."
            )
        else:
            self._outage.over()
            desk.finish(job, reading, version_id)

    def _try_again_or_give_up(self, desk: Desk, job: Job, reason: FailureReason, detail: str) -> None:
        if job.lease.attempt < self._settings.case_attempts:
            desk.postpone(job, ERROR_RETRY_AFTER, counts=True)
        else:
            desk.give_up(job, reason, detail)

    def _judge(self, job: Job) -> tuple[Reading, UUID]:
        """What was said of the image, and the version that said it: the batch's, whatever is served since."""
        started = time.monotonic()
        data = self._store.get(job.s3_key, max_bytes=job.image_bytes)
        pixels, made = self._read(job, data)
        prepared = time.monotonic()
        detection = self._batcher.submit(pixels, lambda verdict: _reading(verdict).wants_explanation(job.thresholds))
        if made is not None:
            # Here, for the wait is the GPU's.
            exhibits.keep(self._store, job.tenant_id, job.image_id, made)
        said = detection.result()
        tally.judged(said.verdict, job.thresholds)
        reading = _reading(said)
        # Said when the task has ended, in its one line.
        logs.add(
            label=reading.label.value,
            p_fake=round(reading.p_fake, 3),
            prepare_ms=round((prepared - started) * 1000, 1),
            judge_ms=round((time.monotonic() - prepared) * 1000, 1),
        )
        return reading, self.champion.id_of(said.verdict.model_version)

    def _read(self, job: Job, data: bytes) -> tuple[Image.Image, Traits | None]:
        """The pixels, and what people are shown of them where it is not there yet.

        All of it in one call; but that a file's provenance ends its reader is no reason not to judge the image.
        """
        most = self._settings.max_image_pixels
        if not job.exhibited:
            try:
                read = self._sandbox.call(picture.read, data, job.media_type, most)
                return read.pixels, read.traits
            except (SandboxTimeout, SandboxCrash, SandboxMemory) as error:
                log.warning("image %s is decoded by itself: %s", job.image_id, error)
        pixels = self._sandbox.call(to_rgb, data, max_pixels=most)
        if job.exhibited:
            return pixels, None
        return pixels, exhibits.made_apart(self._sandbox, job.image_id, data, job.media_type, pixels)


def _giving_back(desk: Desk, job: Job) -> Callable[[], None]:
    return partial(desk.postpone, job, timedelta(0), counts=False)


def _reading(said: Verdict | Detection) -> Reading:
    verdict, text = (said.verdict, said.explanation) if isinstance(said, Detection) else (said, None)
    return Reading(
        label=Label(verdict.label),
        p_fake=verdict.p_fake,
        logit=verdict.logit,
        pair_mass=verdict.pair_mass,
        engine=verdict.engine,
        dtype=verdict.dtype,
        explanation=text,
    )


_screener: Screener | None = None


@worker_init.connect
def _start(**_: object) -> None:
    """Load before the first task; a worker that cannot serve its champion must not start."""
    global _screener  # noqa: PLW0603 - one per process, made by Celery's own hook
    sys.setswitchinterval(SWITCH_S)
    store = Storage(settings())
    with starting(*CANNOT_START):
        detector, version = load_champion(store)
    gpus.watch()
    _screener = Screener(detector, version, store, settings())
    _screener.champion.start()


@worker_shutdown.connect
def _stop(**_: object) -> None:
    if _screener is not None:
        _screener.close()


@app.task(name=SCREEN)
def screen(case_id: str) -> None:
    """Screen one case."""
    _ours().screen(UUID(case_id))


@app.task(name=REJUDGE)
def rejudge(case_id: str) -> None:
    """Give one case the champion's verdict beside its own."""
    _ours().rejudge(UUID(case_id))


@app.task(name=EXPLAIN)
def explain(verdict_id: str) -> None:
    """Explain one verdict, because somebody asked."""
    _ours().explainer.explain(UUID(verdict_id))


def _ours() -> Screener:
    if _screener is None:
        raise ConfigurationError("The screening tasks run in a Celery worker of the screening role only.")
    return _screener
