"""The Celery application: one broker, four queues, and a role that says which task modules a process imports.

Recovery is never the broker's: tasks are acknowledged when they start, carry ids only, and whatever is lost is found
again in Postgres by the relay. There are no results, no retries and no countdowns here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, Task
from celery.schedules import crontab

from moderation.errors import LostLease
from moderation.settings import Settings, settings

log = logging.getLogger(__name__)

# Task name → queue. The relay and beat know tasks by these names alone.
SCREEN = "screening.screen"
EXPLAIN = "screening.explain"
REJUDGE = "screening.rejudge"
FETCH = "fetching.fetch"
DELIVER = "delivery.deliver"
SETTLE = "reviews.settle"
MAIL = "mailing.send"
CLEAN_UP = "housekeeping.clean_up"
RETRAIN = "nightly.retrain"
ROUTES = {
    SCREEN: "screening",
    EXPLAIN: "screening",
    REJUDGE: "screening",
    FETCH: "fetching",
    DELIVER: "delivery",
    SETTLE: "reviews",
    # Not behind webhooks, of which there may be thousands.
    MAIL: "housekeeping",
    CLEAN_UP: "housekeeping",
    RETRAIN: "housekeeping",
}

# Only the screening role's module loads torch. Links have a process of their own: those that hang would fill the
# threads that webhooks need. Both open stored secrets, so they start with the keys for it or not at all.
TASK_MODULES = {
    "screening": ["workers.screening"],
    "fetching": ["workers.fetching", "workers.keys"],
    "delivery": [
        "workers.delivery",
        "workers.housekeeping",
        "workers.keys",
        "workers.mailing",
        "workers.nightly",
        "workers.reviews",
    ],
}

CLEAN_UP_EVERY_S = 60.0
# What a worker that is told to stop has in hand it finishes within this, or gives back (workers/departure.py). Shorter
# than whoever stops it waits: infra/supervision.py, docker-compose.yml.
SOFT_SHUTDOWN_S = 8.0


class LoggedTask(Task):  # type: ignore[misc]
    """Every task: timed, and harmless when somebody else holds what it was sent for."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        started = time.monotonic()
        try:
            self.run(*args, **kwargs)
        except LostLease as error:
            log.warning("%s %s: %s", self.name, args, error)
        finally:
            log.info("%s %s took %.0f ms", self.name, args, (time.monotonic() - started) * 1000)


@contextmanager
def starting(*plain: type[Exception]) -> Iterator[None]:
    """End this process where the block, a hook of its start, fails: whoever supervises it starts it again.

    Whatever it is, such as a database that is away: Celery would log it and serve on without what the hook prepares.
    Errors of `plain` say by themselves what is wrong; any other is logged with its traceback.
    """
    try:
        yield
    except Exception as error:
        log.critical("this worker cannot start: %s", error, exc_info=not isinstance(error, plain))
        raise SystemExit(1) from error


def schedule(rules: Settings) -> dict[str, Any]:
    """What beat sends, and when; hours are of `retrain_timezone`."""
    sent: dict[str, Any] = {"clean up": {"task": CLEAN_UP, "schedule": CLEAN_UP_EVERY_S}}
    if rules.retrain_hour is not None:
        sent["retrain"] = {"task": RETRAIN, "schedule": crontab(hour=rules.retrain_hour, minute=0)}
    return sent


def make_app() -> Celery:
    """The application for this process's role; the relay has none and imports no task."""
    role = settings().worker_role
    made = Celery("telltale", broker=settings().redis_url, task_cls=LoggedTask)
    made.conf.update(
        imports=TASK_MODULES[role] if role else [],
        task_routes={name: {"queue": queue} for name, queue in ROUTES.items()},
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=settings().screening_threads if role == "screening" else settings().delivery_threads,
        worker_hijack_root_logger=True,
        worker_send_task_events=False,
        worker_soft_shutdown_timeout=SOFT_SHUTDOWN_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_timeout": 10, "socket_connect_timeout": 5, "health_check_interval": 15},
        beat_schedule=schedule(settings()),
        timezone=settings().retrain_timezone.key,
    )
    return made


app = make_app()
