"""A steady stream of submissions, as sensible clients send them: files, links, batches and signed webhooks.

A submission is accepted once a 2xx was read. Where no answer came, or one that asks for patience, the client sends the
same again under the same Idempotency-Key (or webhook id) until it has an answer.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any

import urllib3
from PIL import Image
from standardwebhooks import Webhook

from benchmarks.chaos.platforms import Platform
from infra.demo.samples import samples
from infra.demo.server import Server

CLIENTS = 4
PAUSE_S = 1.6  # on average, between two submissions of one client
WAYS = ("file", "file", "link", "batch", "webhook")
SEEN_BEFORE = 0.12  # of submissions are of an image that was sent before
TIMEOUT_S = 8.0
LONGEST_WAIT_S = 3.0
# Longer than an Idempotency-Key is held by a request that died.
PATIENCE_S = 100.0
PATIENT = frozenset({409, 429, 500, 502, 503, 504})


@dataclass
class Shipment:
    """One image on its way. `case_id` is None until a 2xx was read; `refusal` is an answer that ends all patience."""

    external_id: str
    platform: str
    way: str
    sha256: str
    case_id: str | None = None
    sends: int = 0
    refusal: str | None = None


class Pictures:
    """Small pictures no two of which are alike: cuttings of the samples that ship with the demo checkpoint."""

    def __init__(self) -> None:
        self._photos = [Image.open(sample.path).convert("RGB") for sample in samples()]
        self._sent: list[bytes] = []
        self._lock = threading.Lock()

    def draw(self, lot: random.Random) -> bytes:
        """A JPEG; now and then one that was drawn before."""
        with self._lock:
            if self._sent and lot.random() < SEEN_BEFORE:
                return lot.choice(self._sent)
            photo = lot.choice(self._photos)
            side = min(lot.randint(96, 224), photo.width, photo.height)
            left, top = lot.randint(0, photo.width - side), lot.randint(0, photo.height - side)
            buffer = io.BytesIO()
            photo.crop((left, top, left + side, top + side)).save(buffer, "JPEG", quality=lot.randint(75, 95))
            self._sent.append(buffer.getvalue())
            return self._sent[-1]


class Links:
    """The platforms' own image host: `/<sha256>`."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self.server = Server(self._handler())

    def hold(self, data: bytes) -> str:
        """Where these bytes can be read from now on."""
        digest = hashlib.sha256(data).hexdigest()
        self._held[digest] = data
        return f"{self.server.url}/{digest}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        held = self._held

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = held[self.path.strip("/")]
                self.send_response(200)
                self.send_header("content-type", "image/jpeg")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                """Say nothing: the reckoning will."""

        return Handler


