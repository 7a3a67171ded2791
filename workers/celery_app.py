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
from celery.signals import after_task_publish, beat_init, setup_logging, worker_init

from moderation import logs, schema
from moderation.errors import ConfigurationError, LostLease
from moderation.metrics import TASK_SECONDS, TASKS
from moderation.settings import Settings, settings
from workers import exposition

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
# Beat's sign of life at the broker, given whenever it has sent something: how much of this is left says when that was.
BEAT_SIGN, BEAT_SIGN_KEPT_S = "telltale:beat", 600
# What a worker that is told to stop has in hand it finishes within this, or gives back (workers/departure.py). Shorter
# than whoever stops it waits: infra/supervision.py, docker-compose.yml.
SOFT_SHUTDOWN_S = 8.0


# The header of a task's message that says what its lines in the log are about: the request it goes back to, and so on.
ABOUT = "about"


class LoggedTask(Task):  # type: ignore[misc]
    """Every task: timed, one line in the log, and harmless when somebody else holds what it was sent for."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        started, outcome = time.monotonic(), "failed"
        # Until this thread's next task: Celery's own line on an error comes after this.
        logs.begin(task=self.name, **(self.request.headers or {}).get(ABOUT, {}))
        try:
            self.run(*args, **kwargs)
            outcome = "done"
        except LostLease as error:
            outcome = "lost"
            log.warning("%s", error)
        finally:
            seconds = time.monotonic() - started
            TASKS.labels(self.name, outcome).inc()
            TASK_SECONDS.labels(self.name).observe(seconds)
            took = logs.Fields(outcome=outcome, duration_ms=round(seconds * 1000, 1))
            log.info("%s: %s", " ".join(map(str, (self.name, *args))), outcome, extra=took)


@setup_logging.connect
def _set_up_logging(**_: object) -> None:
    """In place of Celery's own. Beat is the one process without a role that is started by it."""
    logs.configure(settings().worker_role or "beat", settings())


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


@worker_init.connect
@beat_init.connect
def _serve_metrics(**_: object) -> None:
    with starting(ConfigurationError):
        exposition.serve()


@worker_init.connect
def _refuse_an_unfit_database(**_: object) -> None:
    """Every task would fail for want of a column, and cost its case an attempt; or use what was taken back."""
    with starting(ConfigurationError):
        schema.check()


@beat_init.connect
def _give_signs(**_: object) -> None:
    after_task_publish.connect(_give_sign)
    _give_sign()


def _give_sign(**_: object) -> None:
    with app.connection_or_acquire() as connection:
        connection.default_channel.client.set(BEAT_SIGN, 1, ex=BEAT_SIGN_KEPT_S)


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
