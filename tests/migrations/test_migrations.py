"""Migrations: up, down and up again on a real server, the same schema as moderation.tables, and one head."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, select, text
from sqlalchemy.exc import DBAPIError

import migrations
from moderation import events
from moderation.db import transaction
from moderation.tables import Event, Row
from moderation.vocabulary import EventType
from tests.conftest import ServiceRun
from tests.factories import make_case, make_tenant

NAME = "telltale_migrations"


@pytest.fixture
def empty(services: ServiceRun, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An empty database, away from the one that the other tests of this process use."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = f"{NAME}_{worker}"
    services.postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    services.postgres.execute(f"CREATE DATABASE {name}")
    made = create_engine(services.postgres.database_url(name))
    yield made
    made.dispose()
    services.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def leftovers(engine: Engine) -> list[str]:
    """Everything of ours that the schema holds: tables, indexes, functions, sequences, types."""
    query = """
        SELECT 'relation ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
    """
    with engine.connect() as connection:
        return sorted(name for name in connection.scalars(text(query)) if "alembic_version" not in name)


def test_up_down_and_up_again(empty: Engine) -> None:
    migrations.upgrade(url_of(empty))
    first = leftovers(empty)
    assert set(inspect(empty).get_table_names()) == {*Row.metadata.tables, "alembic_version"}
    migrations.downgrade(url_of(empty), "base")
    assert leftovers(empty) == []
    migrations.upgrade(url_of(empty))
    assert leftovers(empty) == first


def test_migrating_twice_changes_nothing(empty: Engine) -> None:
    for _ in range(2):
        migrations.upgrade(url_of(empty))
    assert "cases" in inspect(empty).get_table_names()


def test_two_processes_that_migrate_at_once_do_not_meet(empty: Engine) -> None:
    migrate = [sys.executable, "-c", f"import migrations; migrations.upgrade({url_of(empty)!r})"]
    with ExitStack() as both:
        at_once = [both.enter_context(subprocess.Popen(migrate, cwd=migrations.FOLDER.parent)) for _ in range(2)]
    assert [process.returncode for process in at_once] == [0, 0]
    assert "cases" in inspect(empty).get_table_names()


NUMBER = 11_000  # more than two batches
RELEASED = "0003"
# What it left: cases decided by the policy and by people, and in review, one of which has no score.
PAST = f"""
SET LOCAL session_replication_role = replica;
CREATE TEMPORARY TABLE past ON COMMIT DROP AS
SELECT n, uuidv7() AS case_id, uuidv7() AS verdict_id, (ARRAY['policy', 'moderator', NULL])[1 + mod(n, 3)] AS by,
       CASE mod(n, 2) WHEN 0 THEN 'fake' ELSE 'real' END AS label,
       CASE n WHEN 2 THEN 'NaN' ELSE n::float8 / 100000 END AS p_fake
FROM generate_series(1, {NUMBER}) AS n;
INSERT INTO model_versions (id, name, checkpoint, digest, manifest, stage)
VALUES ('00000000-0000-7000-8000-000000000001', 'champion', '/nowhere', '0', '{{}}', 'champion');
INSERT INTO verdicts (id, image_id, model_version_id, label, p_fake, logit, pair_mass, engine, dtype)
SELECT verdict_id, uuidv7(), '00000000-0000-7000-8000-000000000001', label, p_fake, 0, 1, 'transformers', 'float32'
FROM past;
INSERT INTO cases (id, tenant_id, submission_id, verdict_id, status, priority, label, decided_by, settled_at)
SELECT case_id, uuidv7(), uuidv7(), verdict_id, CASE WHEN by IS NULL THEN 'in_review' ELSE 'decided' END, 1,
       CASE WHEN by IS NOT NULL THEN label END, by, now()
FROM past
"""
# Which transactions wrote cases, and whether nobody could read any meanwhile.
WATCHED = """
CREATE TABLE writing (number xid8, alone boolean);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO writing SELECT pg_current_xact_id(), EXISTS (
        SELECT FROM pg_locks
        WHERE pid = pg_backend_pid() AND relation = 'cases'::regclass AND mode = 'AccessExclusiveLock'
    );
    RETURN NULL;
