"""The webhooks that Telltale sends: whether one is genuine, and what it says.

Signatures are Standard Webhooks 1.0, checked by the `standardwebhooks` package. It does not remember ids: the same
event may come more than once, and the receiver keeps `Event.id` to know it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from standardwebhooks import Webhook

from .problems import BadSignature
from .shapes import Case


@dataclass(frozen=True)
class Event:
    """One event. `id` is the same whenever it is sent again; `timestamp` is when it happened, as RFC 3339."""

    id: str
    type: str
    timestamp: str
    data: dict[str, Any]

    @property
    def case(self) -> Case:
        """The case that the event is about, as it was then. Raises ValueError where it is about none."""
        if "sequence" not in self.data:
            raise ValueError(f"The event {self.type} is about no case.")
        return cast(Case, self.data)


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> Event:
    """Check a webhook's signature and age (five minutes), and read it. `body` is the raw body, before any parsing.

    Names of headers are matched in any case. Raises BadSignature; ValueError where `secret` itself is none.
    """
    verifier = _verifier(secret)
    try:
        verifier.verify(body, dict(headers), json_parse=False)
    except Exception as error:  # the package also lets ValueError and UnicodeDecodeError through
        raise BadSignature(f"The webhook's signature does not hold: {error}") from error
    named = {name.lower(): value for name, value in headers.items()}
    said = json.loads(body)
    return Event(named["webhook-id"], said["type"], said["timestamp"], said["data"])


def _verifier(secret: str) -> Webhook:
    try:
        return Webhook(secret)
    except Exception as error:
        raise ValueError(
            "This is no signing secret: it is `whsec_` and base64, as POST /v1/endpoints showed it."
        ) from error
