"""Webhooks as the service signs them are read; whatever was changed is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from infra.client import BadSignature, verify
from moderation import signing

SECRET = signing.new_secret()
BODY = json.dumps({"type": "decision.created", "timestamp": "…", "data": {"id": "c", "sequence": 3}}).encode()


def headers(secret: str = SECRET, ago: timedelta = timedelta(), body: bytes = BODY) -> dict[str, str]:
    at = datetime.now(UTC) - ago
    return {name.title(): value for name, value in signing.sign([secret], "msg-1", at, body).items()}


def test_what_we_sign_is_read() -> None:
    event = verify(SECRET, headers(), BODY)
    assert (event.id, event.type, event.case["sequence"]) == ("msg-1", "decision.created", 3)


def test_while_a_secret_rotates_either_is_enough() -> None:
    signed = signing.sign([signing.new_secret(), SECRET], "msg-1", datetime.now(UTC), BODY)
    assert verify(SECRET, signed, BODY).id == "msg-1"


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (headers(), BODY + b" "),
        (headers(signing.new_secret()), BODY),
        (headers(ago=timedelta(minutes=6)), BODY),
        ({}, BODY),
        (headers() | {"Webhook-Signature": "v1"}, BODY),
        (headers() | {"Webhook-Signature": "v1,ü"}, BODY),
        (headers() | {"Webhook-Timestamp": "soon"}, BODY),
        (headers(), b"\xff"),
    ],
    ids=["changed", "another secret", "old", "unsigned", "no signature", "no base64", "no time", "no text"],
)
def test_anything_else_is_a_bad_signature(sent: dict[str, str], body: bytes) -> None:
    with pytest.raises(BadSignature):
        verify(SECRET, sent, body)


def test_a_secret_that_is_none_is_the_receivers_own_fault() -> None:
    with pytest.raises(ValueError, match="no signing secret"):
        verify("", headers(), BODY)


def test_an_event_of_no_case_has_none() -> None:
    body = json.dumps({"type": "endpoint.ping", "timestamp": "…", "data": {"endpoint_id": "e"}}).encode()
    with pytest.raises(ValueError, match="about no case"):
        _ = verify(SECRET, headers(body=body), body).case
