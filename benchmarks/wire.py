"""A lean HTTP client: one connection that stays open, bytes that are made beforehand, no library in between.

It is there so that what is measured is the server. It speaks just enough HTTP/1.1 for answers that state their length.
"""

from __future__ import annotations

import socket

READ_BYTES = 64 * 1024
TIMEOUT_S = 60


class Line:
    """One connection, to one server; not to be shared between threads."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, *parts: bytes) -> tuple[int, bytes]:
        """Send one request, head and body; the status and the body of its answer.

        Raises ConnectionError where the server hangs up first.
        """
        request = b"".join(parts)
        self._socket.sendall(request)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._read()
        head, body = answer[:end], answer[end + 4 :]
        length = _length(head)
        pieces = [body]
        missing = length - len(body)
        while missing > 0:
            pieces.append(self._read())
            missing -= len(pieces[-1])
        return int(head[9:12]), b"".join(pieces)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read(self) -> bytes:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("The server hung up before it had answered.")
        return data


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise ConnectionError(f"The answer does not say how long it is: {head[:100]!r}")
