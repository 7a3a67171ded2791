"""Standard Webhooks 1.0, both ways, and the two other ways in which platforms sign what they send.

The HMAC itself is the `standardwebhooks` package's; here are its edges: several live secrets while one rotates,
and an answer that tells a sender what to change. It does not know where secrets are kept, and it does not remember
ids: a message replayed inside the tolerance verifies again, and the caller must recognise its id.

Specification: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets as randomness
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from moderation.errors import ConfigurationError, SignatureInvalid

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32  # the specification asks for 24 to 64
TOLERANCE_S = 300  # the specification's reference libraries all use five minutes

# A dot would make "id.timestamp.body" ambiguous, and anything else odd could split a header.
_SENT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SECONDS = re.compile(r"[0-9]{1,11}")


def new_secret() -> str:
    """A fresh signing secret: `whsec_` and the base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(randomness.token_bytes(SECRET_BYTES)).decode("ascii")


def sign(secrets: Sequence[str], message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """The three headers that sign `body`, with one signature for every live secret, in the order given.

    Raises ConfigurationError for whatever cannot be signed: no or a broken secret, an id that does not fit in the
    header, a time without a zone, a body that is not UTF-8. Such an event must not be sent.
    """
    if not secrets:
        raise ConfigurationError("Nothing signs this event: give the endpoint a secret. It was not sent.")
    if not _SENT_ID.fullmatch(message_id):
        raise ConfigurationError(f"A webhook id is 1 to 128 letters, digits, '-' or '_', and not {message_id!r}.")
    if timestamp.tzinfo is None:
        raise ConfigurationError("A webhook is signed with a time that says its zone.")
    seconds = int(timestamp.timestamp())
    try:
        signatures = [_signature(secret, message_id, seconds, body) for secret in secrets]
    except UnicodeDecodeError as error:
        raise ConfigurationError("A webhook's body is JSON in UTF-8; this one is not. It was not sent.") from error
    return {ID_HEADER: message_id, TIMESTAMP_HEADER: str(seconds), SIGNATURE_HEADER: " ".join(signatures)}


def verify_standard(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    tolerance_s: float = TOLERANCE_S,
    now: datetime | None = None,
) -> str:
    """Check a Standard Webhooks message and return its id; names of headers are matched in any case.

    Raises SignatureInvalid with what the sender should change; ConfigurationError when a secret of ours is broken.
    """
    named = {name.lower(): value for name, value in headers.items()}
    for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER):
        if not named.get(name):
            raise SignatureInvalid(f"The header '{name}' is missing: sign the request as Standard Webhooks 1.0 says.")
    seconds = _checked_seconds(named[TIMESTAMP_HEADER], tolerance_s, now or datetime.now(UTC))
    given = _v1_signatures(named[SIGNATURE_HEADER])
    try:
        expected = [_signature(secret, named[ID_HEADER], seconds, body) for secret in secrets]
    except UnicodeError as error:
        raise SignatureInvalid("The id and the body must be UTF-8 text to be verified.") from error
    # Every pair is compared, so that time does not tell which secret or signature came close.
    if not any([_same(signature, one) for signature in expected for one in given]):  # noqa: C419
        raise SignatureInvalid(
            "No signature matches: sign 'id.timestamp.body', with the body exactly as sent, with this source's secret."
        )
    return named[ID_HEADER]


def verify_github(secrets: Sequence[str], header: str | None, body: bytes) -> None:
    """Check GitHub's `X-Hub-Signature-256: sha256=<hex>` over the raw body; a secret is used as its UTF-8 bytes.

    It carries neither id nor time, so a replay cannot be told from the first sending. Raises SignatureInvalid.
    """
    if not header:
        raise SignatureInvalid("The header 'X-Hub-Signature-256' is missing: it should be 'sha256=' and a hex digest.")
    if not header.startswith("sha256="):
        raise SignatureInvalid("'X-Hub-Signature-256' must start with 'sha256='; other digests are not accepted.")
    given = header.removeprefix("sha256=").strip().lower()
    digests = [_github_digest(secret, body) for secret in secrets]
    if not any([_same(digest, given) for digest in digests]):  # noqa: C419
        raise SignatureInvalid(
            "The signature does not match: sign the body exactly as sent, with this source's secret."
        )


def sign_github(secret: str, body: bytes) -> str:
    """The value of GitHub's `X-Hub-Signature-256` for a body."""
    return f"sha256={_github_digest(secret, body)}"


def _github_digest(secret: str, body: bytes) -> str:
    return hmac.new(_raw_secret(secret), body, hashlib.sha256).hexdigest()


def verify_bearer(secrets: Sequence[str], header: str | None) -> None:
    """Check `Authorization: Bearer <secret>`. Raises SignatureInvalid."""
    if not header:
        raise SignatureInvalid(
            "The header 'Authorization' is missing: it should be 'Bearer ' and this source's secret."
        )
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise SignatureInvalid("'Authorization' must be 'Bearer ' followed by this source's secret.")
    given = token.strip().encode("utf-8", "surrogateescape")
    if not any([hmac.compare_digest(_raw_secret(secret), given) for secret in secrets]):  # noqa: C419
        raise SignatureInvalid("The bearer token is not this source's: use its current secret.")


def _signature(secret: str, message_id: str, seconds: int, body: bytes) -> str:
    # The package reads only UTC times rightly: it replaces the zone instead of converting.
    return str(_webhook(secret).sign(message_id, datetime.fromtimestamp(seconds, UTC), body.decode("utf-8")))


def _webhook(secret: str) -> Webhook:
    # The package decodes leniently, and would sign with whatever is left of a mistyped secret.
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError("A signing secret is not 'whsec_' and base64: make a new one.") from error
    if not key:
        raise ConfigurationError("A signing secret is empty: make a new one.")
    return Webhook(key)


def _raw_secret(secret: str) -> bytes:
    if not secret:
        raise ConfigurationError("A source's secret is empty: set a new one.")
    return secret.encode("utf-8")


def _checked_seconds(header: str, tolerance_s: float, now: datetime) -> int:
    if not _SECONDS.fullmatch(header):
        raise SignatureInvalid(f"'{TIMESTAMP_HEADER}' must be whole seconds since 1970, for example 1767225600.")
    seconds = int(header)
    age = now.timestamp() - seconds
    if age > tolerance_s:
        raise SignatureInvalid(
            f"'{TIMESTAMP_HEADER}' is {age:.0f} s old, more than {tolerance_s:.0f} s: sign again at every attempt."
        )
    if age < -tolerance_s:
        raise SignatureInvalid(f"'{TIMESTAMP_HEADER}' is {-age:.0f} s in the future: set the sender's clock.")
    return seconds


def _v1_signatures(header: str) -> list[str]:
    given = [part for part in header.split(" ") if part.startswith("v1,")]
    if not given:
        raise SignatureInvalid(f"'{SIGNATURE_HEADER}' holds no 'v1,<base64>' signature; no other version is accepted.")
    return given


def _same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogateescape"))
