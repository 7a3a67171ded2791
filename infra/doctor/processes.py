"""Looks at Telltale's own processes: whether each is alive and does its work."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from celery import Celery
from redis import Redis

from infra.doctor.answers import TIMEOUT_S, asked
from infra.doctor.finding import Finding, broken, doubtful, unknown, unused, well
from moderation import dispatch
from moderation.db import glance
from moderation.errors import Unreachable
from moderation.retraining import runs
from moderation.settings import Settings
from moderation.vocabulary import RunStatus
from workers.celery_app import BEAT_SIGN, BEAT_SIGN_KEPT_S, CLEAN_UP_EVERY_S

DEMO = " (demo model, not FakeVLM)"
# Workers answer at once; one whose machine is busy may take a moment.
ANSWERS_WITHIN_S = 1.5
# Three signs that did not come.
RELAY_SILENT_S, BEAT_SILENT_S = 15.0, 180.0
# Where a machine is started first for a run, it takes its time.
UNTAKEN = timedelta(minutes=10)


def api(rules: Settings) -> Finding:
    """Whether it answers at the address that platforms know."""
    status, where = asked(f"{rules.public_url}/health/live").status, urlsplit(rules.public_url).netloc
    if status != HTTPStatus.OK:
        return broken(f"{where} answers with status {status}: it is something else, or something stands before it.")
    return well(f"It answers at {where}.")


def readiness(rules: Settings) -> Finding:
    """Whether the api can serve, by its own account."""
    answer = asked(f"{rules.public_url}/health/ready")
    if answer.is_ok:
        model = answer.said["model"]
        return well(f"It can serve; {model['version']} judges{DEMO if model['kind'] == 'demo' else ''}.")
    lacking = [f"{name} {state}" for name, state in answer.said.get("checks", {}).items() if state != "ok"]
    return broken(f"It cannot serve: {', '.join(lacking) or f'status {answer.status}'}.")


def relay(rules: Settings) -> Finding:
    """Whether one is connected to Postgres, and gave a sign of life lately."""
    with glance() as session:
        ago = dispatch.last_signs(session)
    if not ago:
        return broken("None is connected to Postgres: no case is judged and no webhook sent.")
    if ago[0] > RELAY_SILENT_S:
        return broken(f"It is connected and gave its last sign of life {ago[0]:.0f} s ago: it hangs.")
    return well(f"{len(ago)} at work.")


class Workers:
    """All Celery workers, asked once: who of them takes from which queue."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._takers: dict[str, set[str]] | None = None

    def of(self, queues: Sequence[str]) -> Callable[[Settings], Finding]:
        """A look at those who take from these queues."""
        return partial(self._look, queues=queues)

    def _look(self, rules: Settings, *, queues: Sequence[str]) -> Finding:
        takers = self._asked(rules.redis_url)
        if left := [queue for queue in queues if queue not in takers]:
            return broken(f"No worker answers that takes from the queue {' or '.join(left)}.")
        names = sorted({name for queue in queues for name in takers[queue]})
        return well(f"{', '.join(names)} answer{'s' if len(names) == 1 else ''}.")

    def _asked(self, broker_url: str) -> dict[str, set[str]]:
        with self._asking:
            if self._takers is None:
                self._takers = _takers(broker_url)
            return self._takers


def _takers(broker_url: str) -> dict[str, set[str]]:
    """By queue, the workers that answer and take from it."""
    takers: dict[str, set[str]] = {}
    with Celery(broker=broker_url, set_as_current=False) as broker:
        answers = broker.control.inspect(timeout=ANSWERS_WITHIN_S).active_queues() or {}
    for name, queues in answers.items():
        for queue in queues:
            takers.setdefault(queue["name"], set()).add(name)
    return takers


def beat(rules: Settings) -> Finding:
    """Whether it gave a sign of life lately. They are kept by Redis, and lost with it until the next one."""
    with Redis.from_url(rules.redis_url, socket_connect_timeout=TIMEOUT_S, socket_timeout=TIMEOUT_S) as client:
        left, up = client.ttl(BEAT_SIGN), client.info("server")["uptime_in_seconds"]
    if left < 0 and up < 2 * CLEAN_UP_EVERY_S:
        again = "Look again in a minute; if it says so then, beat does not run."
        return doubtful(f"No sign yet since Redis was started {up} s ago.", again)
    if left < 0 or BEAT_SIGN_KEPT_S - left > BEAT_SILENT_S:
        ago = f"for {(BEAT_SIGN_KEPT_S - left) / 60:.0f} minutes" if left >= 0 else "for ten minutes or more"
        return broken(f"No sign of life {ago}: nothing is cleaned up, and no training run asked for.")
    return well(f"Its last sign of life was {BEAT_SIGN_KEPT_S - left} s ago.")


def retraining(rules: Settings) -> Finding:
    """Whether somebody takes the run that is asked for, and how the last one ended."""
    with glance() as session:
        live = runs.live(session)
        last = next(iter(runs.latest(session, 1)), None)
    if live is not None and live.status is RunStatus.ASKED and datetime.now(UTC) - live.created_at > UNTAKEN:
        return broken(f"A run asked for at {live.created_at:%Y-%m-%d %H:%M} UTC is taken by no worker.")
    if live is not None:
        return well(f"A run is {live.status.value}.")
    if last is not None and last.status in (RunStatus.FAILED, RunStatus.LOST):
        return doubtful(f"The last run ended {last.status.value}.", "The dashboard says why, under Training.")
    return well(f"The last run ended {last.status.value}." if last else "No run was asked for yet.")


def metrics(targets: Path) -> partial[Finding]:
    """A look at every process's numbers, where a stack on this machine says where they are (`Stack.targets`)."""
    return partial(_metrics, targets=targets)


def _metrics(rules: Settings, *, targets: Path) -> Finding:
    if targets.exists():
        served = {each["labels"]["job"]: each["targets"][0] for each in json.loads(targets.read_text())}
        with ThreadPoolExecutor(len(served)) as pool:
            silent = [job for job, has in zip(served, pool.map(_has_numbers, served.values()), strict=True) if not has]
        if silent:
            return broken(f"None from {', '.join(silent)}: it hangs, or does not run.")
        return well(f"All {len(served)} processes serve them.")
    if rules.metrics_port is None:
        return unused("TELLTALE_METRICS_PORT is not set: no numbers are served to Prometheus.")
    return unknown(f"Each process serves its own on port {rules.metrics_port}: Prometheus knows who does.")


def _has_numbers(address: str) -> bool:
    try:
        return asked(f"http://{address}/metrics").is_ok
    except Unreachable:
        return False
