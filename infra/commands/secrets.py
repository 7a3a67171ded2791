"""`telltale secrets`: which keys encrypt the secrets of endpoints and sources, and changing over to a new one."""

from __future__ import annotations

import click

from infra.printing import as_json_option, print_list, print_record
from moderation import keyring, sealing
from moderation.db import transaction


@click.group()
def secrets() -> None:
    """See which keys encrypt stored secrets, and change over to a new key."""


@secrets.command()
@as_json_option
def keys(as_json: bool) -> None:
    """List the keys by id. Those of TELLTALE_SECRET_KEYS, the newest first, and those that stored secrets need."""
    with transaction() as session:
        used = keyring.use(session)
    rows = [
        {"key": key or "none: plain text", "secrets": used.get(key, 0), "state": _state(key)}
        for key in dict.fromkeys([*sealing.key_ids(), *used])
    ]
    print_list(rows, as_json=as_json, none="There is no key.")


def _state(key: str | None) -> str:
    own = sealing.key_ids()
    if key is None:
        return "`telltale migrate` encrypts them"
    if key not in own:
        return "missing from TELLTALE_SECRET_KEYS"
    return "encrypts" if key == own[0] else "decrypts"


@secrets.command()
@as_json_option
def rotate(as_json: bool) -> None:
    """Encrypt every stored secret anew with the newest key.

    That is the first of TELLTALE_SECRET_KEYS. Afterwards no stored secret needs the others, and they may be taken out.
    Nothing changes for platforms.
    """
    with transaction() as session:
        count = keyring.rotate(session)
    print_record({"key": sealing.key_ids()[0], "encrypted anew": count}, as_json=as_json)
