"""The screening worker: takes a case, fetches and decodes its image, has it judged, and writes what was said.

The one place beside retraining that loads the model, or connects to the server that runs it. A case that may have
killed a worker runs alone, decoding happens in a process that can be killed, and a GPU call that hangs ends this
process; in every case the leases lapse and the relay offers the cases again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Protocol
from uuid import UUID

from celery.signals import worker_init, worker_shutdown

from model.batcher import Batcher, BatcherClosed
from model.checkpoint import CheckpointError
from model.decode import UndecodableImage, to_rgb
from model.detector import Detection, Detector, GoldenMismatch, Verdict
from model.engines.engine import EngineError, MemoryShort
from model.engines.vllm import ServerUnavailable
from model.manifest import ManifestError
from moderation import exhibits, rejudging, screening
from moderation.errors import ConfigurationError, DamagedCheckpoint, NotFound, StorageUnavailable
from moderation.sandbox import Sandbox, SandboxClosed, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.screening import Job, Reading
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import ModelVersion
from moderation.vocabulary import FailureReason, Label
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
        )
        self._sandbox = Sandbox(settings.decode_processes, settings.decode_memory_bytes, settings.decode_timeout_s)
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
        with self._outage.turn() as go, self._gate.enter(alone=go and screening.must_run_alone(case_id)):
            if not go:
                return
            job = screening.begin(case_id, self.champion.version_id, self._settings)
            if job is None:
                return
            with self._heart.keeping(job.lease), departure.holding(_giving_back(screening, job)):
                self._judge_and_write(job, screening)

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
        image = self._sandbox.call(partial(to_rgb, max_pixels=self._settings.max_image_pixels), data)
        prepared = time.monotonic()
        detection = self._batcher.submit(image, lambda verdict: _reading(verdict).wants_explanation(job.thresholds))
        if not job.exhibited:
            # Here, for the wait is the GPU's.
            exhibits.make(self._store, self._sandbox, job.image_id, data, image)
        said = detection.result()
        reading = _reading(said)
        log.info(
            "case %s: %s, p_fake %.3f (fetched and decoded in %.0f ms, judged in %.0f ms) [%s]",
            job.lease.case_id,
            reading.label,
            reading.p_fake,
            (prepared - started) * 1000,
            (time.monotonic() - prepared) * 1000,
            job.request_id,
        )
        return reading, self.champion.id_of(said.verdict.model_version)


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
    store = Storage(settings())
    with starting(*CANNOT_START):
        detector, version = load_champion(store)
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
