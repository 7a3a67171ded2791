"""What only a real server shows: sizes refused while they stream in, long polls, and what it answers meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.intake.submissions import MAX_WAIT_S
from infra.services import LOOPBACK, wait_until
from moderation import cases
from moderation.db import transaction
from moderation.tables import Case
from moderation.vocabulary import FailureReason
from tests.api.conftest import SERVER_THREADS, Client, Server
from tests.images import png
from tests.measuring import scraped

MEBIBYTE = 1024 * 1024
BOUNDARY = "edge"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def call(
    server: Server, client: Client, body: Any, path: str = "/v1/submissions", **headers: str
) -> tuple[int, dict[str, str], Any]:
    """One POST over a connection of its own; a body that is not bytes goes in chunks, unless its length is given."""
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=60)
    multipart = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    chunked = not isinstance(body, bytes) and "Content-Length" not in headers
    if chunked:
        headers["Transfer-Encoding"] = "chunked"
    # A server that has heard enough hangs up; its answer is there to be read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sent = {**client.headers, **multipart, **headers}
        connection.request("POST", path, body=body, headers=sent, encode_chunked=chunked)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def form(data: bytes) -> bytes:
    return HEAD + data + TAIL


def flood(mebibytes: int, sent: list[int]) -> Iterator[bytes]:
    """A form whose file is that large, made while it is sent; `sent` counts."""
    yield HEAD
    for _ in range(mebibytes):
        sent.append(MEBIBYTE)
        yield bytes(MEBIBYTE)
    yield TAIL


def test_an_image_goes_in_and_its_case_can_be_read(server: Server, client: Client) -> None:
    status, headers, case = call(server, client, form(png()), **{"X-Request-Id": "mine-1"})
    assert (status, headers["location"], headers["x-request-id"]) == (202, f"/v1/cases/{case['id']}", "mine-1")
    with transaction() as session:
        assert session.get_one(Case, case["id"]).submission.request_id == "mine-1"


def test_a_200_mb_upload_is_refused_by_its_length(server: Server, client: Client) -> None:
    sent: list[int] = []
    length = len(HEAD) + 200 * MEBIBYTE + len(TAIL)
    status, headers, problem = call(server, client, flood(200, sent), **{"Content-Length": str(length)})
    assert (status, headers["content-type"]) == (413, "application/problem+json")
    assert "POST /v1/uploads" in problem["detail"]
    assert sum(sent) < 200 * MEBIBYTE


def test_a_200_mb_upload_without_a_length_is_refused_while_it_streams(server: Server, client: Client) -> None:
    before = server.peak_bytes
    sent: list[int] = []
    status, _, problem = call(server, client, flood(200, sent))
    assert (status, problem["type"]) == (413, "urn:telltale:problem:request-entity-too-large")
    assert sum(sent) < 200 * MEBIBYTE
    assert server.peak_bytes - before < 16 * MEBIBYTE


@pytest.mark.parametrize(
    "said",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: 4, 4\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\n",
        b"X: y\x00\r\n",
        b"Host: another\r\n",
    ],
)
def test_lengths_that_servers_disagree_about_hide_no_second_request(server: Server, said: bytes) -> None:
    """Smuggling: a proxy before us might take the end of the one for the beginning of the other."""
    head = b"POST /v1/submissions HTTP/1.1\r\nHost: telltale\r\n" + said
    with socket.create_connection((LOOPBACK, server.port), timeout=60) as connection:
        connection.sendall(head + b"\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: telltale\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            told = answers.read()
    assert told.count(b"HTTP/1.1 ") == 1 and told.split()[1] in (b"400", b"501")


def test_chunks_that_are_none_are_refused(server: Server, client: Client) -> None:
    status, _, problem = call(server, client, form(png()), **{"Transfer-Encoding": "chunked"})
    assert (status, problem["type"]) == (400, "urn:telltale:problem:invalid-request")
    assert "chunks" in problem["detail"]


def test_a_file_over_the_limit_inside_a_form_under_it_is_refused(server: Server, client: Client) -> None:
    status, _, problem = call(server, client, form(bytes(32 * MEBIBYTE + 1)))
    assert (status, problem["type"], problem["pointer"]) == (413, "urn:telltale:problem:image-too-large", "/image")


def test_a_body_shorter_than_its_length_is_refused(server: Server, client: Client) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=60)
    connection.putrequest("POST", "/v1/submissions")
    for name, value in client.headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", "100000")
    connection.endheaders(HEAD + png()[:500])
    assert connection.sock is not None
    connection.sock.shutdown(1)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("content-type")) == (400, "application/problem+json")


def test_a_large_body_to_another_endpoint_is_refused_too(server: Server, client: Client) -> None:
    status, _, problem = call(
        server, client, bytes(3 * MEBIBYTE), "/v1/submissions/batch", **{"Content-Type": "application/json"}
    )
    assert (status, problem["type"]) == (413, "urn:telltale:problem:request-entity-too-large")


def test_nobody_without_a_key_has_a_body_read(server: Server, client: Client) -> None:
    sent: list[int] = []
    status, _, _ = call(server, client, flood(100, sent), Authorization="Bearer tt_no_body")
    assert status == 401
    assert sum(sent) < 100 * MEBIBYTE


def test_whoever_sends_slowly_leaves_threads_to_others(server: Server, client: Client) -> None:
    """Three quarters of the threads wait for bytes that do not come; probes and readers do not wait for them."""
    slow = [unfinished(server, client) for _ in range(SERVER_THREADS * 3 // 4 + 1)]
    try:
        one_too_many, _, _ = select.select([connection.sock for connection in slow], [], [], 60)
        assert len(one_too_many) == 1 and one_too_many[0].recv(12) == b"HTTP/1.1 429"
        status, headers, problem = call(server, client, form(png()))
        assert (status, problem["type"], headers["retry-after"]) == (429, "urn:telltale:problem:service-busy", "2")
        for path in ("/health/live", "/v1/cases"):
            request = urllib.request.Request(f"{server.url}{path}", headers=client.headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200
    finally:
        for connection in slow:
            connection.close()
    wait_until(lambda: call(server, client, form(png()))[0] == 202, "a free place")


def unfinished(server: Server, client: Client) -> http.client.HTTPConnection:
    """A submission of which the first bytes are there, and no more."""
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=60)
    connection.putrequest("POST", "/v1/submissions")
    multipart = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": "100000"}
    for name, value in {**client.headers, **multipart}.items():
        connection.putheader(name, value)
    connection.endheaders(HEAD)
    return connection


def settle_all() -> None:
    """End every case the way a worker does."""
    with transaction() as session:
        for case in session.query(Case):
            cases.fail(session, case, FailureReason.UNDECODABLE, "It was broken.")


def test_a_long_poll_answers_as_soon_as_the_case_is_settled(server: Server, client: Client) -> None:
    key = {"Idempotency-Key": "wait"}
    _, _, case = call(server, client, form(png()), **key)
    with ThreadPoolExecutor(1) as threads:
        polling = threads.submit(call, server, client, form(png()), f"/v1/submissions?wait={MAX_WAIT_S}", **key)
        time.sleep(0.5)
        assert not polling.done()
        settle_all()
        settled_at = time.monotonic()
        status, headers, settled = polling.result()
    assert (status, settled["id"], settled["status"]) == (200, case["id"], "failed")
    assert headers["idempotent-replayed"] == "true"
    assert time.monotonic() - settled_at < MAX_WAIT_S / 2, "not only when it has waited to the end"


def test_a_long_poll_that_ends_unsettled_answers_202(server: Server, client: Client) -> None:
    started = time.monotonic()
    status, _, case = call(server, client, form(png()), "/v1/submissions?wait=1")
    assert (status, case["status"]) == (202, "queued")
    assert time.monotonic() - started >= 1


def test_at_most_a_quarter_of_the_threads_wait(server: Server, client: Client) -> None:
    """Who finds no seat is answered at once, the others when their cases are settled."""
    path, seats = f"/v1/submissions?wait={MAX_WAIT_S}", SERVER_THREADS // 4
    senders = SERVER_THREADS - 2
    with ThreadPoolExecutor(senders) as threads:
        polling = [threads.submit(call, server, client, form(png(seed)), path) for seed in range(senders)]
        wait_until(lambda: sum(each.done() for each in polling) >= senders - seats, "those without a seat")
        settle_all()
        statuses = Counter(each.result()[0] for each in polling)
    assert statuses == {202: senders - seats, 200: seats}


def live_requests(server: Server) -> float:
    """How often anybody has asked whether it lives, as its metrics say."""
    labels = (("method", "GET"), ("route", "/health/live"), ("status", "200"))
    return scraped(server.metrics_port)["telltale_http_requests_total", labels]


def test_metrics_are_on_a_port_of_their_own_and_outlive_a_worker(server: Server) -> None:
    ask(server, "/health/live")
    before = live_requests(server)
    ask(server, "/health/live")
    assert live_requests(server) == before + 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(server, "/metrics")
    killed = server.worker
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{killed}").exists(), "the worker's end")
    ask(server, "/health/live")  # of the successor, for which it waits
    assert live_requests(server) == before + 2


def test_scrapes_take_no_thread_from_requests(server: Server) -> None:
    """Whoever connects to the port for metrics and says nothing keeps nobody waiting."""
    with contextlib.ExitStack() as idle:
        for _ in range(2 * SERVER_THREADS):
            idle.enter_context(socket.create_connection((LOOPBACK, server.metrics_port)))
        assert live_requests(server) > 0
        ask(server, "/health/live")


def ask(server: Server, path: str) -> None:
    urllib.request.urlopen(server.url + path, timeout=90).close()
