"""Calls to addresses that other people gave: fetching an image from a link, delivering a webhook.

Such an address may be a trap: it may name our own network, say one thing to a check and another to the connection,
redirect inwards, never end, or drip for hours. So a name is resolved once, every address it has must be public, and
the connection goes to an address that was checked; a redirect starts all over, and from https leads only to https;
size and total time are capped. Ports are 80, 443 and those from 1024 up that browsers connect to.
No proxy, no cookies, no decompression, no retries: when to try again is the caller's business, as is what the
bytes are. Messages name only what the person gave, never an address that was found.
"""

from __future__ import annotations

import http.client
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from urllib.parse import urljoin

from moderation import addresses
from moderation.addresses import Target
from moderation.errors import AddressRefused, BadStatus, OutboundError, ResponseTooLarge, Unreachable, UnsupportedType
from moderation.settings import Settings

Resolver = Callable[[str, int], list[str]]
"""From a host name and a port to its addresses, as text; raises OSError when there are none."""

USER_AGENT = "Telltale/1"
EXCERPT_BYTES = 1024
CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0  # of one address; a name may have several
ADDRESSES_TRIED = 4
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Fetched:
    """A whole answer, its bytes as they came. `media_type` is the server's claim, without parameters."""

    data: bytes
    media_type: str | None
    final_url: str


@dataclass(frozen=True)
class Response:
    """What an endpoint answered. `retry_after` is in seconds from now; the excerpt is at most 1 kB, without NULs."""

    status: int
    body_excerpt: str
    retry_after: int | None
    elapsed_ms: int


def fetch_image(url: str, settings: Settings, *, resolve: Resolver | None = None) -> Fetched:
    """The bytes behind a link to an image, up to `max_image_bytes` within `fetch_timeout_s` for everything together.

    Raises AddressRefused, Unreachable, BadStatus, ResponseTooLarge, and UnsupportedType for a page instead of an
    image. Whether the bytes are an image is for moderation/images.py to say.
    """
    fetched = fetch(url, settings, max_bytes=settings.max_image_bytes, resolve=resolve)
    if fetched.media_type in ("text/html", "application/xhtml+xml") or _looks_like_html(fetched.data):
        raise UnsupportedType("The link leads to a web page, not to an image: give the address of the image itself.")
    return fetched


def fetch(url: str, settings: Settings, *, max_bytes: int, resolve: Resolver | None = None) -> Fetched:
    """The bytes behind a link, whatever they are, following at most `fetch_redirects` redirects.

    Raises AddressRefused, Unreachable, BadStatus, ResponseTooLarge, and UnsupportedType for an encoded body.
    """
    deadline = _Deadline(settings.fetch_timeout_s)
    was_secure = False
    for hop in range(settings.fetch_redirects + 1):
        target = addresses.read(url, redirected=hop > 0)
        if was_secure and target.scheme != "https":
            raise AddressRefused("The link redirects from https to http: give an address that stays with https.")
        was_secure = target.scheme == "https"
        headers = {"accept": "image/*,*/*;q=0.5"}
        with _answer("GET", target, headers, None, settings, deadline, resolve) as answer:
            location = answer.getheader("Location")
            if answer.status not in REDIRECTS or not location:
                return Fetched(_body(answer, max_bytes, deadline), _media_type(answer), target.url)
        url = _joined(target.url, location)
    raise Unreachable(f"The link redirects more than {settings.fetch_redirects} times: give the final address.")


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    settings: Settings,
    *,
    timeout_s: float | None = None,
    resolve: Resolver | None = None,
) -> Response:
    """Send `body` and report what came back, whatever its status; redirects are reported, not followed.

    `timeout_s` (default `delivery_timeout_s`) covers everything. Raises AddressRefused and Unreachable.
    """
    deadline = _Deadline(timeout_s if timeout_s is not None else settings.delivery_timeout_s)
    with _answer("POST", addresses.read(url), headers, body, settings, deadline, resolve) as answer:
        excerpt = _excerpt(answer)
        retry_after = _seconds_until(answer.getheader("Retry-After"))
        return Response(answer.status, excerpt, retry_after, deadline.elapsed_ms)


class _Deadline:
    """The moment by which everything must be over, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()

    @property
    def passed(self) -> bool:
        return self.elapsed_ms >= self.seconds * 1000

    @property
    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self._start) * 1000)

    def left(self) -> float:
        """Seconds left, more than none. Raises Unreachable when there are none."""
        left = self.seconds - (time.monotonic() - self._start)
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> Unreachable:
        return Unreachable(f"The host did not finish its answer within {self.seconds:g} s: try again when it is fast.")


# --- From a URL to a connection ---


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise AddressRefused("The link redirects to something that is not a URL: give the final address.") from error


def _addresses(target: Target, settings: Settings, deadline: _Deadline, resolve: Resolver | None) -> list[str]:
    addresses.refuse_port(target, settings)
    written = addresses.written_address(target, settings)
    if written is not None:
        return [written]
    found = _resolved(target, deadline, resolve or system_addresses)
    addresses.refuse_unless_public(found, target, settings)
    return found[:ADDRESSES_TRIED]


def system_addresses(host: str, port: int) -> list[str]:
    """What the system's resolver says, each address once, in its order. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _resolved(target: Target, deadline: _Deadline, resolve: Resolver) -> list[str]:
    """Resolve in a thread: the system's resolver has no time limit, and a slow name server is somebody's to run."""
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(resolve(target.host, target.port))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True, name="resolve").start()
    try:
        answer = answers.get(timeout=deadline.left())
    except queue.Empty:
        raise Unreachable(f"{target.named} could not be looked up in time: check its DNS.") from None
    if isinstance(answer, Exception):
        raise Unreachable(f"{target.named} does not resolve: check the spelling and its DNS.") from answer
    return answer


