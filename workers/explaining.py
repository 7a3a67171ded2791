"""Explanations on demand, in a screening worker: takes a request, has the image judged again, and writes the words.

Like a case, a request that may have killed a worker runs alone, and a hold that is lost lapses. It borrows the
worker's batcher, sandbox and store, and knows nothing of how they are made.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from uuid import UUID

from model.batcher import Batcher, BatcherClosed
from model.decode import UndecodableImage, to_rgb
from model.detector import Verdict
from model.engines.engine import MemoryShort
from model.engines.vllm import ServerUnavailable
from moderation import explanations
from moderation.errors import NotFound, StorageUnavailable
from moderation.explanations import Job, Words
from moderation.sandbox import Sandbox, SandboxClosed, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.settings import Settings
from moderation.storage import Storage
from workers.champion import Champion
from workers.departure import departure
from workers.gate import Gate
from workers.heartbeat import BEATS_PER_LEASE, Heartbeat

log = logging.getLogger(__name__)

AWAY_RETRY_AFTER = timedelta(seconds=10)
ERROR_RETRY_AFTER = timedelta(seconds=5)


class Disagreement(Exception):
    """The model that runs now says otherwise than the verdict: its words would contradict it."""


class Explainer:
    """What one process needs to explain, beside what it screens with."""

    def __init__(
        self, champion: Champion, batcher: Batcher, sandbox: Sandbox, store: Storage, gate: Gate, settings: Settings
    ) -> None:
        self._champion = champion
        self._batcher = batcher
        self._sandbox = sandbox
        self._store = store
        self._gate = gate
        self._settings = settings
        self._heart = Heartbeat(partial(explanations.renew, settings=settings), settings.case_lease_s / BEATS_PER_LEASE)

    def close(self) -> None:
        """End the heartbeat; what was borrowed is not closed here."""
        self._heart.stop()

    def explain(self, verdict_id: UUID) -> None:
        """Take one request through to its end. Running it twice is harmless."""
        with self._gate.enter(alone=explanations.must_run_alone(verdict_id)):
            job = explanations.begin(verdict_id, self._settings)
            if job is None:
                return
            give_back = partial(explanations.postpone, job, timedelta(0), counts=False)
            with self._heart.keeping(job.lease), departure.holding(give_back):
                self._explain_and_write(job)

    def _explain_and_write(self, job: Job) -> None:
        try:
            words = self._words(job)
        except (StorageUnavailable, ServerUnavailable, MemoryShort) as error:
            log.warning("the explanation of verdict %s waits: %s", job.verdict_id, error)
            explanations.postpone(job, AWAY_RETRY_AFTER, counts=False)
        except (BatcherClosed, SandboxClosed):
            explanations.postpone(job, timedelta(0), counts=False)
        except NotFound:
            explanations.give_up(job, "The image's bytes are no longer stored: it was erased.")
        except (UndecodableImage, SandboxMemory, Disagreement) as error:
            explanations.give_up(job, str(error))
        except (SandboxTimeout, SandboxCrash) as error:
            # It may be the machine, overloaded or out of memory, and not the image.
            self._try_again_or_give_up(job, error.message)
        except Exception as error:
            log.exception("verdict %s could not be explained", job.verdict_id)
            self._try_again_or_give_up(job, f"Explaining failed with {type(error).__name__}.")
        else:
            explanations.finish(job, words)

    def _try_again_or_give_up(self, job: Job, detail: str) -> None:
        if job.lease.attempt < self._settings.case_attempts:
            explanations.postpone(job, ERROR_RETRY_AFTER, counts=True)
        else:
            explanations.give_up(job, detail)

    def _words(self, job: Job) -> Words:
        """Raises Disagreement where the model would explain the other label."""
        data = self._store.get(job.s3_key, max_bytes=job.image_bytes)
        image = self._sandbox.call(partial(to_rgb, max_pixels=self._settings.max_image_pixels), data)

        def agrees(said: Verdict) -> bool:
            return said.label == job.label.value

        detection = self._batcher.submit(image, agrees).result()
        if detection.explanation is None:
            raise Disagreement(
                f"The model that runs now judges this image {detection.verdict.label}, "
                f"and cannot explain an earlier verdict of {job.label.value}."
            )
        return Words(detection.explanation, self._champion.id_of(detection.verdict.model_version))
