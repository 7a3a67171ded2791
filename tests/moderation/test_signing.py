"""Signing, with the official `standardwebhooks` package as the other side in both directions."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from moderation import signing
from moderation.errors import ConfigurationError, SignatureInvalid

BODY = '{"type":"verdict.completed","text":"Grüße"}'.encode()


def official_headers(
    secret: str, body: bytes = BODY, at: datetime | None = None, name: str = "msg_1"
) -> dict[str, str]:
    at = at or datetime.now(UTC)
    signature = Webhook(secret).sign(name, at, body.decode())
    return {"Webhook-Id": name, "Webhook-Timestamp": str(int(at.timestamp())), "Webhook-Signature": signature}


def test_a_new_secret_is_32_random_bytes() -> None:
    first, second = signing.new_secret(), signing.new_secret()
    assert first.startswith("whsec_") and first != second
    assert len(base64.b64decode(first.removeprefix("whsec_"), validate=True)) == 32


def test_the_official_package_verifies_what_we_sign() -> None:
    secret = signing.new_secret()
    headers = signing.sign([secret], "evt_1", datetime.now(UTC), BODY)
    assert Webhook(secret).verify(BODY, headers) == {"type": "verdict.completed", "text": "Grüße"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers)


def test_during_a_rotation_either_secret_verifies() -> None:
    old, new = signing.new_secret(), signing.new_secret()
    headers = signing.sign([new, old], "evt_1", datetime.now(UTC), BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    Webhook(old).verify(BODY, headers)
    Webhook(new).verify(BODY, headers)


def test_a_time_in_another_zone_is_the_same_moment() -> None:
    secret, now = signing.new_secret(), datetime.now(UTC)
    there = now.astimezone(timezone(timedelta(hours=9)))
    assert signing.sign([secret], "evt_1", there, BODY) == signing.sign([secret], "evt_1", now, BODY)
    Webhook(secret).verify(BODY, signing.sign([secret], "evt_1", there, BODY))


@pytest.mark.parametrize(
    ("secrets", "name", "at", "body"),
    [
        ([], "evt_1", datetime.now(UTC), BODY),
        (["whsec_"], "evt_1", datetime.now(UTC), BODY),
        (["whsec_not base64!"], "evt_1", datetime.now(UTC), BODY),
        ([signing.new_secret(), "whsec_é"], "evt_1", datetime.now(UTC), BODY),
        ([signing.new_secret()], "evt.1", datetime.now(UTC), BODY),
        ([signing.new_secret()], "evt\r\nx: y", datetime.now(UTC), BODY),
        ([signing.new_secret()], "", datetime.now(UTC), BODY),
        ([signing.new_secret()], "evt_1", datetime(2026, 1, 1), BODY),
        ([signing.new_secret()], "evt_1", datetime.now(UTC), b"\xff\xfe"),
    ],
)
def test_what_cannot_be_signed_is_refused(secrets: list[str], name: str, at: datetime, body: bytes) -> None:
    with pytest.raises(ConfigurationError):
        signing.sign(secrets, name, at, body)


def test_we_verify_what_the_official_package_signs() -> None:
    old, new = signing.new_secret(), signing.new_secret()
    assert signing.verify_standard([new, old], official_headers(old), BODY) == "msg_1"
    assert signing.verify_standard([new, old], official_headers(new), BODY) == "msg_1"


def test_one_good_signature_among_others_is_enough() -> None:
    secret = signing.new_secret()
    headers = official_headers(secret)
    headers["Webhook-Signature"] = f"v1a,abc v1,!!! v1,é garbage {headers['Webhook-Signature']}"
    assert signing.verify_standard([secret], headers, BODY) == "msg_1"


@pytest.mark.parametrize("missing", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_a_missing_header_is_named(missing: str) -> None:
    secret = signing.new_secret()
    headers = official_headers(secret)
    del headers[missing]
    with pytest.raises(SignatureInvalid, match=missing.lower()):
        signing.verify_standard([secret], headers, BODY)


@pytest.mark.parametrize(
    ("seconds", "said"), [(-301, "old"), (-3600, "old"), (301, "in the future"), (3600, "in the future")]
)
def test_a_time_out_of_tolerance_is_refused(seconds: int, said: str) -> None:
    secret, now = signing.new_secret(), datetime(2026, 1, 1, tzinfo=UTC)
    headers = official_headers(secret, at=now + timedelta(seconds=seconds))
    with pytest.raises(SignatureInvalid, match=said):
        signing.verify_standard([secret], headers, BODY, now=now)


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_a_time_within_tolerance_is_accepted(seconds: int) -> None:
    secret, now = signing.new_secret(), datetime(2026, 1, 1, tzinfo=UTC)
    headers = official_headers(secret, at=now + timedelta(seconds=seconds))
    signing.verify_standard([secret], headers, BODY, now=now)


@pytest.mark.parametrize("timestamp", ["", "now", "1.5", "-5", "１７６７２２５６００", "9" * 400, "nan", "0x10", " 1 "])
def test_a_time_that_is_not_whole_seconds_is_refused(timestamp: str) -> None:
    secret = signing.new_secret()
    with pytest.raises(SignatureInvalid, match="webhook-timestamp"):
        signing.verify_standard([secret], official_headers(secret) | {"Webhook-Timestamp": timestamp}, BODY)


def test_another_body_id_time_or_secret_does_not_verify() -> None:
    secret = signing.new_secret()
    headers = official_headers(secret)
    later = str(int(headers["Webhook-Timestamp"]) + 1)
    attempts = [
        ([secret], headers, BODY + b"\n"),
        ([secret], headers | {"Webhook-Id": "msg_2"}, BODY),
        ([secret], headers | {"Webhook-Timestamp": later}, BODY),
        ([signing.new_secret()], headers, BODY),
        ([], headers, BODY),
    ]
    for secrets, given_headers, body in attempts:
        with pytest.raises(SignatureInvalid, match="No signature matches"):
            signing.verify_standard(secrets, given_headers, body)


def test_a_body_that_is_not_text_is_refused_and_not_an_accident() -> None:
    secret = signing.new_secret()
    with pytest.raises(SignatureInvalid, match="UTF-8"):
        signing.verify_standard([secret], official_headers(secret), b"\xff\xd8\xff")


def test_a_broken_secret_of_ours_is_the_operators_business() -> None:
    with pytest.raises(ConfigurationError):
        signing.verify_standard(["whsec_***"], official_headers(signing.new_secret()), BODY)


# What arrives in headers is latin-1 at worst; surrogates come from undecodable bytes in a WSGI server.
anything = st.text(max_size=60) | st.text(alphabet="v1,= \udcff0Aé", max_size=60)


@given(name=anything, signature=anything, timestamp=anything | st.just(None), body=st.binary(max_size=60))
def test_no_message_raises_anything_but_signature_invalid(
    name: str, signature: str, timestamp: str | None, body: bytes
) -> None:
    headers = {
        "webhook-id": name,
        "webhook-timestamp": timestamp if timestamp is not None else str(int(datetime.now(UTC).timestamp())),
        "webhook-signature": signature,
    }
    with pytest.raises(SignatureInvalid):
        signing.verify_standard([signing.new_secret()], headers, body)


@given(body=st.text(max_size=200), seconds=st.integers(0, 4_000_000_000), count=st.integers(1, 3))
def test_what_is_signed_verifies_with_every_secret(body: str, seconds: int, count: int) -> None:
    at, data = datetime.fromtimestamp(seconds, UTC), body.encode()
    secrets = [signing.new_secret() for _ in range(count)]
    headers = signing.sign(secrets, "evt_1", at, data)
    for secret in secrets:
        assert signing.verify_standard([secret], headers, data, now=at) == "evt_1"


def test_github_signatures() -> None:
    body, old, new = b"\xff any bytes", "old secret", "new é"
    good = "sha256=" + hmac.new(new.encode(), body, hashlib.sha256).hexdigest()
    signing.verify_github([old, new], good, body)
    signing.verify_github([old, new], good.upper().replace("SHA", "sha"), body)
    for header in [None, "", "sha1=abc", "sha256=", "sha256=é\udcff", good[:-1], good + "0"]:
        with pytest.raises(SignatureInvalid):
            signing.verify_github([old, new], header, body)
    with pytest.raises(SignatureInvalid):
        signing.verify_github([old, new], good, body + b"x")
    with pytest.raises(SignatureInvalid):
        signing.verify_github([old], good, body)
    with pytest.raises(SignatureInvalid):
        signing.verify_github([], good, body)


def test_bearer_tokens() -> None:
    signing.verify_bearer(["old", "new"], "Bearer new")
    signing.verify_bearer(["old", "new"], "bearer old")
    for header in [None, "", "new", "Basic new", "Bearer", "Bearer ", "Bearer newer", "Bearer é\udcff"]:
        with pytest.raises(SignatureInvalid):
            signing.verify_bearer(["old", "new"], header)
    with pytest.raises(SignatureInvalid):
        signing.verify_bearer([], "Bearer new")


def test_an_empty_secret_admits_nobody() -> None:
    body = b"body"
    with pytest.raises(ConfigurationError):
        signing.verify_github([""], "sha256=" + hmac.new(b"", body, hashlib.sha256).hexdigest(), body)
    with pytest.raises(ConfigurationError):
        signing.verify_bearer([""], "Bearer x")
