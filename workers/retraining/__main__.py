"""`python -m workers.retraining`: looks for a run every two seconds, until SIGTERM.

A run under way is given back then, and gone on with by the next worker. With `--until-done` it ends by itself once
nothing is left to do: for a job that is started when a run waits, so that its GPUs are free at other times.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from moderation import logs, schema
from moderation.errors import ConfigurationError
from moderation.settings import settings
from moderation.storage import Storage
from workers import exposition
from workers.celery_app import starting
from workers.retraining import upkeep
from workers.retraining.run import turn

log = logging.getLogger("workers.retraining")  # as a program it is called __main__

POLL_S = 2.0
PAUSE_AFTER_ERROR_S = 10.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT, or until nothing is left to do where that is asked for.

    Ends at once where the database cannot be used: see `schema.check`.
    """
    parser = argparse.ArgumentParser(prog="python -m workers.retraining", description="Do the training run that waits.")
    parser.add_argument("--until-done", action="store_true", help="end once no run waits, and nothing after one")
    until_done = parser.parse_args(arguments).until_done
    logs.configure("retraining", settings())
    with starting(ConfigurationError):
        schema.check()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = Storage(settings())
    exposition.serve()
    log.info("retraining worker started")
    while not stopping.is_set():
        try:
            busy = turn(store, settings(), stopping) or upkeep.turn(store, settings(), stopping)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("the database is away: %s", error)
            stopping.wait(PAUSE_AFTER_ERROR_S)
            continue
        if not busy and until_done:
            break
        if not busy:
            stopping.wait(POLL_S)
    log.info("retraining worker stopped")


if __name__ == "__main__":
    main()
