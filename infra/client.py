"""A client of Telltale's REST API, for the terminal: submit an image or a link, read a case.

It is what any platform's code would be: HTTP and nothing else. It knows no rows and no services.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from moderation.errors import TelltaleError

TIMEOUT_S = 60.0
# A submission carries an Idempotency-Key, so sending it again after a lost answer is harmless.
RETRIES = urllib3.Retry(
    total=4,
    backoff_factor=0.25,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,
    redirect=0,
    raise_on_status=False,
)


class RequestFailed(TelltaleError):
    """The service refused, or could not be reached; the message is its own where it gave one."""


class Client:
    """One API at `url`, called with one key."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}", "user-agent": "telltale-cli/1"}
        self._pool = urllib3.PoolManager(timeout=TIMEOUT_S, retries=RETRIES)

    def submit_file(self, path: Path, external_id: str | None = None) -> dict[str, Any]:
        """Send an image's bytes. Returns the case as it was accepted. Raises RequestFailed."""
        fields: dict[str, Any] = {"image": (path.name, path.read_bytes())}
        if external_id is not None:
            fields["external_id"] = external_id
        body, content_type = urllib3.encode_multipart_formdata(fields)
        return self._submit(body, content_type)

    def submit_link(self, url: str, external_id: str | None = None) -> dict[str, Any]:
        """Send a link, which the service reads. Returns the case as it was accepted. Raises RequestFailed."""
        fields = {"image_url": url} | ({"external_id": external_id} if external_id is not None else {})
        return self._submit(json.dumps(fields).encode(), "application/json")

    def case(self, case_id: str) -> dict[str, Any]:
        """One case as it is now. Raises RequestFailed."""
        return self._call("GET", f"/v1/cases/{case_id}")

    def _submit(self, body: bytes, content_type: str) -> dict[str, Any]:
        headers = {"content-type": content_type, "idempotency-key": str(uuid.uuid4())}
        return self._call("POST", "/v1/submissions", body, headers)

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return call(self._pool, method, self._url + path, body, {**self._headers, **(headers or {})})


def call(
    pool: urllib3.PoolManager, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
) -> dict[str, Any]:
    """One request; returns the JSON object of a 2xx answer. Raises RequestFailed with what the other side said."""
    try:
        response = pool.request(method, url, body=body, headers=dict(headers))
    except urllib3.exceptions.HTTPError as error:
        raise RequestFailed(f"{url} cannot be reached: is Telltale up, and is this its address? ({error})") from error
    answer = _object(response.data)
    if not 200 <= response.status < 300:
        raise RequestFailed(f"{method} {url} was answered with {response.status}: {_problem(answer)}")
    return answer


def _object(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _problem(answer: Mapping[str, Any]) -> str:
    """The sentence of an RFC 9457 problem, with where in the request it is."""
    text = str(answer.get("detail") or answer.get("title") or "no reason given")
    return f"{text} (at {answer['pointer']})" if answer.get("pointer") else text
