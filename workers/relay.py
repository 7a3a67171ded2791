"""The relay: finds work in Postgres and tells the broker, a bounded window at a time.

It is woken by a bell after each commit; a few times a second it looks by itself too, for what has come due since. It
may be killed at any moment, and several may run side by side: an offer nobody took is made again.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

import psycopg
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from moderation import dispatch, logs, schema
from moderation.db import listener, transaction
from moderation.dispatch import Work
from moderation.errors import ConfigurationError
from moderation.metrics import RELAY_OFFERED, RELAY_TURN_SECONDS
from moderation.settings import Settings, settings
from workers import census, exposition
from workers.celery_app import ABOUT, DELIVER, EXPLAIN, FETCH, MAIL, REJUDGE, ROUTES, SCREEN, SETTLE, app, starting

log = logging.getLogger("workers.relay")  # as a program it is called __main__

PAUSE_AFTER_ERROR_S = 1.0
Offer = Callable[[Session], list[UUID]]


class Relay:
    """One turn after another until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End after the turn under way."""
        self._stopping.set()

    def run(self) -> None:
        """Turn until stopped, through outages of Postgres and of the broker, and while a restore is under way."""
        while not self._stopping.is_set():
            try:
                with listener() as bell:
                    # At each connection: it may be another database than before.
                    schema.refuse_half_restored()
                    self._turn_while_connected(bell)
            except (psycopg.Error, OperationalError, DBAPIError, PoolTimeout) as error:
                log.warning("the database is away: %s", error)
                self._stopping.wait(PAUSE_AFTER_ERROR_S)
            except ConfigurationError as error:
                log.warning("nothing is offered: %s", error)
                self._stopping.wait(PAUSE_AFTER_ERROR_S)

    def _turn_while_connected(self, bell: psycopg.Connection) -> None:
        interval = self._settings.relay_interval_ms / 1000
        while not self._stopping.is_set():
            try:
                with RELAY_TURN_SECONDS.time():
                    self.turn(bell)
            except (BrokerError, RedisError, OSError) as error:
                log.warning("the broker is away: %s", error)
                self._stopping.wait(PAUSE_AFTER_ERROR_S)
                continue
            # What did not fit into a window waits for room, which rings the bell too.
            for _ in bell.notifies(timeout=interval, stop_after=1):
                break

    def turn(self, look: psycopg.Connection) -> int:
        """Offer what is due now, of every kind; returns how many offers were made.

        Whether anything is due is looked up on `look`, past the pool: most turns do nothing else. It is the sign of
        life that `dispatch.last_signs` reads.
        None of a kind whose queue holds a window already: offers lapse, but messages nobody takes would pile up.
        """
        lease = timedelta(seconds=self._settings.offer_lease_s)
        window = self._settings.dispatch_window

        def screening(session: Session) -> list[UUID]:
            return dispatch.offer_cases(session, dispatch.SCREENING, window=window, lease=lease)

        def fetching(session: Session) -> list[UUID]:
            return dispatch.offer_cases(session, dispatch.FETCHING, window=window, lease=lease)

        def deliveries(session: Session) -> list[UUID]:
            per_endpoint = self._settings.deliveries_per_endpoint
            return dispatch.offer_deliveries(session, per_endpoint=per_endpoint, lease=lease)

        def answers(session: Session) -> list[UUID]:
            return dispatch.offer_answers(session, window=window, lease=lease)

        def explanations(session: Session) -> list[UUID]:
            return dispatch.offer_explanations(session, window=window, lease=lease)

        def rejudgings(session: Session) -> list[UUID]:
            return dispatch.offer_rejudgings(session, lease=lease)

        def mails(session: Session) -> list[UUID]:
            return dispatch.offer_mails(session, lease=lease)

        # Explanations before the cases of the same queue: a person is looking at the page.
        kinds = (
            (Work.EXPLANATIONS, EXPLAIN, "explanation_requests", explanations),
            (Work.SCREENING, SCREEN, "cases", screening),
            (Work.FETCHING, FETCH, "cases", fetching),
            (Work.ANSWERS, SETTLE, "cases", answers),
            (Work.DELIVERIES, DELIVER, "deliveries", deliveries),
            (Work.REJUDGINGS, REJUDGE, "rejudgings", rejudgings),
            *([(Work.MAILS, MAIL, "notice_mails", mails)] if self._settings.smtp_url else []),
        )
        due = dispatch.due(look)
        return sum(self._send(task, table, offer) for work, task, table, offer in kinds if work in due)

    def _send(self, task: str, table: str, offer: Offer) -> int:
        if waiting(ROUTES[task]) >= self._settings.dispatch_window:
            return 0
        with transaction() as session:
            ids = offer(session)
            about = dispatch.about(session, table, ids)
        sent = 0
        try:
            for sent, id_ in enumerate(ids, start=1):  # noqa: B007 - counts what the broker took
                app.send_task(task, args=[str(id_)], headers={ABOUT: about.get(id_, {})}, retry=False)
                log.info("offered %s", id_, extra={"task": task, **about.get(id_, {})})
        except Exception:
            self._withdraw(table, ids[max(sent - 1, 0) :])
            raise
        RELAY_OFFERED.labels(ROUTES[task]).inc(len(ids))
        return len(ids)

    def _withdraw(self, table: str, ids: Sequence[UUID]) -> None:
        with transaction() as session:
            dispatch.withdraw(session, table, ids)


def waiting(queue: str) -> int:
    """How many messages the broker holds in a queue; 0 for one it does not know, or has lost."""
    with app.connection_or_acquire() as connection:
        # Past Kombu, which counts by declaring the queue anew.
        return int(connection.default_channel.client.llen(queue))


def main() -> None:
    """Run until SIGTERM or SIGINT. Ends at once where the database cannot be used: see `schema.check`."""
    logs.configure("relay", settings())
    with starting(ConfigurationError):
        schema.check()
    exposition.serve()
    census.take()
    relay = Relay(settings())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: relay.stop())
    log.info("relay started, polling every %d ms", settings().relay_interval_ms)
    started = time.monotonic()
    relay.run()
    log.info("relay stopped after %.0f s", time.monotonic() - started)


if __name__ == "__main__":
    main()
