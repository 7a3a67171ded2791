"""Everything a deployment can set, read once per process from TELLTALE_* variables, or files, into one frozen object.

It knows no defaults for addresses: `telltale up` sets them for the embedded services, a deployment sets its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from difflib import get_close_matches
from email.utils import parseaddr
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, DirectoryPath, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from moderation.errors import ConfigurationError

MEBIBYTE = 1024 * 1024
SECRET_KEY_BYTES = 32
HOW_TO_MAKE_A_KEY = "Make a key with `openssl rand -base64 32`"
PREFIX = "TELLTALE_"
# Read by options of the `telltale` command, and no setting of a deployment.
OF_COMMANDS = frozenset({"data", "api_key"})
INCOMPLETE = (
    "The settings are incomplete. On one machine, start `telltale up` in another terminal (--data names its folder); "
    "a deployment sets these itself:"
)
MISSING = "missing"  # pydantic's word
WRONG = "These settings cannot be used:"


def _secret_keys(text: object) -> object:
    """Keys as they stand in a variable or a file: base64, with commas, spaces or line ends between them."""
    return tuple(_secret_key(word) for word in re.split(r"[\s,]+", text) if word) if isinstance(text, str) else text


def _secret_key(word: str) -> bytes:
    try:
        key = base64.b64decode(word, validate=True)
    except ValueError:
        key = b""
    if len(key) != SECRET_KEY_BYTES:
        raise ValueError(f"each key is the base64 of {SECRET_KEY_BYTES} random bytes. {HOW_TO_MAKE_A_KEY}")
    return key


class _Files(SecretsSettingsSource):
    """Settings in files, a file each; one that is empty is as if it were not there."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        return value or None, key, is_complex


