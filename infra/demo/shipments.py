"""The samples on their way: submitted half by REST and half by signed webhook, and followed until they are settled.

It sees Telltale only as a platform does: through HTTP, and through the webhooks that its receiver verified.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import urllib3
from standardwebhooks import Webhook

from infra.client import Client, ClientError, call
from infra.demo.platform import Platform
from infra.demo.receiver import Receiver
from infra.demo.samples import Sample
from moderation.vocabulary import SETTLED, CaseStatus, EventType

POLL_S = 0.2
# One of these is the last word on a case that was judged.
LAST_WORDS = frozenset({EventType.DECISION_CREATED.value, EventType.CASE_IN_REVIEW.value})


@dataclass
class Shipment:
    """One sample, how it was sent, and what is known of it so far."""

    sample: Sample
    way: Literal["REST", "webhook"]
    case: dict[str, Any] = field(default_factory=dict)
    verified_events: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def submitted(self) -> bool:
        """Accepted: Telltale answered 202."""
        return bool(self.case)

    @property
    def ended(self) -> bool:
        """Nothing more will happen by itself."""
        return self.case.get("status") in SETTLED

    @property
    def settled(self) -> bool:
        """Decided, or waiting for a moderator."""
        return self.ended and self.case["status"] != CaseStatus.FAILED

    @property
    def verdict(self) -> dict[str, Any]:
        return self.case.get("verdict") or {}

    @property
    def right(self) -> bool:
        """The model's label is what the image really is."""
        return self.verdict.get("label") == self.sample.truth

    @property
    def explained(self) -> bool:
        return bool(self.verdict.get("explanation"))

    @property
    def verified(self) -> bool:
        """The webhook with the last word on this case came, and its signature held."""
        return not LAST_WORDS.isdisjoint(self.verified_events)

    @property
    def succeeded(self) -> bool:
        return self.settled and self.explained and self.verified

    @property
    def milliseconds(self) -> int | None:
        """From submission to settled, by the case's own times."""
        if not self.ended:
            return None
        took = datetime.fromisoformat(self.case["settled_at"]) - datetime.fromisoformat(self.case["created_at"])
        return round(took.total_seconds() * 1000)

    def complaint(self) -> str | None:
        """Why this shipment did not succeed; None where it did."""
        if self.succeeded:
            return None
        if self.error:
            return self.error
        if not self.ended:
            return f"The case is still {self.case.get('status')}."
        if not self.settled:
            return (self.case.get("failure") or {}).get("detail") or "The case failed."
        return "There is no explanation." if not self.explained else "No verified webhook told of the decision."


class Sender:
    """Submits samples as one platform."""

    def __init__(self, platform: Platform, api_url: str, samples_url: str) -> None:
        self.client = Client(api_url, platform.key)
        self._platform = platform
        self._samples_url = samples_url
        self._webhook = Webhook(platform.hook_secret)
        self._pool = urllib3.PoolManager()

    def ship(self, sample: Sample, way: Literal["REST", "webhook"]) -> Shipment:
        """Submit one sample; a refusal is written on the shipment."""
        shipment = Shipment(sample, way)
        try:
            shipment.case = self._submit(sample) if way == "REST" else self._announce(sample)
        except ClientError as error:
            shipment.error = str(error)
        return shipment

    def refresh(self, shipment: Shipment) -> None:
        """Read its case again."""
        shipment.case = dict(self.client.case(shipment.case["id"]))

    def _submit(self, sample: Sample) -> dict[str, Any]:
        return dict(self.client.submit_file(sample.path, external_id=sample.name))

    def _announce(self, sample: Sample) -> dict[str, Any]:
        """Tell the platform's hook of a new image, as an upload webhook would; Telltale reads the link itself."""
        message_id, now = f"msg_{uuid.uuid4().hex}", datetime.now(UTC)
        image = {"id": sample.name, "url": f"{self._samples_url}/{sample.name}"}
        body = json.dumps({"type": "image.uploaded", "timestamp": now.isoformat(), "data": {"image": image}})
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(message_id, now, body),
        }
        answer = call(self._pool, "POST", self._platform.hook_url, body.encode(), headers, timeout_s=30, retries=0)
        return dict(answer["cases"][0])


def follow(
    shipments: Sequence[Shipment], sender: Sender, receiver: Receiver, timeout_s: float, tick: Callable[[], None]
) -> bool:
    """Read cases and receiver until every accepted shipment is settled and its webhook verified.

    Calls `tick` after each look. False where the time ran out first. Raises ClientError where the API is gone.
    """
    deadline = time.monotonic() + timeout_s
    under_way = [shipment for shipment in shipments if shipment.submitted]
    while True:
        for shipment in under_way:
            if not shipment.ended:
                sender.refresh(shipment)
            shipment.verified_events = receiver.verified(shipment.case["id"])
        tick()
        under_way = [s for s in under_way if not s.ended or (s.settled and not s.verified)]
        if not under_way:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
