"""`python -m workers.retraining`: looks for a run every two seconds, until SIGTERM.

A run under way is given back then, and gone on with by the next worker.
"""

from __future__ import annotations

import logging
import signal
import threading

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from moderation.settings import settings
from moderation.storage import Storage
from workers.retraining import upkeep
from workers.retraining.run import turn

log = logging.getLogger(__name__)

POLL_S = 2.0
PAUSE_AFTER_ERROR_S = 10.0


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    logging.basicConfig(level=settings().log_level, format="%(asctime)s %(levelname)s retraining: %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = Storage(settings())
    log.info("retraining worker started")
    while not stopping.is_set():
        try:
            busy = turn(store, settings(), stopping) or upkeep.turn(store, settings(), stopping)
        except (DBAPIError, PoolTimeout) as error:
            log.warning("the database is away: %s", error)
            stopping.wait(PAUSE_AFTER_ERROR_S)
            continue
        if not busy:
            stopping.wait(POLL_S)
    log.info("retraining worker stopped")


if __name__ == "__main__":
    main()
