"""The client: submit images, read and list cases, appeal, erase, and manage what one's platform is told and keeps.

One object for one service and one key; it may be shared by threads. What an answer means is the service's to say.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack, cast
from urllib.parse import urlencode

import urllib3

from . import wire
from .problems import NotSettled
from .shapes import (
    SETTLED,
    Case,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Explanation,
    Label,
    Link,
    NewEndpoint,
    Original,
    Priority,
    Retention,
    Statement,
    StatementDefaults,
    Status,
)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
PAGE = 100


class Options(TypedDict, total=False):
    """What a submission may say beside its image.

    `wait_s` (up to 30): how long the service may hold its answer for the verdict; it answers at once where too many
    wait. `idempotency_key`: by default a new one for each call, so that sending it again after a lost answer opens no
    second case; give one of your own, such as your id of the image, to be safe when your own process restarts too.
    """

    external_id: str | None
    metadata: dict[str, Any]
    priority: Priority
    wait_s: float
    idempotency_key: str


class Client:
    """One service at `url`, called with one key. Closing it closes its connections.

    `timeout_s` is for connecting and for each wait for data. `retries`: how often a request is sent again, where that
    is safe (see wire.py); 0 for never. Every method raises Unreachable, or a kind of Refused where the service says no;
    making one raises ValueError for a key that is none.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 60, retries: int = 4) -> None:
        key = key.strip()  # a file's line ends with one
        if not re.fullmatch(r"[!-~]+", key):
            raise ValueError("This is no API key: it is `tt_…` as `telltale keys create` showed it, the whole of it.")
        self._url = url.rstrip("/")
        self._authorization = {"authorization": f"Bearer {key}"}
        self._timeout_s = timeout_s
        self._retries = retries
        self._pool = urllib3.PoolManager()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open; the next call opens new ones."""
        self._pool.clear()

    def submit_file(self, path: str | Path, **options: Unpack[Options]) -> Case:
        """Submit an image file; the case as it was accepted, or settled within `wait_s`. Raises OSError too."""
        path = Path(path)
        return self.submit_bytes(path.read_bytes(), path.name, **options)

    def submit_bytes(self, data: bytes, filename: str = "image", **options: Unpack[Options]) -> Case:
        """Submit an image's bytes; what kind of image they are is told by content, never by name."""
        said = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in _fields(options).items()
        }
        body, content_type = urllib3.encode_multipart_formdata({**said, "image": (filename, data)})
        return self._submit(body, content_type, options)

    def submit_link(self, image_url: str, **options: Unpack[Options]) -> Case:
        """Submit a public http(s) link, which a worker reads later; where that fails, the case does."""
        return self._submit_json({"image_url": image_url, **_fields(options)}, options)

    def submit_upload(self, path: str | Path, **options: Unpack[Options]) -> Case:
        """Submit a large file: straight to the object store first, past the api and its smaller limit."""
        path = Path(path)
        upload = self.request("POST", "/v1/uploads")
        form = {**upload["fields"], "file": (path.name, path.read_bytes())}
        body, content_type = urllib3.encode_multipart_formdata(form)
        # The same form twice leaves the same object. The store gets no key: the form itself is signed.
        self._call("POST", upload["url"], body, {"content-type": content_type}, repeatable=True)
        return self._submit_json({"upload_id": upload["id"], **_fields(options)}, options)

    def submit_batch(self, links: Sequence[Link], *, idempotency_key: str | None = None) -> list[Case]:
        """Submit up to 100 links, all accepted or none; their cases, in the same order."""
        key = idempotency_key or str(uuid.uuid4())
        answer = self.request("POST", "/v1/submissions/batch", {"submissions": list(links)}, idempotency_key=key)
        return cast(list[Case], answer["cases"])

    def case(self, case_id: str) -> Case:
        """One case as it is now."""
        return cast(Case, self.request("GET", f"/v1/cases/{case_id}"))

    def cases(
        self, *, status: Status | None = None, label: Label | None = None, external_id: str | None = None
    ) -> Iterator[Case]:
        """Every case of this kind, newest first; pages are asked for as you go through them."""
        return self._pages("cases", {"status": status, "label": label, "external_id": external_id})

    def wait(self, case_id: str, timeout_s: float = 300) -> Case:
        """The case once it is decided, in review or failed. Raises NotSettled when the time is over.

        It asks again and again, ever more slowly; for many cases, webhooks are the better way.
        """
        deadline = time.monotonic() + timeout_s
        pause = FIRST_PAUSE_S
        while (case := self.case(case_id))["status"] not in SETTLED:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotSettled(case, timeout_s)
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE_S)
        return case

    def appeal(self, case_id: str, message: str | None = None) -> Case:
        """Have a moderator look at a decided case; `message` is what they should know. Raises Conflict if it is not."""
        return cast(Case, self.request("POST", f"/v1/cases/{case_id}/appeal", {"message": message}))

    def retry(self, case_id: str) -> Case:
        """Take up a failed case again. Raises Conflict if it has not failed."""
        return cast(Case, self.request("POST", f"/v1/cases/{case_id}/retry"))

    def explain(self, case_id: str) -> Explanation:
        """Have a verdict put into words whose policy had skipped them; asking twice is the same as once."""
        return cast(Explanation, self.request("POST", f"/v1/cases/{case_id}/explanation", repeatable=True))

    def explanation(self, case_id: str) -> Explanation:
        """How far the words of a verdict are."""
        return cast(Explanation, self.request("GET", f"/v1/cases/{case_id}/explanation"))

    def statement_of_reasons(self, case_id: str) -> Statement:
        """The statement of a decision that restricts something. Raises Conflict where none does."""
        return cast(Statement, self.request("GET", f"/v1/cases/{case_id}/statement-of-reasons"))

    def original(self, image_id: str) -> Original:
        """A short-lived link to an image's bytes as they were sent."""
        return cast(Original, self.request("GET", f"/v1/images/{image_id}/original"))

    def erase(self, image_id: str) -> None:
        """Erase an image and all words about it, for good; twice is as once. Raises Conflict under a legal hold."""
        self.request("DELETE", f"/v1/images/{image_id}")

    def create_endpoint(self, url: str, event_types: Sequence[str] = ()) -> NewEndpoint:
        """Have events sent to an address, all or those of some types; the answer has the secret, this once."""
        return cast(NewEndpoint, self.request("POST", "/v1/endpoints", {"url": url, "event_types": list(event_types)}))

    def endpoints(self) -> list[Endpoint]:
        """Where events are sent, oldest first, with those that are disabled."""
        return cast(list[Endpoint], self.request("GET", "/v1/endpoints")["endpoints"])

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """One endpoint as it is now."""
        return cast(Endpoint, self.request("GET", f"/v1/endpoints/{endpoint_id}"))

    def disable_endpoint(self, endpoint_id: str) -> None:
        """Have nothing sent there any more; it stays in the list."""
        self.request("DELETE", f"/v1/endpoints/{endpoint_id}")

    def enable_endpoint(self, endpoint_id: str) -> Endpoint:
        """Have events sent there again; what was pending goes out at once."""
        return cast(Endpoint, self.request("POST", f"/v1/endpoints/{endpoint_id}/enable", repeatable=True))

    def rotate_secret(self, endpoint_id: str) -> NewEndpoint:
        """A new secret, shown this once; the one before goes on signing beside it until the next rotation."""
        return cast(NewEndpoint, self.request("POST", f"/v1/endpoints/{endpoint_id}/rotate-secret"))

    def ping(self, endpoint_id: str) -> None:
        """Have an `endpoint.ping` sent there; `deliveries` says whether it arrived."""
        self.request("POST", f"/v1/endpoints/{endpoint_id}/ping")

    def replay(self, endpoint_id: str, since: datetime, until: datetime | None = None) -> int:
        """Have everything of a time sent there again, by default until now; how many deliveries that is."""
        span = {"since": since.isoformat(), "until": until.isoformat() if until else None}
        return int(self.request("POST", f"/v1/endpoints/{endpoint_id}/replay", span)["queued"])

    def deliveries(self, *, endpoint_id: str | None = None, status: DeliveryStatus | None = None) -> Iterator[Delivery]:
        """What was sent, newest first, with every attempt; pages are asked for as you go through them."""
        return self._pages("deliveries", {"endpoint_id": endpoint_id, "status": status})

    def replay_delivery(self, delivery_id: str) -> Delivery:
        """Have one delivery sent again, by its `id` (not its `webhook_id`, which stays the same)."""
        return cast(Delivery, self.request("POST", f"/v1/deliveries/{delivery_id}/replay"))

    def retention(self) -> Retention:
        """For how many days what is kept; None is for ever."""
        return cast(Retention, self.request("GET", "/v1/retention"))

    def set_retention(self, retention: Retention) -> Retention:
        """Say how long what is kept; what is left out is kept for ever."""
        return cast(Retention, self.request("PUT", "/v1/retention", retention))

    def statement_defaults(self) -> StatementDefaults:
        """What statements of reasons say of your platform."""
        return cast(StatementDefaults, self.request("GET", "/v1/statement-defaults"))

    def set_statement_defaults(self, defaults: StatementDefaults) -> StatementDefaults:
        """Say what statements of reasons say of your platform; docs/privacy.md has the fields."""
        return cast(StatementDefaults, self.request("PUT", "/v1/statement-defaults", defaults))

    def export_subject(self, path: str | Path, *, subject: str | None = None, external_ids: Sequence[str] = ()) -> None:
        """Write all that is kept of one person's images to a new file, a zip: those of `subject`, or those listed.

        Raises NotFound where there is none, and OSError, such as FileExistsError.
        """
        body = {"subject": subject} if subject is not None else {"external_ids": list(external_ids)}
        headers = {**self._authorization, "content-type": "application/json"}
        url, path = f"{self._url}/v1/subject-exports", Path(path)
        with path.open("xb") as file:
            try:
                wire.download(
                    self._pool,
                    "POST",
                    url,
                    json.dumps(body).encode(),
                    headers,
                    file,
                    timeout_s=self._timeout_s,
                    retries=self._retries,
                )
            except BaseException:
                path.unlink()  # half a zip is none
                raise

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        idempotency_key: str | None = None,
        repeatable: bool | None = None,
    ) -> dict[str, Any]:
        """Any other call of the API: `body` is sent as JSON; the JSON object of the answer, empty where it has none.

        `repeatable`: whether it may be sent again after a lost answer; by default all but a POST without a key may.
        """
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        if body is not None:
            headers["content-type"] = "application/json"
        if repeatable is None:
            repeatable = method != "POST" or idempotency_key is not None
        data = json.dumps(body).encode() if body is not None else None
        return self._call(method, self._url + path, data, {**self._authorization, **headers}, repeatable=repeatable)

    def _pages(self, of: str, asked: dict[str, Any]) -> Iterator[Any]:
        """Every row of a list, page after page."""
        asked = {"limit": PAGE, **asked}
        while True:
            query = urlencode({name: value for name, value in asked.items() if value is not None})
            page = self.request("GET", f"/v1/{of}?{query}")
            yield from page[of]
            if page["next"] is None:
                return
            asked["cursor"] = page["next"]

    def _submit_json(self, fields: dict[str, Any], options: Options) -> Case:
        return self._submit(json.dumps(fields).encode(), "application/json", options)

    def _submit(self, body: bytes, content_type: str, options: Options) -> Case:
        wait_s = options.get("wait_s", 0)
        key = options.get("idempotency_key") or str(uuid.uuid4())
        headers = {**self._authorization, "content-type": content_type, "idempotency-key": key}
        url = f"{self._url}/v1/submissions" + (f"?wait={wait_s:g}" if wait_s else "")
        return cast(Case, self._call("POST", url, body, headers, repeatable=True, wait_s=wait_s))

    def _call(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str], *, repeatable: bool, wait_s: float = 0
    ) -> dict[str, Any]:
        return wire.call(
            self._pool,
            method,
            url,
            body,
            headers,
            timeout_s=self._timeout_s + wait_s,
            retries=self._retries,
            repeatable=repeatable,
        )


def _fields(options: Options) -> dict[str, Any]:
    """What of the options goes into the body; what was not said is left to the service."""
    body = ("external_id", "metadata", "priority")
    return {name: value for name, value in options.items() if name in body and value is not None}
