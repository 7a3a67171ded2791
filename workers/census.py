"""What stands in Postgres, for whoever scrapes a relay: counted when somebody asks, and at most every few seconds.

In a thread of its own and on one connection, however many ask and however often; and the more a count costs, the
seldomer it is made. While the database is away there is nothing but the word that it is. With several relays each says
the same: take the largest, not the sum.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillReading
from typing import Any, Generic, TypeVar

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from moderation import drift, measures
from moderation.db import transaction
from moderation.drift import Drift
from moderation.measures import Line, Measures
from moderation.vocabulary import RunStatus

log = logging.getLogger(__name__)

Read = TypeVar("Read")

MEASURES_EVERY_S, DRIFT_EVERY_S = 5.0, 300.0
# Of the time, reading takes no more than one part in so many.
REST = 20
# How long a scrape waits for what is being read: Prometheus gives up after 10 s. How long it may go on with what was
# read before: a server that hangs, and does not say so, counts as away. And how long a statement may take.
PATIENCE_S, STALE_S, STATEMENT_S = 3.0, 20.0, 10


class Kept(Generic[Read]):
    """What was read last, for as long as it is good. Safe to ask from many threads."""

    def __init__(
        self,
        read: Callable[[Session], Read],
        good_for_s: float,
        patience_s: float = PATIENCE_S,
        stale_s: float = STALE_S,
    ) -> None:
        self._read, self._good_for_s, self._patience_s, self._stale_s = read, good_for_s, patience_s, stale_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="census")
        self._lock = threading.Lock()
        self._reading: Future[Read] | None = None
        self._last: Read | None = None
        self._began = self._good_until = 0.0

    def latest(self) -> Read | None:
        """None where it cannot be read; what was read before where that takes its time, but not for ever."""
        with self._lock:
            if self._reading is None or (self._reading.done() and time.monotonic() >= self._good_until):
                self._began = time.monotonic()
                self._reading = self._thread.submit(self._read_now)
            reading = self._reading
        try:
            self._last = reading.result(self._patience_s)
        except StillReading:
            return self._last if time.monotonic() - self._began < self._stale_s else None
        except (DBAPIError, PoolTimeout):
            self._last = None
        return self._last

    def _read_now(self) -> Read:
        began = time.monotonic()
        try:
            with transaction() as session:
                session.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_S}s'"))
                return self._read(session)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("what stands in the database cannot be counted: %s", error)
            raise
        finally:
            ended = time.monotonic()
            self._good_until = ended + max(self._good_for_s, REST * (ended - began))


class Census:
    """A collector for prometheus_client's registry."""

    def __init__(self) -> None:
        self._measures = Kept(measures.taken, MEASURES_EVERY_S)
        self._drift = Kept(drift.of_champion, DRIFT_EVERY_S)

    def describe(self) -> Iterator[Metric]:
        """Every metric without a sample; nothing is read."""
        yield from _of_database(None)
        yield from _of_measures(None)
        yield from _of_drift(None)

    def collect(self) -> Iterator[Metric]:
        """What cannot be read has no sample."""
        found = self._measures.latest()
        yield from _of_database(found is not None)
        yield from _of_measures(found)
        yield from _of_drift(self._drift.latest() if found else None)


def _of_database(is_up: bool | None) -> Iterator[Metric]:
    name = "telltale_database_up"
    yield GaugeMetricFamily(name, "Whether the relay can read the database.", None if is_up is None else int(is_up))


def _of_measures(found: Measures | None) -> Iterator[Metric]:
    yield from _lines(
        found.waiting if found else {},
        GaugeMetricFamily("telltale_waiting", "What waits for a worker, or for people.", labels=["queue"]),
        GaugeMetricFamily("telltale_oldest_waiting_seconds", "How long the first of them waits.", labels=["queue"]),
    )
    yield from _lines(
        found.reviews if found else {},
        GaugeMetricFamily("telltale_review_backlog", "Cases that people are to answer.", labels=["kind"]),
        GaugeMetricFamily("telltale_review_oldest_seconds", "How long the first of them waits.", labels=["kind"]),
    )
    failed = found.failed_cases if found else None
    yield GaugeMetricFamily("telltale_failed_cases", "Cases that ended without a verdict.", failed)
    disabled = found.disabled_endpoints if found else None
    yield GaugeMetricFamily("telltale_disabled_endpoints", "Endpoints that are sent nothing any more.", disabled)
    yield from _of_runs(found)
    labels = ["model_version", "name", "kind"]
    champion = GaugeMetricFamily("telltale_champion_info", "The version that judges.", labels=labels)
    if found and found.champion:
        name, kind = found.champion
        champion.add_metric([name, name, kind], 1)
    yield champion


def _lines(lines: Mapping[Any, Line], lengths: GaugeMetricFamily, ages: GaugeMetricFamily) -> Iterator[Metric]:
    """Where nothing waits the first has waited no time."""
    for name, line in lines.items():
        lengths.add_metric([name.value], line.length)
        ages.add_metric([name.value], line.oldest_s or 0.0)
    yield lengths
    yield ages


def _of_runs(found: Measures | None) -> Iterator[Metric]:
    states = GaugeMetricFamily("telltale_training_run", "1 for where the newest training run is.", labels=["state"])
    if found and found.run:
        for state in RunStatus:
            states.add_metric([state.value], int(state is found.run))
    yield states
    ended = found.run_ended.timestamp() if found and found.run_ended else None
    yield GaugeMetricFamily("telltale_training_finished_timestamp_seconds", "When a training run ended last.", ended)


def _of_drift(found: Drift | None) -> Iterator[Metric]:
    versus = "of 24 hours against the champion's holdout: population stability index."
    scores = GaugeMetricFamily("telltale_score_drift", f"Scores {versus}", labels=["model_version"])
    categories = GaugeMetricFamily("telltale_category_drift", f"Categories {versus}", labels=["model_version"])
    if found and found.scores is not None:
        scores.add_metric([found.model_version], found.scores)
    if found and found.categories is not None:
        categories.add_metric([found.model_version], found.categories)
    yield scores
    yield categories


def take() -> None:
    """Have it among this process's metrics from now on."""
    REGISTRY.register(Census())