def _connected(target: Target, checked: list[str], deadline: _Deadline) -> socket.socket:
    """A socket to the first of the checked addresses that answers, with TLS for https."""
    refusal: OSError | None = None
    for address in checked:
        try:
            sock = socket.create_connection((address, target.port), timeout=min(CONNECT_TIMEOUT_S, deadline.left()))
        except OSError as error:
            refusal = error
            continue
        return _secured(sock, target, deadline) if target.scheme == "https" else sock
    raise Unreachable(
        f"{target.named} does not take connections on port {target.port}: check that it is up and open to us."
    ) from refusal


@cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _secured(sock: socket.socket, target: Target, deadline: _Deadline) -> socket.socket:
    try:
        sock.settimeout(deadline.left())  # a handshake as a whole keeps to it
        return _tls_context().wrap_socket(sock, server_hostname=target.host)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise Unreachable(f"{target.named} has no valid certificate for its name: renew or complete it.") from error
    except OSError as error:
        sock.close()
        raise Unreachable(f"{target.named} does not speak TLS 1.2 or later on port {target.port}.") from error
    except OutboundError:
        sock.close()
        raise


@contextmanager
def _answer(
    method: str,
    target: Target,
    headers: Mapping[str, str],
    body: bytes | None,
    settings: Settings,
    deadline: _Deadline,
    resolve: Resolver | None,
) -> Iterator[http.client.HTTPResponse]:
    """Send one request and hold the connection open for its body; anything that breaks is Unreachable."""
    sock = _connected(target, _addresses(target, settings, deadline, resolve), deadline)
    with sock, _cut_off(sock, deadline):
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = sock  # so that it never looks up or connects anything itself
        try:
            connection.request(method, target.path, body=body, headers=_headers(target, headers))
            # Closed with the rest, or an error that was raised in here would hold the socket for as long as it is held.
            with closing(connection.getresponse()) as answer:
                if deadline.passed:  # the end of headers that were cut off looks like their end
                    raise deadline.error()
                yield answer
        except (OSError, http.client.HTTPException) as error:
            if deadline.passed:
                raise deadline.error() from error
            raise Unreachable(f"{target.named} broke off or did not answer in HTTP: try again later.") from error


def _headers(target: Target, given: Mapping[str, str]) -> dict[str, str]:
    ours = {"host": target.host_header, "accept-encoding": "identity", "connection": "close"}
    return {"user-agent": USER_AGENT} | {name.lower(): value for name, value in given.items()} | ours


@contextmanager
def _cut_off(sock: socket.socket, deadline: _Deadline) -> Iterator[None]:
    """Shut the connection at the deadline: a socket's own time-out begins anew with every byte that drips in."""
    sock.settimeout(deadline.left())
    timer = threading.Timer(deadline.left(), _shut, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(sock: socket.socket) -> None:
    try:
        # Not SSLSocket's own, which drops the TLS state under the reading thread's feet.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return  # closed in the same moment, which is what was wanted


# --- What came back ---


def _body(answer: http.client.HTTPResponse, max_bytes: int, deadline: _Deadline) -> bytes:
    if not 200 <= answer.status < 300:
        raise BadStatus(f"The link answers with status {answer.status}: give one that works.", status=answer.status)
    if answer.getheader("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedType("The link answers with a compressed body although none was asked for: send it as it is.")
    too_large = ResponseTooLarge(f"The link leads to more than {max_bytes} bytes: give a smaller image.")
    if answer.length is not None and answer.length > max_bytes:
        raise too_large
    data = bytearray()
    while chunk := _piece(answer, CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    if deadline.passed:
        raise deadline.error()
    if answer.length:  # what Content-Length promised and did not come
        raise Unreachable("The host closed the connection before the whole image had come: try again later.")
    return bytes(data)


def _media_type(answer: http.client.HTTPResponse) -> str | None:
    header = answer.getheader("Content-Type")
    return header.partition(";")[0].strip().lower() if header else None


def _looks_like_html(data: bytes) -> bool:
    start = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def _piece(answer: http.client.HTTPResponse, most: int) -> bytes:
    """What has come of the body; empty at its end.

    Not `read`, which takes a chunk that says it has -1 bytes for all that will ever come, and keeps it in memory.
    """
    return answer.read1(most)


def _excerpt(answer: http.client.HTTPResponse) -> str:
    """The beginning of the body, for the delivery log; Postgres takes no NUL in text."""
    start = b""
    try:
        while len(start) < EXCERPT_BYTES and (piece := _piece(answer, EXCERPT_BYTES)):
            start += piece
    except (OSError, http.client.HTTPException):
        # The status has come, and it alone says whether the event arrived.
        return ""
    return start[:EXCERPT_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")


def _seconds_until(retry_after: str | None) -> int | None:
    """`Retry-After` in seconds from now, from either of its forms (RFC 9110, 10.2.3); None when it says neither."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", retry_after.strip()):
        return int(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, round((moment - datetime.now(UTC)).total_seconds()))
