"""Secrets at rest: sealed before they are stored, and opened only where they sign, verify or are shown their one time.

AES-256-GCM of the `cryptography` package. The first key of TELLTALE_SECRET_KEYS seals, each of them opens. What is
sealed is bound to the row it is stored in: moved to another one it does not open. This module knows no tables; which
rows hold sealed secrets is moderation/keyring.py's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moderation.errors import ConfigurationError, Unreadable
from moderation.settings import HOW_TO_MAKE_A_KEY, settings

# sealed:<id of the key>:<base64 of nonce and ciphertext>
PREFIX = "sealed"
NONCE_BYTES = 12  # random, which is safe for 2^32 secrets under one key (NIST SP 800-38D, 8.3)
KEY_ID_CHARACTERS = 12


def seal(secret: str, row_id: UUID) -> str:
    """A secret as it is stored in this row, under the newest key. Raises ConfigurationError where there is no key."""
    key_id, key = next(iter(_ring().items()))
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + AESGCM(key).encrypt(nonce, secret.encode(), row_id.bytes)
    return f"{PREFIX}:{key_id}:{base64.b64encode(sealed).decode()}"


def unseal(sealed: str, row_id: UUID) -> str:
    """The secret again.

    Raises Unreadable where no key of ours opens it, where it was altered or is another row's, and where it stands in
    plain text, as before Telltale sealed secrets; ConfigurationError where there is no key at all.
    """
    ring, key_id = _ring(), key_of(sealed)
    if key_id is None:
        raise Unreadable("A secret stands unencrypted in the database: `telltale migrate` encrypts it.")
    if key_id not in ring:
        raise Unreadable(missing([key_id]))
    try:
        data = base64.b64decode(sealed.rpartition(":")[2], validate=True)
        return AESGCM(ring[key_id]).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], row_id.bytes).decode()
    except (InvalidTag, binascii.Error, ValueError) as error:
        raise Unreadable(f"A secret of {row_id} was altered in the database, or is another row's.") from error


def key_of(stored: str) -> str | None:
    """The id of the key that sealed it; None for what stands in plain text."""
    prefix, _, rest = stored.partition(":")
    return rest.partition(":")[0] if prefix == PREFIX else None


def key_ids() -> list[str]:
    """The ids of our keys, the newest first. Raises ConfigurationError where there is none."""
    return list(_ring())


def missing(ids: list[str]) -> str:
    """What to do where secrets are sealed with keys that we do not have."""
    return (
        f"Secrets are encrypted with the key {', '.join(ids)}, which TELLTALE_SECRET_KEYS does not hold: add it there, "
        "behind the newest."
    )


def _ring() -> dict[str, bytes]:
    """Our keys by their ids: the beginning of a key's hash, which says nothing of 256 random bits."""
    keys = settings().secret_keys
    if not keys:
        raise ConfigurationError(f"TELLTALE_SECRET_KEYS is missing: secrets are stored encrypted. {HOW_TO_MAKE_A_KEY}.")
    return {hashlib.sha256(key).hexdigest()[:KEY_ID_CHARACTERS]: key for key in keys}
