"""The one way to Postgres: an engine per process, short transactions, and a bell that wakes the relay.

It knows no tables. No transaction is held open across a GPU call or an outside HTTP call.
"""

from __future__ import annotations

import logging
import math
import select
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any, ParamSpec, TypeVar

import psycopg
import uuid_utils.compat
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from moderation.settings import settings

log = logging.getLogger(__name__)

Given = ParamSpec("Given")
Got = TypeVar("Got")

# What the relay's connection is called.
RELAY_NAME = "telltale-relay"
# The relay listens here.
WORK_CHANNEL = "telltale_work"
# Screening workers listen here: another version may be champion.
MODEL_CHANNEL = "telltale_model"

# A server that vanishes without a word (a host lost, a firewall that forgets) is given up after 20 to 25 s, not after
# the two hours of Linux's own keepalives. Seconds, but for tcp_user_timeout: libpq takes it in milliseconds.
CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
# A pooled connection that has lain for longer is asked whether the server is still there, before it is used.
ASK_AFTER_S = 1.0
LAIN_SINCE = "telltale_lain_since"
# What is to be done once a session's transaction stands.
AFTERWARDS = "telltale_afterwards"
RING_EVERY_S = 0.01
# Whoever finds every connection of the process in use waits so long for one, and then for nothing.
POOL_TIMEOUT_S = 5.0
# How a row is read that may have changed while it was waited for: anew, also where the session had read it before.
FRESH = {"populate_existing": True}
# Within a lease: whoever waits longer has lost what it would write.
INSIST_S, INSIST_EVERY_S = 20.0, 0.5


def new_id() -> uuid.UUID:
    """A version 7 UUID: unique without asking the database, and in order of making, so indexes stay compact."""
    return uuid_utils.compat.uuid7()


@cache
def engine() -> Engine:
    """The process's connection pool; each connection gives up on a statement after 30 s and on a lock after 10 s.

    Whatever the process is, each of its threads finds a connection, and a few are left for heartbeats and bells.
    """
    rules = settings()
    made = create_engine(
        rules.database_url,
        pool_size=max(rules.screening_threads, rules.delivery_threads, rules.api_threads) + 4,
        max_overflow=8,
        pool_timeout=POOL_TIMEOUT_S,
        # The one that lay last: a few are kept warm, with their statements prepared, and the others rest.
        pool_use_lifo=True,
        # What a statement was given may be a secret, and errors are logged.
        hide_parameters=True,
        connect_args={
            **CONNECTION,
            "options": "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s",
            "application_name": "telltale",
        },
    )
    event.listen(made, "checkin", _lay_down)
    event.listen(made, "checkout", partial(_still_there, made))
    return made


def _lay_down(connection: psycopg.Connection | None, record: ConnectionPoolEntry) -> None:
    record.info[LAIN_SINCE] = time.monotonic()


def _still_there(made: Engine, connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
    """Ask a connection that has lain for a while, or from which something came unasked: a server that ends says so.

    One that was in use just now is not asked: it would be a round trip more for every transaction. Raises
    InvalidatePoolError, upon which the pool begins anew.
    """
    rested = time.monotonic() - record.info.get(LAIN_SINCE, math.inf)  # one that is new has never lain
    if rested < ASK_AFTER_S and not select.select([connection], [], [], 0)[0]:
        return
    try:
        made.dialect.do_ping(connection)
    except psycopg.OperationalError as error:
        raise InvalidatePoolError from error


@contextmanager
def transaction(*, wake: bool = False) -> Iterator[Session]:
    """One transaction: committed at the end of the block, rolled back if it raises.

    `wake` rings the relay's bell once the commit stands. It is rung outside the commit, because a NOTIFY inside makes
    Postgres serialise commits; a bell that is lost costs one polling interval and nothing else.
    """
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session
    for act in session.info.get(AFTERWARDS, ()):
        act()
    if wake:
        _bell.ring()


def afterwards(session: Session, act: Callable[[], object]) -> None:
    """Have `act` called once this `transaction` stands, and not if it does not; it must be quick and raise nothing."""
    session.info.setdefault(AFTERWARDS, []).append(act)


def insistent(write: Callable[Given, Got]) -> Callable[Given, Got]:
    """Have a transaction that ends a piece of work run again while the database is away, for INSIST_S at most.

    What was judged or read is then written when the database is back, instead of being done once more at the cost of
    an attempt. Only for what is safe to repeat: whether the commit stood is not known. Raises what the last run raised.
    """

    @wraps(write)
    def insisting(*args: Given.args, **kwargs: Given.kwargs) -> Got:
        deadline = time.monotonic() + INSIST_S
        while True:
            try:
                return write(*args, **kwargs)
            except (OperationalError, PoolTimeout) as error:
                if time.monotonic() + INSIST_EVERY_S > deadline:
                    raise
                log.warning("%s is run again: %s", write.__name__, error)
                time.sleep(INSIST_EVERY_S)

    return insisting


def storable(text_: str) -> str:
    """A text as Postgres can hold it: neither NULs nor halves of surrogate pairs, which become replacement marks."""
    return text_.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


@contextmanager
def glance() -> Iterator[Session]:
    """A session for a statement or two that need not agree: each stands alone, without a transaction around it.

    A transaction that only reads one row is three round trips, and this is one. Where nothing is wanted of the rows but
    their columns, `autonomous` takes half of a session's CPU.
    """
    with Session(_without_transactions(engine()), expire_on_commit=False) as session:
        yield session


@cache
def _without_transactions(made: Engine) -> Engine:
    return made.execution_options(isolation_level="AUTOCOMMIT")


class _Bell:
    """Rings the relay's bell from a thread of its own, at most once in RING_EVERY_S.

    Of many commits that follow one another the relay is told once, and nobody who commits waits for the telling. The
    last one is never left out, unless the process ends in that moment.
    """

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """Ring soon."""
        self._wanted.set()
        with self._starting:
            if self._thread is None or not self._thread.is_alive():  # a fork takes no threads along
                self._thread = threading.Thread(target=self._run, name="bell", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            ring()
            time.sleep(RING_EVERY_S)


_bell = _Bell()


def wake() -> None:
    """Ring the relay's bell soon; for what was committed without `transaction`."""
    _bell.ring()


def ring(channel: str = WORK_CHANNEL) -> None:
    """Wake whoever listens; a warning where that fails: what they would find is committed, and they look again soon."""
    try:
        with autonomous() as connection:
            connection.execute(text(f"NOTIFY {channel}"))
    except (DBAPIError, PoolTimeout) as error:
        log.warning("the bell of %s did not ring: %s", channel, error)


def autonomous() -> Connection:
    """A connection on which every statement stands alone, so that holding it holds no transaction open."""
    return _without_transactions(engine()).connect()


@contextmanager
def turn(key: int) -> Iterator[bool]:
    """Whether it is this process's turn at what `key` stands for: one has it at a time.

    The turn ends with the block, or with the process. No transaction is open meanwhile.
    """
    with autonomous() as connection:
        mine = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar_one())
        try:
            yield mine
        finally:
            if mine:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


def ping() -> None:
    """Raise sqlalchemy.exc.OperationalError where the database does not answer."""
    with engine().connect() as connection:
        connection.execute(text("SELECT 1"))


def listener(channel: str = WORK_CHANNEL, name: str = RELAY_NAME) -> psycopg.Connection:
    """A connection of its own that hears the bell (`connection.notifies(timeout=…)`), `name` to the server."""
    url = engine().url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg.connect(url, autocommit=True, application_name=name, **CONNECTION)
    connection.execute(f"LISTEN {channel}")
    return connection
