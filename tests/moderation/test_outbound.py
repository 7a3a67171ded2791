"""Addresses that people give, with real servers on loopback: what is refused, what is cut off, what gets through."""

from __future__ import annotations

import gzip
import http.server
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.services import wait_until
from moderation import addresses, outbound
from moderation.errors import AddressRefused, BadStatus, ResponseTooLarge, Unreachable, UnsupportedType
from moderation.settings import Settings

# What ends by itself may take so long where the machine is busy.
PATIENCE_S = 60.0
PIXELS = b"\xff\xd8\xff" + bytes(range(256)) * 40


def settings_with(*allowed: str, **changes: object) -> Settings:
    unused = {"database_url": "unused", "redis_url": "unused"}
    limits = {"fetch_timeout_s": PATIENCE_S, "delivery_timeout_s": PATIENCE_S}
    return Settings.model_validate({**unused, **limits, "allowed_hosts": allowed, **changes})


Handle = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A real HTTP server on loopback that answers every request with `handle`."""

    handle: Handle
    port: int = 0
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def url(self, path: str = "/picture.jpg", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def settings(self) -> Settings:
        return settings_with(f"127.0.0.1:{self.port}")


@contextmanager
def serving(handle: Handle) -> Iterator[Server]:
    server = Server(handle)

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.seen.append((self.command, self.path, headers, body))
            with suppress(ConnectionError):  # the client is meant to leave in the middle in some tests
                handle(self)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = httpd.server_port
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that does what `talk` does with its one connection; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            talk(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with suppress(OSError), socket.create_connection(("127.0.0.1", listener.getsockname()[1]), 1):
            pass
        thread.join(PATIENCE_S)
        listener.close()
        assert not thread.is_alive()


def answer(
    request: http.server.BaseHTTPRequestHandler, status: int = 200, body: bytes = PIXELS, **headers: str
) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


# --- Which addresses ---

PRIVATE_LITERALS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "%31%32%37.0.0.1",
    "0.0.0.0",
    "0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.0.1",
    "169.254.169.254",
    "2852039166",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "192.88.99.1",
    "224.0.0.1",
    "224.0.1.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "[::8.8.8.8]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2002:808:808::1]",
    "[2001:0:53aa:64c::1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[ff0e::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
    "localhost",
    "LOCALHOST.",
    "api.localhost",
]


@pytest.mark.parametrize("host", PRIVATE_LITERALS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_private_address_is_refused_however_it_is_written(host: str, scheme: str) -> None:
    with pytest.raises(AddressRefused):
        addresses.check_url(f"{scheme}://{host}/x.jpg", settings_with())
    with pytest.raises(AddressRefused):
        outbound.fetch_image(f"{scheme}://{host}/x.jpg", settings_with())
    with pytest.raises(AddressRefused):
        outbound.post(f"{scheme}://{host}/hook", {}, b"{}", settings_with())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "picture.jpg",
        "//example.com/x.jpg",
        "ftp://example.com/x.jpg",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "data:image/png;base64,AAAA",
        "http://",
        "http:///x.jpg",
        "http://:80/",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:port/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/\r\nHost: other",
        "http://example.com\\@127.0.0.1/",
        "http://example.com\t/",
        "http://[::1",
        "http://[fe80::1%25eth0]/",
        "http://[::1%eth0]/",
        "http://①②⑦.⓪.⓪.①/",
        "http://a%00b/",
        "http://example.com/" + "x" * 5000,
    ],
)
def test_what_is_not_a_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        addresses.check_url(url, settings_with())
    with pytest.raises(AddressRefused):
        outbound.fetch_image(url, settings_with(), resolve=lambda host, port: ["8.8.8.8"])


@pytest.mark.parametrize("port", [1, 22, 25, 79, 81, 444, 587, 1023, 2049, 6000, 6665, 6669, 10080])
def test_other_ports_are_refused_unless_they_are_exempt(port: int) -> None:
    for url in (f"http://example.com:{port}/", f"https://8.8.8.8:{port}/"):
        with pytest.raises(AddressRefused, match=f"Port {port} is not for the web"):
            addresses.check_url(url, settings_with())
        with pytest.raises(AddressRefused, match=f"Port {port} is not for the web"):
            outbound.post(url, {}, b"{}", settings_with(), resolve=lambda host, port: ["8.8.8.8"])
    addresses.check_url(f"http://example.com:{port}/", settings_with(f"example.com:{port}"))


# --- Names and their addresses ---


class StubResolver:
    """Answers each look-up with the next of the given lists, and then the last one again."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    "found",
    [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["2606:4700::1111", "::1"], ["fe80::1%eth0"], ["nonsense"], []],
)
def test_one_private_address_among_all_of_a_name_refuses_it(found: list[str]) -> None:
    resolver = StubResolver(found)
    with pytest.raises(AddressRefused, match=r"'images\.example' is not a public address") as refused:
        outbound.fetch_image("http://images.example/x.jpg", settings_with(), resolve=resolver)
    assert not any(address in refused.value.message for address in found)


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name that rebinds between two look-ups gains nothing: there is one look-up."""
    with serving(answer) as server:
        resolver = StubResolver(["127.0.0.1"], ["10.0.0.1"])
        settings = settings_with(f"images.example:{server.port}")
        fetched = outbound.fetch_image(server.url(host="images.example"), settings, resolve=resolver)
        assert fetched.data == PIXELS
        assert resolver.asked == [("images.example", server.port)]
        assert server.seen[0][2]["host"] == f"images.example:{server.port}"


def test_an_address_that_does_not_answer_is_followed_by_the_next() -> None:
    with serving(answer) as server:
        resolver = StubResolver(["127.0.0.2", "127.0.0.1"])
        settings = settings_with(f"images.example:{server.port}")
        assert outbound.fetch_image(server.url(host="images.example"), settings, resolve=resolver).data == PIXELS


def test_the_allow_list_is_exact_about_host_and_port() -> None:
    with serving(answer) as server:
        port = server.port
        for allowed in [(), ("127.0.0.1",), (f"127.0.0.1:{port + 1}",), (f"localhost:{port}",), (f"0.0.0.0:{port}",)]:
            with pytest.raises(AddressRefused):
                outbound.fetch_image(server.url(), settings_with(*allowed))
        addresses.check_url(server.url(), server.settings)
        assert outbound.fetch_image(server.url(), server.settings).data == PIXELS
        assert len(server.seen) == 1


def test_a_name_without_addresses_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as dns, pytest.raises(Unreachable, match=r"'nothing.invalid' does not resolve"):
        dns.setattr(socket, "getaddrinfo", unknown)
        outbound.fetch_image("http://nothing.invalid/x.jpg", settings_with())
    with pytest.raises(Unreachable, match="does not resolve"):
        outbound.fetch_image(f"http://{'a' * 64}.example/x.jpg", settings_with())


def test_a_name_server_that_never_answers_is_cut_off() -> None:
    released = threading.Event()

    def never(host: str, port: int) -> list[str]:
        released.wait(2 * PATIENCE_S)
        return ["8.8.8.8"]

    start = time.monotonic()
    with pytest.raises(Unreachable, match="looked up in time"):
        outbound.fetch_image("http://slow.example/", settings_with(fetch_timeout_s=0.3), resolve=never)
    assert time.monotonic() - start < PATIENCE_S
    released.set()


# --- Fetching ---


def test_an_image_comes_with_the_servers_claim_and_its_address() -> None:
    with serving(lambda request: answer(request, Content_Type="Image/JPEG; charset=x")) as server:
        fetched = outbound.fetch_image(server.url("/ä b.jpg".replace(" ", "%20")), server.settings)
        assert fetched == outbound.Fetched(PIXELS, "image/jpeg", server.url("/%C3%A4%20b.jpg"))
        method, _, headers, _ = server.seen[0]
        assert method == "GET" and headers["accept-encoding"] == "identity" and "authorization" not in headers


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(answer) as server:
        assert outbound.fetch_image(server.url(), server.settings).data == PIXELS


def test_redirects_are_followed_to_their_end() -> None:
    steps = {"/1": "/2?a=b", "/2?a=b": "3", "/3": None}

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        location = steps[request.path]
        if location:
            answer(request, 302, b"moved", Location=location)
        else:
            answer(request)

    with serving(handle) as server:
        fetched = outbound.fetch_image(server.url("/1"), server.settings)
        assert fetched.data == PIXELS and fetched.final_url == server.url("/3")


def test_a_redirect_loop_ends() -> None:
    with serving(lambda request: answer(request, 302, b"", Location=request.path)) as server:
        with pytest.raises(Unreachable, match="redirects more than 3 times"):
            outbound.fetch_image(server.url(), server.settings)
        assert len(server.seen) == 4


def test_a_redirect_to_a_private_address_is_refused_and_not_named() -> None:
    with serving(answer) as inside:
        target = inside.url("/secret")
        with serving(lambda request: answer(request, 307, b"", Location=target)) as server:
            with pytest.raises(AddressRefused, match="redirects to is not a public address") as refused:
                outbound.fetch_image(server.url(), server.settings)
            assert str(inside.port) not in refused.value.message
        assert inside.seen == []


def test_a_name_that_turns_private_before_the_redirect_is_refused() -> None:
    with serving(lambda request: answer(request, 302, b"", Location="http://rebind.example/x")) as server:
        resolver = StubResolver(["127.0.0.1"])
        with pytest.raises(AddressRefused):
            outbound.fetch_image(server.url(), server.settings, resolve=resolver)
        assert resolver.asked == [("rebind.example", 80)]


@pytest.mark.parametrize(
    "location",
    [
        *("file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1:6379/_INFO", "data:image/png;base64,AAAA"),
        *("http://u:p@example.com/", "http://[", "//127.0.0.1/", "//0x7f.1/", "http://[::ffff:127.0.0.1]/"),
        *("http://8.8.8.8:25/", "\\\\127.0.0.1\\x", "http://169.254.169.254/latest/meta-data/"),
    ],
)
def test_a_redirect_to_something_else_is_refused(location: str) -> None:
    with (
        serving(lambda request: answer(request, 302, b"", Location=location)) as server,
        pytest.raises(AddressRefused),
    ):
        outbound.fetch_image(server.url(), server.settings)


@pytest.mark.parametrize("status", [304, 400, 401, 403, 404, 410, 429, 500, 503])
def test_an_error_status_is_named(status: int) -> None:
    with serving(lambda request: answer(request, status, b"")) as server:
        with pytest.raises(BadStatus, match=str(status)) as error:
            outbound.fetch_image(server.url(), server.settings)
        assert error.value.status == status


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("text/html; charset=utf-8", PIXELS),
        ("application/xhtml+xml", PIXELS),
        ("image/jpeg", b"\xef\xbb\xbf\n <!DOCTYPE html><title>Sign in</title>"),
        ("application/octet-stream", b"<html>"),
    ],
)
def test_a_page_is_not_an_image(media_type: str, body: bytes) -> None:
    with (
        serving(lambda request: answer(request, body=body, Content_Type=media_type)) as server,
        pytest.raises(UnsupportedType, match="web page"),
    ):
        outbound.fetch_image(server.url(), server.settings)


def test_a_body_announced_too_large_is_not_read() -> None:
    released = threading.Event()

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(10**12))
        request.end_headers()
        released.wait(2 * PATIENCE_S)

    with serving(handle) as server:
        start = time.monotonic()
        with pytest.raises(ResponseTooLarge, match="33554432 bytes"):
            outbound.fetch_image(server.url(), server.settings)
        assert time.monotonic() - start < PATIENCE_S
        released.set()


BLOCK = b"x" * 65536
ENDLESS = {
    "to the end of the connection": (b"\r\n", BLOCK),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + BLOCK + b"\r\n"),
    "a chunk of -1 bytes": (b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", BLOCK),
    "a chunk of 2^64 bytes": (b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", BLOCK),
}


@pytest.mark.parametrize(("start", "block"), ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("delivery", [False, True], ids=["fetched", "answer of a delivery"])
def test_an_endless_body_is_cut_off_at_the_limit(start: bytes, block: bytes, delivery: bool) -> None:
    sent = 0

    def talk(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + start)
        while sent < 200_000_000:
            connection.sendall(block)
            sent += len(block)

    with raw_server(talk) as port:
        url, settings = f"http://127.0.0.1:{port}/", settings_with(f"127.0.0.1:{port}", max_image_bytes=1_000_000)
        if delivery:
            assert len(outbound.post(url, {}, b"{}", settings).body_excerpt) <= 1024
        else:
            with pytest.raises(ResponseTooLarge, match="1000000 bytes"):
                outbound.fetch_image(url, settings)
    assert sent < 50_000_000


def test_the_limit_itself_is_allowed() -> None:
    with serving(answer) as server:
        allowed = f"127.0.0.1:{server.port}"
        assert outbound.fetch_image(server.url(), settings_with(allowed, max_image_bytes=len(PIXELS))).data == PIXELS
        with pytest.raises(ResponseTooLarge):
            outbound.fetch_image(server.url(), settings_with(allowed, max_image_bytes=len(PIXELS) - 1))


# 20 MB of zeros each, as a server that was asked for them as they are sends them all the same.
BOMBS = {
    "gzip": gzip.compress(bytes(20_000_000)),
    "deflate": zlib.compress(bytes(20_000_000)),
    "br": b"\xa1\x50\x96\x98\x00" * 3,
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "gzip, gzip": gzip.compress(gzip.compress(bytes(20_000_000))),
    "x-gzip": gzip.compress(bytes(1000)),
    "anything": PIXELS,
}


@pytest.mark.parametrize(("encoding", "bomb"), BOMBS.items(), ids=BOMBS)
def test_a_compressed_answer_is_refused_and_never_unpacked(encoding: str, bomb: bytes) -> None:
    with serving(lambda request: answer(request, body=bomb, Content_Encoding=encoding)) as server:
        with pytest.raises(UnsupportedType, match="compressed"):
            outbound.fetch_image(server.url(), server.settings)
        outcome = outbound.post(server.url(), {}, b"{}", server.settings)
        assert outcome.status == 200 and len(outcome.body_excerpt) <= 1024
        assert [headers["accept-encoding"] for _, _, headers, _ in server.seen] == ["identity"] * 2


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (b"Content-Length: 3\r\n\r\nabcdef", b"abc"),
        (b"Content-Length: -1\r\n\r\nabc", b"abc"),
        (b"Content-Length: 99999999999999999999\r\n\r\nabc", ResponseTooLarge),
        (b"Content-Length: three\r\n\r\nabc", b"abc"),
        (b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n\r\nnone\r\nabc", Unreachable),
        (b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc", Unreachable),
        (b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc", Unreachable),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Unreachable),
        (b"X: " + b"y" * 70_000 + b"\r\n\r\nabc", Unreachable),
    ],
)
def test_a_length_that_is_not_true_gives_what_is_there_or_nothing(said: bytes, taken: bytes | type[Exception]) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + said)

    with raw_server(talk) as port:
        settings = settings_with(f"127.0.0.1:{port}")
        if isinstance(taken, bytes):
            assert outbound.fetch_image(f"http://127.0.0.1:{port}/", settings).data == taken
        else:
            with pytest.raises(taken):
                outbound.fetch_image(f"http://127.0.0.1:{port}/", settings)


def test_nothing_is_kept_from_one_call_to_the_next() -> None:
    """No connection, no cookie, no Referer: neither at the next hop of a redirect nor at the next call."""
    ports: list[int] = []

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        ports.append(request.client_address[1])
        first = request.path == "/1"
        answer(request, 302 if first else 200, Location="/2", Set_Cookie="who=you; Path=/", Connection="keep-alive")

    with serving(handle) as server:
        for _ in range(2):
            outbound.fetch_image(server.url("/1"), server.settings)
        assert len(set(ports)) == len(server.seen) == 4
        allowed = {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert all(set(headers) == allowed for _, _, headers, _ in server.seen)


def test_a_body_that_ends_early_is_not_taken_for_whole() -> None:
    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "5000")
        request.end_headers()
        request.wfile.write(b"x" * 4000)

    with serving(handle) as server, pytest.raises(Unreachable, match="before the whole"):
        outbound.fetch_image(server.url(), server.settings)


def drip(start: bytes, piece: bytes, seconds: float = 2 * PATIENCE_S) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(start)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not piece:
                connection.recv(1)  # until the other side has had enough
                return
            connection.sendall(piece)
            time.sleep(0.05)

    return talk


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b""),  # accepts and says nothing
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
)
def test_a_server_that_drips_is_cut_off_in_time(start: bytes, piece: bytes) -> None:
    with raw_server(drip(start, piece)) as port:
        settings = settings_with(f"127.0.0.1:{port}", fetch_timeout_s=0.6)
        began = time.monotonic()
        with pytest.raises(Unreachable) as error:
            outbound.fetch_image(f"http://127.0.0.1:{port}/", settings)
        assert time.monotonic() - began < PATIENCE_S
        assert "within 0.6 s" in error.value.message or "broke off" in error.value.message


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500, b"\x00" * 100]
)
def test_what_is_not_http_is_unreachable(said: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with raw_server(talk) as port, pytest.raises(Unreachable):
        outbound.fetch_image(f"http://127.0.0.1:{port}/", settings_with(f"127.0.0.1:{port}"))


def test_a_closed_port_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="does not take connections on port 9"):
        outbound.fetch_image("http://127.0.0.1:9/", settings_with("127.0.0.1:9"))


# --- TLS ---


def certificate(path: Path, name: str, days: int) -> Path:
    """A key and a certificate for a name, signed by itself, until so many days from now, as one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(issuer_name=subject, subject_name=subject, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *plain) + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextmanager
