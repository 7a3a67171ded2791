"""One request over HTTP and its answer: time-outs, what is sent again and when, and errors as exceptions.

It knows neither keys nor paths.

A request that can be repeated (it reads, it says how things should be, or it carries an idempotency key) is sent again
whenever its answer is lost or the service asks for patience. Any other is sent again only where it surely was not
accepted: no connection was made, or the answer was 429 or 503. `Retry-After` is honoured up to two minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import urllib3
from urllib3.exceptions import HTTPError

from . import problems

VERSION = "0.1.0"
BACKOFF_S = 0.25  # before the second attempt; then twice as long each time, up to
MAX_BACKOFF_S = 30
MAX_RETRY_AFTER_S = 120
CHUNK_BYTES = 64 * 1024


class _Retries(urllib3.Retry):
    # With a Retry-After only; a 409 has one while the first request with the same idempotency key still runs.
    RETRY_AFTER_STATUS_CODES = frozenset({409, 429, 503})

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, MAX_RETRY_AFTER_S)


def _policy(retries: int, *, repeatable: bool) -> urllib3.Retry:
    return _Retries(
        total=retries,
        read=retries if repeatable else 0,
        other=retries if repeatable else 0,
        status_forcelist=(429, 500, 502, 503, 504) if repeatable else (429, 503),
        allowed_methods=None,
        backoff_factor=BACKOFF_S,
        backoff_max=MAX_BACKOFF_S,
        backoff_jitter=BACKOFF_S,
        raise_on_status=False,
    )


def call(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = 60,
    retries: int = 4,
    repeatable: bool = True,
) -> dict[str, Any]:
    """One request, sent again up to `retries` times; the JSON object of a 2xx answer, empty where it has none.

    Redirects are not followed: an API has none, and a key must not travel. Raises Refused or Unreachable.
    """
    policy = _policy(retries, repeatable=repeatable)
    with _answer(pool, method, url, body, headers or {}, timeout_s, policy, preload=True) as answer:
        return _object(answer.data)


def download(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    file: BinaryIO,
    *,
    timeout_s: float,
    retries: int,
) -> None:
    """The body of a 2xx answer, written to a file as it comes, of a request that is repeatable.

    It is sent again until an answer has begun; one that breaks off is Unreachable. Raises Refused and OSError too.
    """
    policy = _policy(retries, repeatable=True)
    with _answer(pool, method, url, body, headers, timeout_s, policy, preload=False) as answer:
        for chunk in answer.stream(CHUNK_BYTES):
            file.write(chunk)


@contextmanager
def _answer(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout_s: float,
    policy: urllib3.Retry,
    *,
    preload: bool,
) -> Iterator[urllib3.BaseHTTPResponse]:
    """A 2xx answer; without `preload`, its body is still to be read."""
    sent = {"user-agent": f"telltale-client/{VERSION}", **headers}
    how: dict[str, Any] = {"timeout": timeout_s, "retries": policy, "redirect": False, "preload_content": preload}
    try:
        answer = pool.request(method, url, body=body, headers=sent, **how)
        try:
            if not 200 <= answer.status < 300:
                later = answer.headers.get("Retry-After")
                raise problems.of(f"{method} {url}", answer.status, _object(answer.data), later)
            yield answer
        finally:
            answer.close()
    except HTTPError as error:
        said = f"{url} cannot be reached: is Telltale up, and is this its address? ({_why(error)})"
        raise problems.Unreachable(said) from error


def _why(error: BaseException) -> str:
    """What is at the bottom of it, such as "Connection refused", without what urllib3 wraps around it."""
    inner = getattr(error, "reason", None) or error.__cause__
    if isinstance(inner, BaseException):
        return _why(inner)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _object(data: bytes) -> dict[str, Any]:
    """A JSON object; empty for anything else, such as the page of a proxy that stands between."""
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