class FromEnvironment(BaseSettings):
    """What is read from TELLTALE_* variables and, behind them, from the files of a folder of secrets."""

    # What holds a password or a key is kept out of repr(), and out of what is said of a wrong value.
    model_config = SettingsConfigDict(
        env_prefix="TELLTALE_", frozen=True, extra="ignore", env_parse_none_str="never", hide_input_in_errors=True
    )

    secrets_dir: DirectoryPath | None = Field(
        default=None,
        description="a folder with a file for each setting that is to stand in no variable, named as the variable in "
        "small letters (telltale_database_url); a variable wins, and an empty file says nothing",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, variables, and files where a variable names their folder; one that is none is refused later."""
        folder = env_settings().get("secrets_dir")
        there = folder is not None and Path(folder).is_dir()
        return init_settings, env_settings, _Files(settings_cls, secrets_dir=folder if there else None)


class Settings(FromEnvironment):
    """One deployment's settings; every field is the variable TELLTALE_<FIELD> in capitals."""

    # Where the three services are.
    database_url: str = Field(repr=False, description="postgresql+psycopg://user:password@host/database")
    redis_url: str = Field(repr=False, description="redis://host:port/0")
    s3_endpoint_url: str | None = Field(default=None, description="unset: AWS's own")
    s3_public_url: str | None = Field(
        default=None, description="the store as browsers and platforms reach it; presigned links bind this host"
    )
    s3_bucket: str = "telltale"
    s3_region: str = "us-east-1"
    s3_access_key: str | None = Field(default=None, description="unset: boto3's own search (role, profile)")
    s3_secret_key: str | None = Field(default=None, repr=False)

    secret_keys: Annotated[tuple[bytes, ...], NoDecode, BeforeValidator(_secret_keys)] = Field(
        default=(),
        repr=False,
        description="what the secrets of endpoints and sources are encrypted with in the database: base64 of 32 bytes, "
        "several with commas between them; the first encrypts, all decrypt. For the api, the workers that fetch links "
        "and deliver webhooks, and the commands; no other process needs it (docs/secrets.md)",
    )

    # What is judged, and by what.
    model: str | None = Field(
        default=None,
        description="what `telltale up` makes champion: a checkpoint folder, a hub id such as lingcco/fakeVLM@COMMIT, "
        "or `demo`; unset: the champion there is, or demo where there is none",
    )
    vllm_url: str | None = Field(
        default=None,
        min_length=1,
        description="the vLLM server that runs the champion (infra/vllm/README.md), such as http://vllm:8000; unset: "
        "every screening worker loads the weights itself",
    )
    batch_size: int = Field(default=8, ge=1, description="images in one GPU batch")
    compiled_batch: int = Field(
        default=0,
        ge=0,
        description="on a GPU: batches of up to so many images are explained by a compiled step; 0: none is compiled",
    )
    batch_wait_ms: int = Field(default=10, ge=0, description="how long a batch waits to fill")
    screening_threads: int = Field(default=16, ge=1, description="cases one worker has in flight")
    gpu_timeout_s: float = Field(default=300, gt=0, description="a batch that takes longer ends the worker")

    # Limits on what comes in.
    max_image_bytes: int = Field(default=32 * MEBIBYTE, ge=1)
    max_upload_bytes: int = Field(default=128 * MEBIBYTE, ge=1, description="through a presigned POST")
    max_image_pixels: int = Field(default=100_000_000, ge=1)
    max_metadata_bytes: int = Field(default=8192, ge=0, le=8192, description="events repeat it, under 20 kB")
    max_waiting_cases: int = Field(default=100_000, ge=1, description="per tenant; above it 429")
    max_waiting_in_all: int = Field(default=300_000, ge=1, description="of all tenants together; above it 429")
    decode_memory_bytes: int = Field(default=2048 * MEBIBYTE, ge=64 * MEBIBYTE)
    decode_timeout_s: float = Field(default=20, gt=0)
    decode_processes: int = Field(default=2, ge=1)
    api_threads: int = Field(default=16, ge=1, description="threads of one api process; a quarter may long-poll")

    # Leases, attempts, dispatch.
    case_lease_s: float = Field(default=30, gt=0, description="renewed while the worker lives")
    case_attempts: int = Field(default=3, ge=1)
    dispatch_window: int = Field(default=24, ge=1, description="cases offered to the broker and not yet taken")
    offer_lease_s: float = Field(default=15, gt=0, description="an offer nobody took is made again after this")
    relay_interval_ms: int = Field(default=200, ge=1, description="it looks this often also where no bell has rung")

    # Addresses that people give us.
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description='JSON list of "host:port" that may be private and on any port; empty in production'
    )
    fetch_timeout_s: float = Field(default=20, gt=0)
    fetch_redirects: int = Field(default=3, ge=0)
    delivery_timeout_s: float = Field(default=15, gt=0)
    deliveries_per_endpoint: int = Field(default=4, ge=1, description="in flight at once")
    delivery_threads: int = Field(default=16, ge=1, description="of a delivery worker, and of a fetching worker")

    # Mail to the people who must be told something; what they are told is on the dashboard in any case.
    smtp_url: str | None = Field(
        default=None,
        repr=False,
        pattern=r"^smtps?://[^/?#]+$",
        description="smtp://user:password@host:587, encrypted where the server offers STARTTLS, or smtps://…:465; "
        "special characters as in any URL (%40 is @); unset: nothing is mailed",
    )
    mail_from: str | None = Field(
        default=None, validate_default=True, description='whom mail is from, such as "Telltale <telltale@example.com>"'
    )

    # Retraining, every night or when asked.
    retrain_hour: int | None = Field(
        default=2, ge=0, le=23, description="at which hour beat asks for a run every night; `never`: it does not"
    )
    retrain_timezone: ZoneInfo = Field(default=ZoneInfo("UTC"), description="whose hour it is, such as Europe/Berlin")
    retrain_min_reviews: int = Field(default=50, ge=1, description="new reviewed images without which a run is skipped")
    retrain_holdout_share: float = Field(
        default=0.2, gt=0, lt=1, description="of new images: measured on, never trained on"
    )
    retrain_replay_share: float = Field(default=0.67, ge=0, lt=1, description="of what is trained on: earlier images")
    retrain_passes: int = Field(default=4, ge=1, description="how often a run shows each new image")
    retrain_burst_s: float = Field(
        default=2, ge=0, description="images one tenant sends within so many seconds stay on one side of the split"
    )
    retrain_replay_set: Path | None = Field(
        default=None, description="FakeClue-format records to repeat against forgetting, beside earlier reviews"
    )
    retrain_old_set: Path | None = Field(
        default=None, description="FakeClue-format records never trained on: nothing may get worse on them"
    )
    retrain_recipe: Path | None = Field(
        default=None, description="YAML of finetuning settings (docs/finetune.md) but base, data, output and name"
    )
    retrain_accelerate: str = Field(default="single", description="as of `telltale finetune --accelerate`")
    retrain_folder: Path = Field(default=Path("retraining"), description="where runs keep their images and adapters")
    retrain_lease_s: float = Field(default=120, gt=0, description="renewed while the retraining worker lives")

    worker_role: Literal["screening", "fetching", "delivery"] | None = Field(
        default=None, description="which tasks this worker process runs; only screening loads torch"
    )
    public_url: str = Field(default="http://127.0.0.1:8000", description="the api as platforms reach it")
    trusted_proxies: int = Field(
        default=0, ge=0, description="reverse proxies before the api, each of which appends to X-Forwarded-For"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = Field(
        default="json",
        description="`json`: an object a line (docs/logs.md); `text`: for people, as under `telltale up`",
    )
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="where this process serves Prometheus /metrics; unset: it does not"
    )
    metrics_host: str | None = Field(
        default=None,
        min_length=1,
        description="the address that metrics are served on, such as 127.0.0.1; unset: all",
    )

    @field_validator("smtp_url")
    @classmethod
    def _names_a_server(cls, url: str | None) -> str | None:
        """The port, too, is read here: one that is none raises ValueError."""
        if url is not None and (urlsplit(url).hostname is None or urlsplit(url).port == 0):
            raise ValueError("it names no mail server; smtp://user:password@host:587 does")
        return url

    @field_validator("mail_from")
    @classmethod
    def _is_from_somebody(cls, sender: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("smtp_url") and "@" not in parseaddr(sender or "")[1]:
            raise ValueError("mail needs an address that it is from, where TELLTALE_SMTP_URL is set")
        return sender


@cache
def settings() -> Settings:
    """The process's settings.

    Raises ConfigurationError that names every missing or wrong variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        found = error.errors()
        head = INCOMPLETE if any(each["type"] == MISSING for each in found) else WRONG
        lines = [*(f"{_variable(str(each['loc'][0]))}: {_said(each)}" for each in found), *unread_variables()]
        raise ConfigurationError("\n  ".join([head, *lines])) from None


def unread_variables() -> list[str]:
    """A sentence for each TELLTALE_* variable, or file beside them, that nobody reads: most are misspelt.

    They are no error: while a deployment is upgraded, one program's setting may be unknown to another.
    """
    known = {*Settings.model_fields, *OF_COMMANDS}
    return [_unread(name, known) for name in sorted(set(_given()) - known)]


def _given() -> Iterator[str]:
    """The names that somebody set, without the prefix and in small letters."""
    # It has read the environment once more, and all of it in small letters.
    variables = EnvSettingsSource(Settings).env_vars
    folder = Path(variables.get(f"{PREFIX}secrets_dir".lower()) or "")
    files = [file.name.lower() for file in folder.iterdir()] if folder.name and folder.is_dir() else []
    return (name.removeprefix(PREFIX.lower()) for name in [*variables, *files] if name.startswith(PREFIX.lower()))


def _unread(name: str, known: set[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f"{_variable(name)} is no setting" + (f"; did you mean {_variable(close[0])}?" if close else ".")


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _said(error: ErrorDetails) -> str:
    return "it is not set" if error["type"] == MISSING else error["msg"].removeprefix("Value error, ")
