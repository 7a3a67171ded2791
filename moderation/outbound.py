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
import ipaddress
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

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from moderation.errors import AddressRefused, BadStatus, OutboundError, ResponseTooLarge, Unreachable, UnsupportedType
from moderation.settings import Settings

Resolver = Callable[[str, int], list[str]]
"""From a host name and a port to its addresses, as text; raises OSError when there are none."""

USER_AGENT = "Telltale/1"
MAX_URL_CHARACTERS = 4096  # presigned links with a session token run to 2,500
EXCERPT_BYTES = 1024
CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0  # of one address; a name may have several
ADDRESSES_TRIED = 4
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEFAULT_PORTS = {"http": 80, "https": 443}
FIRST_FREE_PORT = 1024  # below it are services of other protocols, which a request could be made to look like
# Where browsers do not connect to from there on (https://fetch.spec.whatwg.org/#port-blocking): NFS, X11, IRC, …
REFUSED_PORTS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080}
)

# What `ipaddress` calls global in some Python versions and is not for us. IANA special-purpose registries, and
# Azure's metadata address, which is public by its number only.
_REFUSED_V4 = [ipaddress.IPv4Network(n) for n in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "240.0.0.0/4")]
# Only 2000::/3 is given out as global unicast (RFC 4291); tunnels (Teredo, 6to4) hide a second address and are refused.
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = [ipaddress.IPv6Network(n) for n in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: how networks without IPv4 reach it


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


@dataclass(frozen=True)
class Target:
    """A URL taken apart; `host` is lower case, ASCII, without brackets. `named` is what messages call it."""

    scheme: str
    host: str
    port: int
    path: str
    named: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.path}"

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def exemption(self) -> str:
        """How `allowed_hosts` would name it: always with the port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_link(url: str) -> None:
    """Refuse what is no http(s) address at all: for the moment at which a link is accepted.

    Where it leads is found out when it is read: a private address, written or resolved, ends the case the same way.
    Raises AddressRefused.
    """
    _target(url)


def check_url(url: str, settings: Settings) -> None:
    """Refuse what can be refused without asking DNS: for the moment at which an endpoint is accepted.

    A name that resolves to something private passes here, and is refused when it is called. Raises AddressRefused.
    """
    target = _target(url)
    _refuse_port(target, settings)
    _written_address(target, settings)


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
        target = _target(url, redirected=hop > 0)
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
    with _answer("POST", _target(url), headers, body, settings, deadline, resolve) as answer:
        excerpt = _excerpt(answer)
        retry_after = _seconds_until(answer.getheader("Retry-After"))
        return Response(answer.status, excerpt, retry_after, deadline.elapsed_ms)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one that anybody on the internet could mean: unicast, global, no hidden second address.

    Stricter than `ipaddress.is_global`, which changes with the Python version and calls some relays global.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and not any(address in n for n in _REFUSED_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST_V6 and not any(address in n for n in _REFUSED_V6)


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


def _target(url: str, *, redirected: bool = False) -> Target:
    if len(url) > MAX_URL_CHARACTERS:
        raise AddressRefused(f"The URL has {len(url)} characters; at most {MAX_URL_CHARACTERS} are accepted.")
    # Parsers disagree about these, and a disagreement is how a check and a connection come apart.
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise AddressRefused("The URL holds a space, a backslash or a control character: percent-encode it.")
    try:
        parsed = parse_url(url)
    except LocationParseError as error:
        raise AddressRefused("The URL cannot be read: give one like https://example.com/picture.jpg.") from error
    if parsed.scheme not in DEFAULT_PORTS:
        raise AddressRefused("The URL must begin with http:// or https://.")
    if parsed.auth is not None:
        raise AddressRefused("The URL must not hold a user name or password: use a link that works without them.")
    host = (parsed.host or "").strip("[]").rstrip(".").lower()
    if not host or "%" in host or not host.isascii():
        raise AddressRefused("The URL must name a host, without a zone: give one like https://example.com/picture.jpg.")
    if parsed.port == 0:
        raise AddressRefused("The URL's port must be between 1 and 65535.")
    # Where somebody else's server redirects to is not for the person who gave the link to learn.
    named = "The address that the link redirects to" if redirected else f"'{host}'"
    return Target(parsed.scheme, host, parsed.port or DEFAULT_PORTS[parsed.scheme], parsed.request_uri, named)


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise AddressRefused("The link redirects to something that is not a URL: give the final address.") from error


def _literal(host: str) -> str | None:
    """The address that `host` writes out, in any form that the system's resolver would take as one (0x7f.1, 127.1)."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def _is_local_name(host: str) -> bool:
    # RFC 6761: these never leave the machine.
    return host == "localhost" or host.endswith(".localhost")


def _refuse_unless_public(addresses: list[str], target: Target, settings: Settings) -> None:
    if target.exemption in settings.allowed_hosts:
        return
    # One private address among public ones is how rebinding begins, so all of them must be public.
    if not addresses or not all(_is_public_text(address) for address in addresses):
        raise AddressRefused(f"{target.named} is not a public address: give one that anybody can reach.")


def _is_public_text(address: str) -> bool:
    try:
        return is_public(ipaddress.ip_address(address))
    except ValueError:
        return False  # an address with a zone and the like


def _refuse_port(target: Target, settings: Settings) -> None:
    usual = target.port in DEFAULT_PORTS.values()
    free = target.port >= FIRST_FREE_PORT and target.port not in REFUSED_PORTS
    if not usual and not free and target.exemption not in settings.allowed_hosts:
        raise AddressRefused(f"Port {target.port} is not for the web: use 443, 80 or one from {FIRST_FREE_PORT} up.")


def _written_address(target: Target, settings: Settings) -> str | None:
    """The address that a URL itself writes out, if any. Raises AddressRefused for one that is not public."""
    literal = _literal(target.host)
    if literal is not None:
        _refuse_unless_public([literal], target, settings)
    elif _is_local_name(target.host):
        _refuse_unless_public([], target, settings)
    return literal


def _addresses(target: Target, settings: Settings, deadline: _Deadline, resolve: Resolver | None) -> list[str]:
    _refuse_port(target, settings)
    written = _written_address(target, settings)
    if written is not None:
        return [written]
    found = _resolved(target, deadline, resolve or system_addresses)
    _refuse_unless_public(found, target, settings)
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


def _connected(target: Target, addresses: list[str], deadline: _Deadline) -> socket.socket:
    """A socket to the first of the checked addresses that answers, with TLS for https."""
    refusal: OSError | None = None
    for address in addresses:
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