END
$$;
CREATE TRIGGER watch AFTER UPDATE ON cases FOR EACH STATEMENT EXECUTE FUNCTION watch()
"""
STOPPED = f"""
CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'stopped'; END $$;
CREATE TRIGGER stop BEFORE UPDATE ON cases FOR EACH ROW WHEN (OLD.sequence = {NUMBER}) EXECUTE FUNCTION stop();
UPDATE cases SET sequence = {NUMBER} WHERE id = (SELECT id FROM cases ORDER BY id DESC LIMIT 1)
"""


def filled(engine: Engine) -> list[tuple[object, ...]]:
    """How many cases have what by now, by who decided them."""
    query = """
        SELECT decided_by, count(*), count(cases.model_version_id), count(score), count(policy_label),
               count(*) FILTER (WHERE score = p_fake), count(*) FILTER (WHERE policy_label = cases.label)
        FROM cases JOIN verdicts ON verdicts.id = verdict_id GROUP BY 1 ORDER BY 1
    """
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


FILLED = [
    ("moderator", 3667, 3667, 3667, 0, 3667, 0),
    ("policy", 3666, 3666, 3666, 3666, 3666, 3666),
    (None, 3667, 3667, 3666, 0, 3666, 0),
]


@pytest.fixture
def past(empty: Engine) -> Engine:
    """A database of the last release that has cases in it."""
    migrations.upgrade(url_of(empty), RELEASED)
    with empty.begin() as connection:
        connection.exec_driver_sql(PAST)
    return empty


def test_cases_of_before_are_filled_in_while_others_read_them(past: Engine) -> None:
    with past.begin() as connection:
        connection.exec_driver_sql(WATCHED)
    migrations.upgrade(url_of(past))
    assert filled(past) == FILLED
    with past.connect() as connection:
        written = connection.execute(text("SELECT count(DISTINCT number), bool_or(alone) FROM writing")).one()
    assert tuple(written) == (3, False), "in batches, and nobody was kept from reading"


def test_filling_in_that_was_stopped_goes_on(past: Engine) -> None:
    with past.begin() as connection:
        connection.exec_driver_sql(STOPPED)
    with pytest.raises(DBAPIError, match="stopped"):
        migrations.upgrade(url_of(past))
    half = sum(int(str(row[2])) for row in filled(past))
    assert 0 < half < NUMBER, "what was written before stays written"
    with past.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER stop ON cases")
    migrations.upgrade(url_of(past))
    assert filled(past) == FILLED


def test_an_api_of_before_goes_on_answering(past: Engine) -> None:
    """It runs on until it is replaced, and knows nothing of why a case is reviewed."""
    migrations.upgrade(url_of(past))
    with past.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(
            "INSERT INTO reviews (id, tenant_id, case_id, claim_id, user_id, answer, artifacts, blind, due_at) "
            "SELECT uuidv7(), tenant_id, id, uuidv7(), uuidv7(), 'fake', '{}', false, now() FROM cases LIMIT 1"
        )
        assert connection.scalar(text("SELECT reason FROM reviews")) == "uncertain"


# What taking in an uploaded image, and ending a case, hold until their commit, in their order; they begin anew at once.
AT_WORK = (
    "UPDATE images SET bytes = bytes; SELECT count(*) FROM tenants; UPDATE cases SET priority = priority; "
    "UPDATE uploads SET s3_key = s3_key",
    "UPDATE cases SET priority = priority; SELECT count(*) FROM tenants; UPDATE images SET bytes = bytes",
)


@contextmanager
def at_work(engine: Engine) -> Iterator[list[str]]:
    """The service as it runs on during an upgrade, and what went wrong with it, when it has come to its end."""
    over, failed = threading.Event(), list[str]()

    def work(statements: str) -> None:
        while not over.is_set():
            try:
                with engine.begin() as connection:
                    for statement in statements.split("; "):
                        connection.exec_driver_sql(statement)
            except DBAPIError as error:
                failed.append(str(error.orig))

    threads = [threading.Thread(target=work, args=(statements,)) for statements in AT_WORK for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_retention_comes_and_goes_while_the_service_runs(empty: Engine) -> None:
    migrations.upgrade(url_of(empty), "0009")
    with at_work(empty) as failed:
        for _ in range(3):
            migrations.upgrade(url_of(empty), "0010")
            migrations.downgrade(url_of(empty), "0009")
    assert failed == []


def test_retention_that_was_stopped_after_any_table_goes_on_both_ways(empty: Engine) -> None:
    """Everything again on top of everything is what running it again after any part of it comes to."""
    migrations.upgrade(url_of(empty), "0009")
    before = definitions(empty)
    migrations.upgrade(url_of(empty), "0010")
    after = definitions(empty)
    as_if(empty, "0009")
    migrations.upgrade(url_of(empty), "0010")
    assert definitions(empty) == after
    migrations.downgrade(url_of(empty), "0009")
    as_if(empty, "0010")
    migrations.downgrade(url_of(empty), "0009")
    assert definitions(empty) == before


def as_if(engine: Engine, revision: str) -> None:
    """Let Alembic believe that only this revision was reached."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_subjects_of_before_however_long_do_not_stop_the_upgrade(empty: Engine) -> None:
    migrations.upgrade(url_of(empty), "0009")
    with empty.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        # Of digests, for what repeats is compressed and fits.
        connection.exec_driver_sql(
            "INSERT INTO submissions (id, tenant_id, metadata, request_id) "
            "SELECT uuidv7(), uuidv7(), jsonb_build_object('subject', string_agg(md5(n::text), '')), 'r' "
            "FROM generate_series(1, 200) AS n"
        )
    migrations.upgrade(url_of(empty), "0010")
    assert "relation ix_submissions_subject" in leftovers(empty)


def test_the_migrated_schema_is_that_of_the_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []


def test_partial_indexes_and_checks_are_those_of_the_tables(empty: Engine, engine: Engine) -> None:
    """What autogenerate does not compare: conditions, expressions, order and checks."""
    Row.metadata.create_all(empty)
    assert definitions(engine) == definitions(empty)


def definitions(engine: Engine) -> set[str]:
    query = """
        SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        UNION ALL
        SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
        UNION ALL
        SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' '
               || coalesce(column_default, 'no default')
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
    """
    with engine.connect() as connection:
        return set(connection.scalars(text(query)))


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory(str(migrations.FOLDER)).get_heads()) == 1


def test_revisions_import_no_live_code() -> None:
    for file in (migrations.FOLDER / "versions").glob("*.py"):
        assert "moderation" not in file.read_text(), file.name


@pytest.mark.parametrize(
    "statement",
    ["UPDATE events SET actor = 'somebody else'", "DELETE FROM events", "TRUNCATE events CASCADE"],
)
def test_the_audit_trail_only_grows(db: Engine, statement: str) -> None:
    with transaction() as session:
        make_case(session, make_tenant(session))
    with pytest.raises(DBAPIError, match="the table events is append only"), transaction() as session:
        session.execute(text(statement))
    with transaction() as session:
        events.record(session, EventType.CASE_RETRIED, tenant_id=None, actor="later")
    with transaction() as session:
        assert session.scalars(select(Event.actor).order_by(Event.id)).all() == ["operator", "test", "later"]