@dataclass
class Stream:
    """The clients of all platforms, between `start` and `stop`."""

    api: str
    platforms: Sequence[Platform]
    links: Links
    seed: int
    shipments: list[Shipment] = field(default_factory=list)
    unanswered: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _pictures: Pictures = field(default_factory=Pictures)

    def start(self) -> None:
        """Send from now on."""
        for number in range(CLIENTS):
            client = Client(self, self.platforms[number % len(self.platforms)], random.Random(f"{self.seed}.{number}"))
            self._threads.append(threading.Thread(target=client.run, name=f"client {number}", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing new; what is under way still gets its answer."""
        self._stopping.set()

    @property
    def under_way(self) -> int:
        """How many clients still wait for an answer."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def accepted(self) -> list[Shipment]:
        """What a 2xx was read for."""
        return [shipment for shipment in list(self.shipments) if shipment.case_id is not None]

    def paused(self, seconds: float) -> bool:
        """Wait; True where the stream has been stopped meanwhile."""
        return self._stopping.wait(seconds)

    def draw(self, lot: random.Random) -> bytes:
        """A picture to send."""
        return self._pictures.draw(lot)


class Client:
    """One program of a platform, which sends one thing after another."""

    def __init__(self, stream: Stream, platform: Platform, lot: random.Random) -> None:
        self._stream = stream
        self._platform = platform
        self._lot = lot
        self._pool = urllib3.PoolManager(timeout=TIMEOUT_S, retries=False)
        self._ways: dict[str, Callable[[], None]] = {
            "file": self._file,
            "link": self._link,
            "batch": self._batch,
            "webhook": self._webhook,
        }

    def run(self) -> None:
        """Send until the stream is stopped."""
        while not self._stream.paused(self._lot.expovariate(1 / PAUSE_S)):
            self._ways[self._lot.choice(WAYS)]()

    def _new(self, way: str) -> tuple[Shipment, bytes]:
        data = self._stream.draw(self._lot)
        shipment = Shipment(uuid.uuid4().hex, self._platform.name, way, hashlib.sha256(data).hexdigest())
        self._stream.shipments.append(shipment)
        return shipment, data

    def _said(self, shipment: Shipment) -> dict[str, Any]:
        return {"external_id": shipment.external_id, "metadata": {"tenant": self._platform.name, "way": shipment.way}}

    def _file(self) -> None:
        shipment, data = self._new("file")
        said = {**self._said(shipment), "metadata": json.dumps(self._said(shipment)["metadata"])}
        body, content_type = urllib3.encode_multipart_formdata({"image": ("a.jpg", data), **said})
        self._until_answered([shipment], "/v1/submissions", lambda: (body, self._headers(content_type, shipment)))

    def _link(self) -> None:
        shipment, data = self._new("link")
        body = json.dumps({**self._said(shipment), "image_url": self._stream.links.hold(data)}).encode()
        self._until_answered([shipment], "/v1/submissions", lambda: (body, self._headers("application/json", shipment)))

    def _batch(self) -> None:
        made = [self._new("batch") for _ in range(self._lot.randint(2, 4))]
        links = [{**self._said(one), "image_url": self._stream.links.hold(data)} for one, data in made]
        body = json.dumps({"submissions": links}).encode()
        shipments = [shipment for shipment, _ in made]
        headers = self._headers("application/json", shipments[0])
        self._until_answered(shipments, "/v1/submissions/batch", lambda: (body, headers))

    def _webhook(self) -> None:
        shipment, data = self._new("webhook")
        event = {
            "id": shipment.external_id,
            "url": self._stream.links.hold(data),
            "metadata": self._said(shipment)["metadata"],
        }
        body = json.dumps({"type": "image.uploaded", "data": event})
        webhook = Webhook(self._platform.hook_secret)

        def signed() -> tuple[bytes, dict[str, str]]:
            """With the time of this attempt, and always the same id."""
            id_, now = f"msg_{shipment.external_id}", datetime.now(UTC)
            signature = webhook.sign(id_, now, body)
            stamp = {"webhook-id": id_, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
            return body.encode(), {"content-type": "application/json", **stamp}

        self._until_answered([shipment], self._platform.hook, signed)

    def _headers(self, content_type: str, shipment: Shipment) -> dict[str, str]:
        key = {"authorization": f"Bearer {self._platform.key}", "idempotency-key": f"key-{shipment.external_id}"}
        return {"content-type": content_type, **key}

    def _until_answered(
        self, shipments: Sequence[Shipment], path: str, request: Callable[[], tuple[bytes, dict[str, str]]]
    ) -> None:
        """Send again with the same key until there is an answer, or patience ends."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for shipment in shipments:
                shipment.sends += 1
            body, headers = request()
            answer = self._answer(path, body, headers)
            if answer is not None and 200 <= answer.status < 300:
                _note(shipments, json.loads(answer.data))
                return
            if answer is not None and answer.status not in PATIENT:
                for shipment in shipments:
                    shipment.refusal = f"{answer.status}: {answer.data.decode(errors='replace')}"
                return
            time.sleep(self._wait(shipments[0].sends, answer))

    def _answer(self, path: str, body: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse | None:
        try:
            return self._pool.request("POST", self._stream.api + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError:
            self._stream.unanswered += 1
            return None

    def _wait(self, sends: int, answer: urllib3.BaseHTTPResponse | None) -> float:
        """What the service asked for, or twice as long as before; with jitter, and within reason."""
        asked = answer.headers.get("retry-after") if answer is not None else None
        wait = float(asked) if asked else 0.2 * 2**sends
        return min(wait, LONGEST_WAIT_S) * self._lot.uniform(0.7, 1.3)


def _note(shipments: Sequence[Shipment], answer: dict[str, Any]) -> None:
    """The cases that a 2xx speaks of, by the id the platform gave."""
    cases = {case["external_id"]: case["id"] for case in answer.get("cases", [answer])}
    for shipment in shipments:
        shipment.case_id = cases[shipment.external_id]
