"""Sealed secrets: opened by their key and in their row only, told apart from plain text, never printed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import pytest

from moderation import sealing
from moderation.db import new_id
from moderation.errors import ConfigurationError, Unreadable
from moderation.settings import settings

SECRET = "whsec_c2VjcmV0"


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


@pytest.fixture
def with_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets TELLTALE_SECRET_KEYS for the rest of the test."""

    def given(value: str) -> None:
        monkeypatch.setenv("TELLTALE_SECRET_KEYS", value)
        settings.cache_clear()

    yield given
    monkeypatch.undo()
    settings.cache_clear()


def test_a_secret_is_sealed_anew_each_time_and_opens_again() -> None:
    row_id = new_id()
    first, second = (sealing.seal("gehéim \N{KEY}", row_id) for _ in range(2))
    assert first != second and "gehéim" not in first
    assert [sealing.unseal(one, row_id) for one in (first, second)] == ["gehéim \N{KEY}"] * 2


def test_in_another_row_or_altered_it_does_not_open() -> None:
    row_id = new_id()
    sealed = sealing.seal(SECRET, row_id)
    with pytest.raises(Unreadable, match="another row's"):
        sealing.unseal(sealed, new_id())
    head, _, body = sealed.rpartition(":")
    data = bytearray(base64.b64decode(body))
    data[-1] ^= 1
    for broken in (f"{head}:{base64.b64encode(data).decode()}", f"{head}:", f"{head}:AAAA", f"{head}:not base64"):
        with pytest.raises(Unreadable):
            sealing.unseal(broken, row_id)


def test_the_first_key_seals_and_every_key_opens(with_keys: Callable[[str], None]) -> None:
    row_id = new_id()
    with_keys(key(1))
    old = sealing.seal(SECRET, row_id)
    with_keys(f"{key(2)},\n {key(1)}\n")
    new = sealing.seal(SECRET, row_id)
    assert [sealing.key_of(one) for one in (new, old)] == sealing.key_ids()
    assert sealing.unseal(old, row_id) == sealing.unseal(new, row_id) == SECRET
    with_keys(key(2))
    with pytest.raises(Unreadable, match=f"{sealing.key_of(old)}, which TELLTALE_SECRET_KEYS does not hold"):
        sealing.unseal(old, row_id)


def test_plain_text_is_not_taken_for_sealed() -> None:
    assert sealing.key_of(SECRET) is None
    with pytest.raises(Unreadable, match="telltale migrate") as refused:
        sealing.unseal(SECRET, new_id())
    assert SECRET not in str(refused.value)


def test_without_a_key_it_is_said_how_to_make_one(with_keys: Callable[[str], None]) -> None:
    with_keys("")
    for attempt in (sealing.key_ids, lambda: sealing.seal(SECRET, new_id())):
        with pytest.raises(ConfigurationError, match=r"TELLTALE_SECRET_KEYS is missing.*openssl rand -base64 32"):
            attempt()


@pytest.mark.parametrize("wrong", ["hunter2hunter2", base64.b64encode(b"x" * 31).decode(), f"{key(1)};{key(2)}"])
def test_what_is_no_key_is_named_by_its_setting_and_not_printed(with_keys: Callable[[str], None], wrong: str) -> None:
    with_keys(wrong)
    with pytest.raises(ConfigurationError, match=r"TELLTALE_SECRET_KEYS.*32 random bytes") as refused:
        settings()
    assert wrong not in str(refused.value) and refused.value.__cause__ is None


def test_settings_print_neither_keys_nor_passwords() -> None:
    rules = settings().model_copy(update={"smtp_url": "smtp://user:password@host"})
    printed = f"{rules!r} {rules}"
    for name in ("secret_keys", "s3_secret_key", "database_url", "redis_url", "smtp_url"):
        assert getattr(rules, name) and name not in printed
