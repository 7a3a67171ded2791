"""`telltale secrets` and the key that `telltale up` makes: what an operator sees and does when a key changes."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from infra.cli import telltale
from infra.local import kept_secret_keys
from moderation import endpoints, sealing
from moderation.db import transaction
from moderation.tables import Endpoint
from tests.factories import make_endpoint, make_tenant
from tests.moderation.test_sealing import key, with_keys
from workers.keys import refuse_without_keys

__all__ = ["with_keys"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(telltale, arguments)


@pytest.fixture
def endpoint(db: Engine, with_keys: Callable[[str], None]) -> Endpoint:
    """An endpoint whose secret is under the first key."""
    with_keys(key(1))
    with transaction() as session:
        return make_endpoint(session, make_tenant(session))


def test_changing_over_step_by_step(endpoint: Endpoint, with_keys: Callable[[str], None]) -> None:
    (secret,), (old,) = endpoints.secrets_of(endpoint), sealing.key_ids()
    with_keys(f"{key(2)},{key(1)}")
    new = sealing.key_ids()[0]

    def states() -> dict[str, tuple[int, str]]:
        rows = json.loads(run("secrets", "keys", "--json").stdout)
        return {row["key"]: (row["secrets"], row["state"]) for row in rows}

    assert states() == {new: (0, "encrypts"), old: (1, "decrypts")}
    assert json.loads(run("secrets", "rotate", "--json").stdout) == {"key": new, "encrypted anew": 1}
    assert states() == {new: (1, "encrypts"), old: (0, "decrypts")}
    with_keys(key(2))
    with transaction() as session:
        assert endpoints.secrets_of(session.get_one(Endpoint, endpoint.id)) == [secret]


def test_the_wrong_key_is_said_everywhere_and_nothing_starts(
    endpoint: Endpoint, with_keys: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    (old,) = sealing.key_ids()
    with_keys(key(2))
    told = f"encrypted with the key {old}, which TELLTALE_SECRET_KEYS does not hold"
    for command in (["secrets", "rotate"], ["migrate"]):
        result = run(*command)
        assert result.exit_code == 1 and told in " ".join(result.output.split())
    with pytest.raises(SystemExit):
        refuse_without_keys()
    assert told in caplog.text
    with_keys(key(1))
    refuse_without_keys()


def test_without_a_key_nothing_is_migrated(endpoint: Endpoint, with_keys: Callable[[str], None]) -> None:
    with_keys("")
    result = run("migrate")
    assert result.exit_code == 1 and "openssl rand -base64 32" in result.output


def test_migrating_encrypts_what_an_older_telltale_left(endpoint: Endpoint) -> None:
    with transaction() as session:
        session.execute(text("UPDATE endpoints SET secrets = ARRAY['whsec_b2xk']"))
    assert "none: plain text" in run("secrets", "keys").output
    for _ in range(2):
        result = run("migrate")
        assert result.exit_code == 0, result.output
    with transaction() as session:
        stored = session.get_one(Endpoint, endpoint.id)
    assert endpoints.secrets_of(stored) == ["whsec_b2xk"] and "whsec" not in str(stored.secrets)


def test_up_makes_a_key_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret-keys"
    made = kept_secret_keys(file)
    assert len(base64.b64decode(made, validate=True)) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert kept_secret_keys(file) == made
    file.write_text(f"{key(2)}\n{made}\n")
    assert kept_secret_keys(file) == f"{key(2)},{made}"
    assert [found.name for found in tmp_path.iterdir()] == ["secret-keys"]
