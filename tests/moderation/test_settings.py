"""Settings: what is missing or wrong is named, all of it at once, and nothing changes after reading."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.local import Outside
from moderation.errors import ConfigurationError
from moderation.settings import Settings, settings, unread_variables


@pytest.fixture(autouse=True)
def read_anew() -> Iterator[None]:
    """The settings are read once per process: forget them around each test."""
    kept = settings()
    settings.cache_clear()
    yield
    settings.cache_clear()
    assert settings() == kept


def test_every_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELLTALE_DATABASE_URL")
    monkeypatch.delenv("TELLTALE_REDIS_URL")
    with pytest.raises(ConfigurationError) as refused:
        settings()
    for name in ("TELLTALE_DATABASE_URL", "TELLTALE_REDIS_URL"):
        assert f"{name}: it is not set" in str(refused.value)


def test_what_is_misspelt_is_said_with_what_was_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "telltale_redis_uri").write_text("redis://")
    for name, value in {"BATCHSIZE": "4", "DATA": ".", "SECRETS_DIR": str(tmp_path), "QQQ": ""}.items():
        monkeypatch.setenv(f"TELLTALE_{name}", value)
    meant = [said for said in unread_variables() if "TEST_" not in said]
    assert meant == [
        "TELLTALE_BATCHSIZE is no setting; did you mean TELLTALE_BATCH_SIZE?",
        "TELLTALE_QQQ is no setting.",
        "TELLTALE_REDIS_URI is no setting; did you mean TELLTALE_REDIS_URL?",
    ]
    monkeypatch.delenv("TELLTALE_DATABASE_URL")
    monkeypatch.setenv("TELLTALE_DATABSE_URL", "postgresql://")
    with pytest.raises(ConfigurationError, match="DATABSE_URL is no setting; did you mean TELLTALE_DATABASE_URL"):
        settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TELLTALE_BATCH_SIZE", "0"),
        ("TELLTALE_BATCH_SIZE", "many"),
        ("TELLTALE_CASE_LEASE_S", "-1"),
        ("TELLTALE_CASE_ATTEMPTS", "0"),
        ("TELLTALE_WORKER_ROLE", "gpu"),
        ("TELLTALE_LOG_LEVEL", "LOUD"),
        ("TELLTALE_MAX_METADATA_BYTES", "8193"),
        ("TELLTALE_RETRAIN_HOUR", "24"),
        ("TELLTALE_RETRAIN_TIMEZONE", "Mars/Olympus"),
        ("TELLTALE_RETRAIN_REPLAY_SHARE", "1"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        settings()


def test_hosts_are_a_json_list_and_none_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().allowed_hosts == ()
    settings.cache_clear()
    monkeypatch.setenv("TELLTALE_ALLOWED_HOSTS", '["127.0.0.1:8001", "127.0.0.1:8002"]')
    assert settings().allowed_hosts == ("127.0.0.1:8001", "127.0.0.1:8002")


def test_settings_are_read_once_and_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings()
    monkeypatch.setenv("TELLTALE_BATCH_SIZE", "77")
    assert settings() is first
    with pytest.raises(ValidationError):
        first.batch_size = 3  # type: ignore[misc]


def test_every_setting_can_be_given_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLTALE_CASE_LEASE_S", "12.5")
    monkeypatch.setenv("TELLTALE_WORKER_ROLE", "delivery")
    assert (settings().case_lease_s, settings().worker_role) == (12.5, "delivery")
    assert Settings.model_config["env_prefix"] == "TELLTALE_"


def test_retraining_every_night_can_be_put_off_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLTALE_RETRAIN_HOUR", "never")
    monkeypatch.setenv("TELLTALE_RETRAIN_TIMEZONE", "Europe/Berlin")
    assert settings().retrain_hour is None
    assert settings().retrain_timezone.key == "Europe/Berlin"


def test_files_of_a_folder_stand_behind_variables_and_an_empty_one_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TELLTALE_DATABASE_URL", "TELLTALE_SECRET_KEYS"):
        monkeypatch.delenv(name)
    (tmp_path / "telltale_database_url").write_text("postgresql+psycopg://of-a-file\n")
    (tmp_path / "telltale_redis_url").write_text("redis://of-a-file")
    (tmp_path / "telltale_secret_keys").write_text(f"{base64.b64encode(bytes(32)).decode()}\n")
    (tmp_path / "telltale_smtp_url").write_text("")
    monkeypatch.setenv("TELLTALE_REDIS_URL", "redis://of-a-variable")
    monkeypatch.setenv("TELLTALE_SECRETS_DIR", str(tmp_path))
    read = settings()
    assert (read.database_url, read.redis_url) == ("postgresql+psycopg://of-a-file", "redis://of-a-variable")
    assert (read.secret_keys, read.smtp_url) == ((bytes(32),), None)


@pytest.mark.parametrize("there", [False, True], ids=["nothing", "a file"])
def test_a_folder_of_secrets_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    if there:
        (tmp_path / "secrets").write_text("")
    monkeypatch.setenv("TELLTALE_SECRETS_DIR", str(tmp_path / "secrets"))
    with pytest.raises(ConfigurationError, match="TELLTALE_SECRETS_DIR: Path does not point to a directory"):
        settings()


def test_a_stack_whose_services_are_outside_is_told_so_by_files_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TELLTALE_DATABASE_URL")
    (tmp_path / "telltale_database_url").write_text("postgresql+psycopg://of-a-file")
    monkeypatch.setenv("TELLTALE_SECRETS_DIR", str(tmp_path))
    assert Outside().database_url == "postgresql+psycopg://of-a-file"
