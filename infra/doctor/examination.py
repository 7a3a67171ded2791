"""Every check, all at once and within a time limit, and what follows from one another's findings.

It knows the checks and how long they may take, and nothing of what they look at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from infra.doctor import champion, processes, services
from infra.doctor.answers import NobodyHere
from infra.doctor.finding import Check, Finding, State, broken, unknown
from infra.processes import QUEUES
from moderation.errors import TelltaleError
from moderation.settings import Settings

LIMIT_S = 4.0
_ITS_LOG = "its log says why it ended"


def checks(targets: Path) -> tuple[Check, ...]:
    """Every check, for one examination. `targets` says where the processes of a stack on this machine have numbers."""
    made = (*_OF_SERVICES, *_OF_MODEL, *_OF_PROCESSES, *_of_workers(), _of_metrics(targets))
    if targets.exists():
        return made
    return tuple(_from_elsewhere(check) if check.name in _AT_PUBLIC_ADDRESSES else check for check in made)


_OF_SERVICES = (
    Check("postgres", services.postgres, "Start PostgreSQL, or correct TELLTALE_DATABASE_URL."),
    Check("schema", services.schema, "Run `telltale migrate`.", ("postgres",)),
    Check(
        "secret keys",
        services.keys,
        "Put every key that stored secrets need into TELLTALE_SECRET_KEYS (docs/secrets.md).",
        ("postgres", "schema"),
    ),
    Check("redis", services.redis, "Start Redis or Valkey, or correct TELLTALE_REDIS_URL. No case is lost meanwhile."),
    Check(
        "object store",
        services.object_store,
        "Start the store, or correct TELLTALE_S3_ENDPOINT_URL, TELLTALE_S3_BUCKET and the keys beside them.",
    ),
    Check(
        "public links",
        services.public_links,
        "Open the store to browsers and platforms at TELLTALE_S3_PUBLIC_URL, or correct it.",
        ("object store",),
    ),
    Check("clocks", services.clocks, "Have every machine set its clock by NTP.", ("postgres", "object store")),
    Check("mail server", services.mail_server, "Correct TELLTALE_SMTP_URL and TELLTALE_MAIL_FROM, or unset them."),
    Check("retraining folder", services.retraining_folder, "Correct TELLTALE_RETRAIN_FOLDER."),
)
_OF_MODEL = (
    Check(
        "champion",
        champion.champion,
        "Register one, `telltale models register CHECKPOINT --promote`, or go back, `telltale models rollback`.",
        ("postgres", "schema", "object store"),
    ),
    Check(
        "vllm",
        champion.vllm,
        "Start the server (infra/vllm/README.md), or correct TELLTALE_VLLM_URL or unset it.",
        ("postgres", "schema"),
    ),
)
_OF_PROCESSES = (
    Check("api", processes.api, f"Start it ({_ITS_LOG}), or correct TELLTALE_PUBLIC_URL."),
    Check(
        "api readiness",
        processes.readiness,
        "Its log says why.",
        ("api", "postgres", "schema", "secret keys", "object store", "champion"),
    ),
    Check("relay", processes.relay, f"Start it anew, `python -m workers.relay`; {_ITS_LOG}.", ("postgres",)),
    Check("beat", processes.beat, f"Start it, `celery -A workers.celery_app beat`; {_ITS_LOG}.", ("redis",)),
    Check(
        "retraining",
        processes.retraining,
        f"Start its worker, `python -m workers.retraining`; {_ITS_LOG}.",
        ("postgres", "schema"),
    ),
)


_AT_PUBLIC_ADDRESSES = ("public links", "api", "api readiness")


def _from_elsewhere(check: Check) -> Check:
    """Without a stack on this machine: its public address may be that of a container's host, and nothing in here."""

    def look(rules: Settings) -> Finding:
        try:
            return check.look(rules)
        except NobodyHere as error:
            return unknown(f"{error.message} That is an address of each machine's own: look where it is meant for.")

    return replace(check, look=look)


def _of_workers() -> list[Check]:
    everybody = processes.Workers()
    how = "Start one, `TELLTALE_WORKER_ROLE={} celery -A workers.celery_app worker -P threads -Q {}`; {}."
    return [
        Check(_worker(role), everybody.of(queues), how.format(role, ",".join(queues), _ITS_LOG), ("redis",))
        for role, queues in QUEUES.items()
    ]


def _of_metrics(targets: Path) -> Check:
    """Whoever is named before is not named once more; and the relay's numbers are read from Postgres."""
    needs = ("postgres", *(check.name for check in _OF_PROCESSES), *map(_worker, QUEUES))
    return Check("metrics", processes.metrics(targets), f"Start it anew; {_ITS_LOG}.", needs)


def _worker(role: str) -> str:
    return f"{role} worker"


def examine(rules: Settings, checks: Sequence[Check], limit_s: float = LIMIT_S) -> dict[str, Finding]:
    """What each check finds, by its name and in this order; within the limit, whatever hangs."""
    found: dict[str, Finding] = {}

    def look(check: Check) -> None:
        found[check.name] = _found(check, rules)

    # Not a pool, whose threads would be waited for when the program ends.
    threads = [threading.Thread(target=look, args=[check], daemon=True, name=check.name) for check in checks]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = broken(f"No answer within {limit_s:g} s.")
    told = {check.name: _with_mend(check, found.get(check.name, silent)) for check in checks}
    return {check.name: _in_the_light_of(check, told) for check in checks}


def _found(check: Check, rules: Settings) -> Finding:
    try:
        return check.look(rules)
    except TelltaleError as error:
        return broken(error.message)
    except DBAPIError as error:
        return broken(_first_line(error.orig or error))
    # Whatever a look meets is what it has found.
    except Exception as error:  # noqa: BLE001
        return broken(_first_line(error))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _with_mend(check: Check, found: Finding) -> Finding:
    return replace(found, mend=found.mend or check.mend) if found.state is State.BROKEN else found


def _in_the_light_of(check: Check, found: Mapping[str, Finding]) -> Finding:
    """What is broken because something else is, is not known to be broken itself."""
    own = found[check.name]
    first = next((name for name in check.needs if found[name].state is State.BROKEN), None)
    return unknown(f"Cannot be told before {first} is mended.") if own.state is State.BROKEN and first else own
