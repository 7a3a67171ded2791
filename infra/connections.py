"""The api's worker: a request has a thread from when it has come, and only while the rest comes on and is taken.

Gunicorn's own thread worker reads requests in its threads, for as long as they take to come, and waits in its one loop
for whoever was answered to hang up. So a few dozen connections that say half a line, or that stay open, keep everybody
else out; and none of them needs a key. Here the loop itself gathers requests: whole where they are short, and their
heads where a long body follows. Of that, a thread waits for what comes at a pace. Hanging up is waited for beside all
else. It does not know what is asked. There is no TLS here: a reverse proxy has that.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import time
from collections import deque
from functools import partial
from typing import Any

from gunicorn import http
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

# For a request to be gathered.
GATHER_S = 10.0
# A body up to here is gathered with its head; a head beyond it is refused. nginx takes heads of 32 kB.
GATHERED_BYTES = 64 * 1024
# For a longer body to go on; and beyond that for all of it at the slowest pace (as Apache's RequestReadTimeout).
PAUSE_S = 10.0
LEAST_BYTES_PER_S = 16 * 1024
# For a piece of an answer to be taken; most are one piece.
TAKEN_S = 30.0
# For whoever was answered to hang up (RFC 9112, 9.6); what they still send until then is thrown away.
LINGER_S = 2.0
PIECE_BYTES = 16 * 1024

HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_EXPECTS = re.compile(rb"\r\nExpect:", re.IGNORECASE)


class PacedUnreader(SocketUnreader):
    """What has come of a connection's requests, and what still comes of a body while a thread may wait for it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._until = 0.0
        self._is_endless = False

    def hand_over(self) -> None:
        """A thread goes on with what is here, and waits for nothing."""
        held = self.buf.getvalue()
        self._is_endless = len(held) > GATHERED_BYTES and HEAD_END not in held

    def begin(self) -> None:
        """The thread waits for the body, from now on at a pace."""
        self._until = time.monotonic() + PAUSE_S

    def end(self) -> None:
        """It is answered: what is left of the body is waited for by nobody."""
        self._until = 0.0

    def add(self, data: bytes) -> None:
        """What came while nobody was waiting for it."""
        self.buf.seek(0, os.SEEK_END)
        self.buf.write(data)

    @property
    def is_enough(self) -> bool:
        """Whether a thread can go on with what is here."""
        held = self.buf.getvalue()
        end = held.find(HEAD_END)
        if end < 0:
            return len(held) > GATHERED_BYTES
        length = _LENGTH.search(held, 0, end + 2)
        body = int(length[1]) if length and not _EXPECTS.search(held, 0, end + 2) else 0
        return body > GATHERED_BYTES or len(held) >= end + len(HEAD_END) + body

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next piece.

        Raises ConnectionResetError where it does not come at a pace, and so is as good as gone; LimitRequestHeaders
        where it would be of a head that is longer than any.
        """
        if self._is_endless:
            raise LimitRequestHeaders(f"A request's head has at most {GATHERED_BYTES} bytes.")
        left, before = self._until - time.monotonic(), self.sock.gettimeout()
        if left <= 0:
            raise ConnectionResetError(errno.ECONNRESET, "Nobody waits for it any more.")
        self.sock.settimeout(min(left, PAUSE_S))
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError as error:
            raise ConnectionResetError(errno.ECONNRESET, "It comes too slowly.") from error
        finally:
            self.sock.settimeout(before)
        self._until += len(data) / LEAST_BYTES_PER_S
        return data


class Connection(TConn):
    """A connection whose requests are gathered before a thread has them."""

    def __init__(self, worker: Worker, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(worker.cfg, sock, client, server)
        self._worker = worker
        self.unreader = PacedUnreader(sock)
        self.parser = http.get_parser(worker.cfg, sock, client)
        self.parser.unreader = self.unreader
        self.data_ready = True  # so no thread waits for a beginning
        self.discarded = 0

    def gather(self) -> bool:
        """Take what has come, without waiting; whether a thread can go on with it, also because no more will come."""
        if self.unreader.is_enough:
            return True
        self.sock.setblocking(False)
        try:
            data = self.sock.recv(PIECE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self.unreader.add(data)
        return not data or self.unreader.is_enough

    def discard(self) -> bool:
        """Throw away what still comes; whether the other side has hung up, or never stops."""
        try:
            data = self.sock.recv(PIECE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self.discarded += len(data)
        return not data or self.discarded > GATHERED_BYTES

    def close(self, graceful: bool = False) -> None:
        """At once; or, where it was answered, once the other side has hung up, so that it can read the answer."""
        if graceful:
            self._worker.let_go(self)
        else:
            super().close()


class Worker(ThreadWorker):
    """Gunicorn's thread worker, in which who is slow does not hold up who is not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Answered, and not hung up yet; the first is the first to be given up.
        self._leaving: deque[Connection] = deque()

    def accept(self, listener: Any) -> None:
        """Take a new connection. Raises OSError, as gunicorn's own."""
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED):
                return
            raise
        self.nr_conns += 1
        self.enqueue_req(Connection(self, sock, client, listener.getsockname()))

    def enqueue_req(self, conn: Connection) -> None:
        """To a thread, once there is enough for one."""
        if conn.gather():
            self._hand_over(conn)
            return
        conn.timeout = time.monotonic() + GATHER_S
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn: Connection, sock: socket.socket) -> None:
        """More of a request is there, or its end."""
        if conn.gather():
            self.poller.unregister(sock)
            self.pending_conns.remove(conn)
            self._hand_over(conn)

    def _hand_over(self, conn: Connection) -> None:
        conn.unreader.hand_over()
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Connection) -> bool:
        """In a thread. Raises BrokenPipeError, over which gunicorn makes no fuss, where nobody takes the answer."""
        conn.sock.settimeout(TAKEN_S)
        conn.unreader.begin()
        try:
            return bool(super().handle_request(req, conn))
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "Nobody takes the answer.") from error
        finally:
            conn.unreader.end()

    def let_go(self, conn: Connection) -> None:
        """Say that nothing more comes, and close once the other side has too, or has had its time."""
        conn.sock.setblocking(False)
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # gone already
            conn.close()
            return
        self.nr_conns += 1  # until it is closed
        conn.timeout = time.monotonic() + LINGER_S
        self._leaving.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_leaving_socket_readable, conn))

    def _on_leaving_socket_readable(self, conn: Connection, _: socket.socket) -> None:
        if conn.discard():
            self._leaving.remove(conn)
            self._hang_up(conn)

    def murder_pending(self) -> None:
        """Close what was not gathered in time, and whom nobody waits for any longer; called about once a second."""
        super().murder_pending()
        while self._leaving and self._leaving[0].timeout <= time.monotonic():
            self._hang_up(self._leaving.popleft())

    def _hang_up(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()
