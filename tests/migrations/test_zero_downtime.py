"""An upgrade stops nobody: processes of the version before go on working on the schema of the next."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

import migrations
from moderation import logs, schema
from moderation.errors import ConfigurationError
from tests.migrations.older import Older
from tests.migrations.test_migrations import RELEASED, empty, url_of
from workers import celery_app, relay
from workers.retraining import __main__ as retraining

__all__ = ["empty"]

REVISIONS = sorted(migrations.revisions())
# What takes something away that code of before uses.
TAKES = re.compile(
    r"\b(?:DROP (?:TABLE|COLUMN|CONSTRAINT|VIEW|TYPE|DEFAULT)|RENAME|SET NOT NULL"
    r"|ALTER (?:COLUMN )?\w+ (?:SET DATA )?TYPE)\b"
)
# What asks for something that code of before does not give.
ASKS = re.compile(r"\bADD COLUMN (?:IF NOT EXISTS )?\w+ (?:(?!\bADD COLUMN\b|\bDEFAULT\b).)*\bNOT NULL(?!\s+DEFAULT)\b")
# Migrations that may, and the release since which no Telltale uses what they take away (docs/upgrades.md).
CONTRACTED: dict[str, str] = {}


def contracting(statements: str) -> list[str]:
    """Those that processes of the version before may not survive."""
    said = (" ".join(one.split()) for one in re.sub(r"--.*", "", statements).split(";"))
    return [one for one in said if TAKES.search(one) or ("DEFAULT" not in one and ASKS.search(one))]


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_migration_only_adds(revision: str) -> None:
    script = ScriptDirectory(str(migrations.FOLDER)).get_revision(revision)
    configuration = migrations.config("postgresql://")
    configuration.output_buffer = io.StringIO()
    command.upgrade(configuration, f"{script.down_revision or 'base'}:{revision}", sql=True)
    found = contracting(configuration.output_buffer.getvalue())
    assert bool(found) == (revision in CONTRACTED), f"docs/upgrades.md says how to take something away: {found}"


@pytest.mark.parametrize(
    ("statement", "contracts"),
    [
        ("ALTER TABLE cases DROP COLUMN score", True),
        ("DROP TABLE claims", True),
        ("ALTER TABLE cases RENAME TO matters", True),
        ("ALTER TABLE cases RENAME COLUMN score TO p_fake", True),
        ("ALTER TABLE cases ALTER COLUMN score SET NOT NULL", True),
        ("ALTER TABLE cases ALTER COLUMN score TYPE text", True),
        ("ALTER TABLE cases ALTER COLUMN priority DROP DEFAULT", True),
        ("ALTER TABLE cases ADD COLUMN more text NOT NULL", True),
        ("ALTER TABLE cases ADD COLUMN more text DEFAULT '' NOT NULL", False),
        ("ALTER TABLE cases ADD COLUMN more text", False),
        ("CREATE TABLE more (id uuid NOT NULL)", False),
        ("DROP INDEX CONCURRENTLY IF EXISTS ix_cases_more", False),
    ],
)
def test_what_takes_something_away_is_found(statement: str, contracts: bool) -> None:
    assert bool(contracting(f"BEGIN;\n{statement};\nCOMMIT;")) == contracts


@pytest.mark.parametrize("revision", [RELEASED, REVISIONS[-2]])
def test_a_telltale_of_before_goes_on_working_on_the_newest_schema(empty: Engine, revision: str) -> None:
    migrations.upgrade(url_of(empty), revision)
    with empty.connect() as connection:
        older = Older.as_of(connection)
    migrations.upgrade(url_of(empty))
    with empty.connect() as connection:
        assert list(older.at_work(connection)) == []
        connection.rollback()


BREAKING = {
    "ALTER TABLE uploads DROP COLUMN expires_at": 'insert uploads: column "expires_at"',
    "ALTER TABLE images ADD COLUMN more text NOT NULL DEFAULT ''; ALTER TABLE images "
    "ALTER COLUMN more DROP DEFAULT": 'insert images: null value in column "more"',
    "ALTER TABLE claims RENAME TO holds": 'insert claims: relation "claims" does not exist',
    "ALTER TABLE reviews ADD CHECK (note <> note)": "insert reviews: new row",
    "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'; "
    "CREATE TRIGGER no BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION no()": "update users: no",
}


@pytest.fixture(scope="module")
def newest(engine: Engine) -> Older:
    """The Telltale of today."""
    with engine.connect() as connection:
        return Older.as_of(connection)


@pytest.mark.parametrize("change", BREAKING)
def test_what_would_stop_it_is_found(engine: Engine, newest: Older, change: str) -> None:
    with engine.connect() as connection:
        connection.execute(text(change))
        assert any(BREAKING[change] in said for said in newest.at_work(connection))
        connection.rollback()


def test_code_knows_the_newest_migration_and_refuses_an_older_schema_only(
    db: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REVISIONS[-1] == schema.NEEDED, "say in moderation/schema.py what this code needs"
    schema.check()
    monkeypatch.setattr(schema, "NEEDED", "0001")  # the schema is newer than the code
    schema.check()
    monkeypatch.setattr(schema, "NEEDED", "9999")
    with pytest.raises(ConfigurationError, match=rf"has the schema {REVISIONS[-1]}, and .* `telltale migrate`"):
        schema.check()


@pytest.mark.parametrize(
    "start",
    [celery_app._refuse_an_unfit_database, relay.main, lambda: retraining.main([])],
    ids=["Celery", "relay", "retraining"],
)
def test_a_worker_does_not_start_on_an_older_schema(
    db: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, start: Callable[[], None]
) -> None:
    monkeypatch.setattr(schema, "NEEDED", "9999")
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # caplog's stays
    with pytest.raises(SystemExit):
        start()
    assert "run `telltale migrate`" in caplog.text
