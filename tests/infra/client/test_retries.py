"""What is sent again, and what never is; what comes of answers that are not the api's."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from infra.client import Client, Conflict, Refused, ServiceFault, TooBusy, Unavailable, Unreachable
from tests.infra.client.conftest import Moody

CASE = {"id": "1", "status": "queued"}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_submission_is_sent_again_under_the_same_key(moody: Moody, status: int) -> None:
    moody.says(status).says(202, CASE)
    assert Client(moody.url, "tt_k").submit_bytes(b"bytes") == CASE
    assert len(moody.asked) == 2 and len(set(moody.keys)) == 1 and moody.keys[0]


def test_a_lost_answer_is_asked_for_again(moody: Moody) -> None:
    moody.hangs_up().says(202, CASE)
    assert Client(moody.url, "tt_k").submit_link("https://example.com/a.jpg") == CASE
    assert len(set(moody.keys)) == 1


def test_a_first_request_that_still_runs_is_waited_for(moody: Moody) -> None:
    moody.hangs_up().says(409, {"type": "urn:telltale:problem:request-in-progress"}, retry_after="0").says(202, CASE)
    assert Client(moody.url, "tt_k").submit_bytes(b"bytes") == CASE


def test_what_could_happen_twice_is_not_sent_again_after_a_lost_answer(moody: Moody) -> None:
    moody.hangs_up()
    with pytest.raises(Unreachable):
        Client(moody.url, "tt_k").appeal("1")
    moody.says(502)
    with pytest.raises(ServiceFault):
        Client(moody.url, "tt_k").retry("1")
    assert len(moody.asked) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_what_was_surely_not_accepted_is_sent_again(moody: Moody, status: int) -> None:
    moody.says(status, retry_after="0").says(200, CASE)
    assert Client(moody.url, "tt_k").appeal("1") == CASE


def test_retry_after_is_waited_for(moody: Moody) -> None:
    moody.says(429, retry_after="1").says(200, CASE)
    begun = time.monotonic()
    Client(moody.url, "tt_k").case("1")
    assert time.monotonic() - begun >= 1


def test_patience_has_an_end(moody: Moody) -> None:
    problem = {"type": "urn:telltale:problem:too-busy", "title": "Too much is waiting", "detail": "Wait."}
    for _ in range(3):
        moody.says(429, problem, retry_after="0")
    with pytest.raises(TooBusy, match="Wait") as busy:
        Client(moody.url, "tt_k", retries=2).case("1")
    assert (busy.value.kind, busy.value.retry_after_s, len(moody.asked)) == ("too-busy", 0, 3)


def test_none_is_sent_again_where_none_should_be(moody: Moody) -> None:
    moody.says(503)
    with pytest.raises(Unavailable):
        Client(moody.url, "tt_k", retries=0).case("1")
    assert len(moody.asked) == 1


def test_a_conflict_is_an_answer(moody: Moody) -> None:
    moody.says(409)
    with pytest.raises(Conflict):
        Client(moody.url, "tt_k").case("1")


def test_a_key_does_not_follow_a_redirect(moody: Moody) -> None:
    moody.says(302, location=f"{moody.url}/elsewhere")
    with pytest.raises(Refused, match="302"):
        Client(moody.url, "tt_k").case("1")
    assert len(moody.asked) == 1


def test_a_page_of_a_proxy_is_no_answer_but_its_status_is(moody: Moody) -> None:
    moody.says(404, b"<html>nothing here</html>")
    with pytest.raises(Refused, match="404: no reason given"):
        Client(moody.url, "tt_k").case("1")


def test_a_service_that_is_not_there_is_said() -> None:
    with pytest.raises(Unreachable, match=r"cannot be reached.*\(Connection refused\)"):
        Client("http://127.0.0.1:9", "tt_k", retries=0).case("1")


def test_a_file_that_breaks_off_is_none(moody: Moody, tmp_path: Path) -> None:
    moody.says(503).says(200, b"PK", content_length="9")
    with pytest.raises(Unreachable):
        Client(moody.url, "tt_k").export_subject(tmp_path / "u-17.zip", subject="u-17")
    assert len(moody.asked) == 2 and list(tmp_path.iterdir()) == []


def test_a_slow_service_is_given_up(moody: Moody) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable):
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", "tt_k", timeout_s=0.1, retries=0).case("1")


@pytest.mark.parametrize("key", ["", " ", "tt_…", "tt_a\nb"])
def test_a_key_that_is_none_is_said_at_once(key: str) -> None:
    with pytest.raises(ValueError, match="no API key"):
        Client("http://127.0.0.1:9", key)
