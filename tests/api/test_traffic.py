"""Requests are counted by their route, whatever becomes of them; what was asked for in particular is in no label."""

from __future__ import annotations

import time

import pytest
from prometheus_client import generate_latest

from moderation import cases
from tests.api.conftest import Client
from tests.measuring import value

CASE = "0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a55"


def requests(method: str, route: str, status: int) -> float:
    return value("telltale_http_requests_total", method=method, route=route, status=str(status))


def timed(method: str, route: str) -> float:
    return value("telltale_http_request_seconds_count", method=method, route=route)


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/health/live", "/health/live", 200),
        ("GET", f"/v1/cases/{CASE}", "/v1/cases/<uuid:case_id>", 404),
        ("POST", f"/v1/hooks/{CASE}", "/v1/hooks/<uuid:source_id>", 404),
        ("GET", "/wp-login/MARKER", "unknown", 404),
        ("DELETE", "/v1/cases", "unknown", 405),
        ("MARKER", "/MARKER", "unknown", 404),
    ],
)
def test_a_request_counts_once_under_its_route(client: Client, method: str, path: str, route: str, status: int) -> None:
    word = "unknown" if method == "MARKER" else method
    before = requests(word, route, status), timed(word, route)
    assert client.http.open(path, method=method, headers=client.headers).status_code == status
    assert (requests(word, route, status), timed(word, route)) == (before[0] + 1, before[1] + 1)
    served = generate_latest().decode()
    assert "MARKER" not in served and CASE not in served


def test_an_error_of_ours_is_counted_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cases, "case_of", fail)
    before = requests("GET", "/v1/cases/<uuid:case_id>", 500)
    client.get(f"/v1/cases/{CASE}")
    assert requests("GET", "/v1/cases/<uuid:case_id>", 500) == before + 1


def test_what_a_sender_asked_to_wait_is_not_ours(client: Client) -> None:
    """Nobody judges here, so the second is waited to its end."""
    named = {"method": "POST", "route": "/v1/submissions"}
    before = value("telltale_http_request_seconds_sum", **named)
    began = time.perf_counter()
    assert client.send(path="/v1/submissions?wait=1").status_code == 202
    whole = time.perf_counter() - began
    assert value("telltale_http_request_seconds_sum", **named) - before <= whole - 1