def tls_server(path: Path, said: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") -> Iterator[int]:
    """A TLS server on loopback with this certificate; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(said)

    with raw_server(talk) as port:
        yield port


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A TLS server for images.example on loopback: its port, and the certificate to trust it by."""
    path = certificate(tmp_path / "certificate.pem", "images.example", days=1)
    with tls_server(path) as port:
        yield port, path


def trusting(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(outbound, "_tls_context", lambda: context)


def test_tls_is_checked_against_the_name_and_not_the_address(
    tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, certificate = tls
    trusting(monkeypatch, certificate)
    settings = settings_with(f"images.example:{port}")
    resolver = StubResolver(["127.0.0.1"])
    fetched = outbound.fetch_image(f"https://images.example:{port}/x", settings, resolve=resolver)
    assert fetched.data == b"hello"


def test_a_certificate_for_another_name_is_refused(tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    port, certificate = tls
    trusting(monkeypatch, certificate)
    settings = settings_with(f"other.example:{port}")
    with pytest.raises(Unreachable, match=r"'other\.example' has no valid certificate"):
        outbound.fetch_image(f"https://other.example:{port}/x", settings, resolve=StubResolver(["127.0.0.1"]))


def test_a_certificate_that_nobody_trusts_is_refused(tls: tuple[int, Path]) -> None:
    port, _ = tls
    settings = settings_with(f"images.example:{port}")
    with pytest.raises(Unreachable, match="no valid certificate"):
        outbound.fetch_image(f"https://images.example:{port}/x", settings, resolve=StubResolver(["127.0.0.1"]))


def test_a_certificate_that_has_expired_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = certificate(tmp_path / "certificate.pem", "images.example", days=-1)
    trusting(monkeypatch, path)
    with tls_server(path) as port:
        settings = settings_with(f"images.example:{port}")
        with pytest.raises(Unreachable, match="no valid certificate"):
            outbound.fetch_image(f"https://images.example:{port}/x", settings, resolve=StubResolver(["127.0.0.1"]))


def test_a_redirect_never_leads_from_https_to_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is between us and the host could put another image in the place of the one that was linked to."""
    path = certificate(tmp_path / "certificate.pem", "images.example", days=1)
    trusting(monkeypatch, path)
    with serving(answer) as plain:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {plain.url()}\r\nContent-Length: 0\r\n\r\n"
        with tls_server(path, moved.encode()) as port:
            settings = settings_with(f"images.example:{port}", f"127.0.0.1:{plain.port}")
            with pytest.raises(AddressRefused, match="from https to http"):
                outbound.fetch_image(f"https://images.example:{port}/x", settings, resolve=StubResolver(["127.0.0.1"]))
        assert plain.seen == []


def test_a_handshake_that_hangs_is_cut_off() -> None:
    with raw_server(drip(b"\x16\x03\x03\x40\x00", b"\x02")) as port:  # a record that never comes to its end
        began = time.monotonic()
        with pytest.raises(Unreachable, match="TLS"):
            outbound.fetch_image(f"https://127.0.0.1:{port}/", settings_with(f"127.0.0.1:{port}", fetch_timeout_s=1))
        assert time.monotonic() - began < PATIENCE_S


# --- Delivering ---


def test_a_delivery_sends_headers_and_body_and_reports_the_answer() -> None:
    with serving(lambda request: answer(request, 202, b"thank\x00you \xff" + b"." * 5000)) as server:
        headers = {"webhook-id": "evt_1", "Content-Type": "application/json", "user-agent": "Telltale-Webhooks/1"}
        began = time.monotonic()
        response = outbound.post(server.url("/hook?a=b"), headers, b'{"a":1}', server.settings)
        took_ms = 1000 * (time.monotonic() - began)
        assert response.status == 202 and response.retry_after is None and 0 <= response.elapsed_ms <= took_ms + 1
        assert response.body_excerpt.startswith("thank\ufffdyou \ufffd.") and len(response.body_excerpt) <= 1024
        method, path, sent, body = server.seen[0]
        assert (method, path, body) == ("POST", "/hook?a=b", b'{"a":1}')
        assert sent["webhook-id"] == "evt_1" and sent["content-type"] == "application/json"
        assert sent["user-agent"] == "Telltale-Webhooks/1" and sent["content-length"] == "7"


@pytest.mark.parametrize("status", [200, 301, 302, 307, 308, 404, 410, 429, 500])
def test_a_delivery_follows_no_redirect_and_raises_for_no_status(status: int) -> None:
    with (
        serving(answer) as elsewhere,
        serving(lambda request: answer(request, status, b"", Location=elsewhere.url())) as server,
    ):
        assert outbound.post(server.url(), {}, b"{}", server.settings).status == status
        assert len(server.seen) == 1 and elsewhere.seen == []


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("120", 120, 120), ("0", 0, 0), (timedelta(hours=1), 3500, 3600), (timedelta(hours=-1), 0, 0)],
    ids=["two minutes", "now", "a date in an hour", "a date an hour ago"],
)
def test_retry_after_is_seconds_from_now(header: str | timedelta, low: int, high: int) -> None:
    def said() -> str:
        return header if isinstance(header, str) else format_datetime(datetime.now(UTC) + header, usegmt=True)

    with serving(lambda request: answer(request, 503, b"", Retry_After=said())) as server:
        seconds = outbound.post(server.url(), {}, b"{}", server.settings).retry_after
        assert seconds is not None and low <= seconds <= high


@pytest.mark.parametrize("header", ["soon", "-5", "1.5", "9" * 40, "Thu, 99 Xxx 2026 99:99:99 GMT"])
def test_a_retry_after_that_says_nothing_is_none(header: str) -> None:
    with serving(lambda request: answer(request, 503, b"", Retry_After=header)) as server:
        assert outbound.post(server.url(), {}, b"{}", server.settings).retry_after is None


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_delivery_that_gets_no_status_in_time_is_unreachable(start: bytes) -> None:
    with raw_server(drip(start, b"y" if start else b"")) as port:
        began = time.monotonic()
        with pytest.raises(Unreachable):
            outbound.post(f"http://127.0.0.1:{port}/", {}, b"{}", settings_with(f"127.0.0.1:{port}"), timeout_s=0.5)
        assert time.monotonic() - began < PATIENCE_S


def test_a_status_counts_even_when_its_body_never_ends() -> None:
    with raw_server(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", b".")) as port:
        began = time.monotonic()
        # Long enough for a busy machine to get as far as the status.
        response = outbound.post(
            f"http://127.0.0.1:{port}/", {}, b"{}", settings_with(f"127.0.0.1:{port}"), timeout_s=3
        )
        assert response.status == 200 and time.monotonic() - began < PATIENCE_S


def test_many_calls_leave_no_threads_and_no_sockets_behind() -> None:
    with serving(answer) as server:
        before = threading.active_count()
        for _ in range(20):
            outbound.fetch_image(server.url(), server.settings)
        wait_until(lambda: threading.active_count() <= before, "the end of every thread")
