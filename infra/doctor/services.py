"""Looks at what others run for Telltale: Postgres, Redis, the object store, a mail server; and at clocks and keys."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from alembic.script import ScriptDirectory
from redis import Redis
from sqlalchemy import text

import migrations
from infra.doctor.answers import TIMEOUT_S, asked
from infra.doctor.finding import Finding, broken, doubtful, unknown, unused, well
from moderation import keyring, mail, storage
from moderation.db import glance, new_id, transaction
from moderation.schema import is_half_restored
from moderation.settings import Settings
from moderation.storage import Storage

# Of the last two major versions Telltale needs the later: it makes ids with uuidv7().
POSTGRES = 18
PROBE = b"telltale doctor was here"
# Webhooks' signatures hold for five minutes, links and requests to S3 for fifteen.
SKEW_SEEN_S, SKEW_BROKEN_S = 5.0, 60.0
SECRETS_OPENED = 100
ROOM_BYTES = 5 * 1024**3


def postgres(rules: Settings) -> Finding:
    """Whether it answers, and is new enough."""
    with glance() as session:
        number = int(session.execute(text("SHOW server_version_num")).scalar_one())
    version = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number // 10_000 < POSTGRES:
        return broken(f"{version} is too old.", f"Upgrade the server to PostgreSQL {POSTGRES} or later.")
    return well(f"{version} answers.")


def schema(rules: Settings) -> Finding:
    """Whether every migration has been run, none that this program does not know, and no restore was broken off."""
    script = ScriptDirectory.from_config(migrations.config(rules.database_url))
    known = [revision.revision for revision in script.walk_revisions()]
    with glance() as session:
        if is_half_restored(session):
            return broken("A restore was begun, and is not finished.", "Run `telltale restore` again: it goes on.")
        if session.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is None:
            return broken("The database is empty.")
        current = session.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    if current not in known:
        newer = f"The schema is at {current}, of a newer Telltale than this program ({known[0]})."
        return doubtful(newer, "Update this program; while a deployment is being upgraded that is to be expected.")
    missing = [f"{each} ({_titled(script, each)})" for each in reversed(known[: known.index(current)])]
    return broken(f"Not run yet: {', '.join(missing)}.") if missing else well(f"At {current}, the newest.")


def _titled(script: ScriptDirectory, revision: str) -> str:
    return Path(script.get_revision(revision).path).stem.partition("_")[2].replace("_", " ")


def keys(rules: Settings) -> Finding:
    """Whether there is a key for every stored secret, and the newest of them open."""
    with transaction() as session:
        keyring.check(session)
        stored = sum(keyring.use(session).values())
        opened = keyring.open_some(session, SECRETS_OPENED)
    few = "" if opened == stored else f", of which the newest {opened} were opened"
    return well(f"{len(rules.secret_keys)} in TELLTALE_SECRET_KEYS, for {stored} stored secrets{few}.")


def redis(rules: Settings) -> Finding:
    """Whether it answers."""
    waits = {"socket_connect_timeout": TIMEOUT_S, "socket_timeout": TIMEOUT_S}
    with Redis.from_url(rules.redis_url, **waits) as client:
        said = client.info("server")
    kind = "Valkey" if "valkey_version" in said else "Redis"
    return well(f"{kind} {said.get('valkey_version') or said['redis_version']} answers.")


def object_store(rules: Settings) -> Finding:
    """Whether the bucket is there, and an object can be put into it, read, and deleted for good."""
    store, key = Storage(rules), storage.probe_key(new_id())
    store.ping()
    store.put(key, PROBE, "text/plain")
    same, kept = store.get(key, max_bytes=len(PROBE)) == PROBE, store.head(key).kept
    store.delete(key)
    if not same:
        return broken(f"What was put into the bucket '{rules.s3_bucket}' came back otherwise.")
    if kept:
        return doubtful(
            f"The bucket '{rules.s3_bucket}' keeps versions: what is erased stays in it.",
            "Switch versioning off, or have its lifecycle delete versions that are not current (docs/privacy.md).",
        )
    return well(f"The bucket '{rules.s3_bucket}' takes, gives and deletes an object.")


def public_links(rules: Settings) -> Finding:
    """Whether a signed link leads to its object, at the address that browsers and platforms are given."""
    store, key = Storage(rules), storage.probe_key(new_id())
    store.put(key, PROBE, "text/plain")
    try:
        link = store.presigned_get(key, seconds=60)
        answer = asked(link)
    finally:
        store.delete(key)
    host = urlsplit(link).netloc
    if not answer.is_ok or answer.data != PROBE:
        return broken(
            f"A signed link at {host} is answered with status {answer.status}.",
            "TELLTALE_S3_PUBLIC_URL must lead to the same store, and a proxy before it must keep the Host header.",
        )
    return well(f"A signed link at {host} leads to its object.")


def clocks(rules: Settings) -> Finding:
    """How far this machine's clock is from those of Postgres and of the store."""
    with glance() as session:
        asked = time.time()
        theirs = float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
        apart = {"Postgres": theirs - (asked + time.time()) / 2}
    # The store says whole seconds.
    apart["the object store"] = (Storage(rules).clock() - datetime.now(UTC)).total_seconds() + 0.5
    name, most = max(apart.items(), key=lambda each: abs(each[1]))
    said = f"The clock of {name} is {abs(most):.0f} s {'ahead of' if most > 0 else 'behind'} this machine's."
    mend = "Have every machine set its clock by NTP: leases, signatures and links go by it."
    if abs(most) >= SKEW_BROKEN_S:
        return broken(said, mend)
    return doubtful(said, mend) if abs(most) >= SKEW_SEEN_S else well("All within a few seconds of one another.")


def mail_server(rules: Settings) -> Finding:
    """Whether it takes us for who we are. Nothing is sent."""
    if rules.smtp_url is None:
        return unused("TELLTALE_SMTP_URL is not set: notices are on the dashboard alone.")
    mail.greet(rules.model_copy(update={"delivery_timeout_s": TIMEOUT_S}))
    return well(f"{urlsplit(rules.smtp_url).hostname} takes mail from {rules.mail_from}.")


def retraining_folder(rules: Settings) -> Finding:
    """Whether there is room for a training run, where the folder is on this machine."""
    folder = rules.retrain_folder.resolve()
    # The first run makes it.
    disk = folder if folder.exists() else folder.parent
    if not disk.exists():
        return unknown(f"{folder} is not on this machine.")
    free = shutil.disk_usage(disk).free
    said = f"{free / 1024**3:.1f} GB are free for {folder}."
    if free < ROOM_BYTES:
        return doubtful(said, "Make room, or set TELLTALE_RETRAIN_FOLDER to a larger disk: a run needs some GB.")
    return well(said)
