"""`make bench-dashboard`: the queue page and the case page on 10,000 and on 1,000,000 cases.

A PostgreSQL of its own is filled with cases of 20 tenants, a fifth of them in review; then a lead of all of them opens
the queue (with its counts, filters and oldest age; each filter in turn, some together, and several pages deep) and
cases, one request after the other, through the application itself (Flask's test client: everything but the socket).
Every filter's count is compared with counting one by one. The last line is JSON: the 95th percentile of the slower of
the two pages in milliseconds, for either size, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

from flask.testing import FlaskClient
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select, text

import migrations
from benchmarks import filling
from infra.local import adopt, service_program, start_services
from infra.services import Postgres
from infra.supervision import Supervisor
from moderation import accounts, backlog, db, queue, tenants
from moderation.accounts import Person
from moderation.db import transaction
from moderation.tables import Case, ModelVersion, Tenant
from moderation.vocabulary import Priority, ReviewReason, Role

TENANTS = 20
EMAIL, PASSWORD = "lead@platform.example", "a password of the benchmark"
# What the dashboard's pages do not ask for, but the settings want.
ELSEWHERE = {
    "TELLTALE_REDIS_URL": "redis://127.0.0.1:9/0",
    "TELLTALE_S3_ENDPOINT_URL": "http://127.0.0.1:9",
    "TELLTALE_S3_ACCESS_KEY": "none",
    "TELLTALE_S3_SECRET_KEY": "none",
    "TELLTALE_LOG_LEVEL": "WARNING",
}
DEEP = 4  # pages
WARM_UP = 5  # requests of each kind, and no more than are timed
FOLLOWING = re.compile(r'href="([^"]+)">Next page')
SHOWN = re.compile(r'data-totals data-count="(\d+)"')


@dataclass(frozen=True)
class Measured:
    """Milliseconds of every request, by what was asked for."""

    cases: int
    queue: dict[str, list[float]]
    case: dict[str, list[float]]

    @property
    def p95_ms(self) -> float:
        """Of the slower of the two pages."""
        return max(percentile([ms for times in page.values() for ms in times]) for page in (self.queue, self.case))


def percentile(times: Sequence[float], share: int = 95) -> float:
    """The `share`th percentile."""
    return statistics.quantiles(times, n=100, method="inclusive")[share - 1]


@contextmanager
def database() -> Iterator[Postgres]:
    """An empty, migrated database that is this process's; gone with the block."""
    # Not below the home of whoever runs this: PostgreSQL may run as another user.
    folder = Path(tempfile.mkdtemp(prefix="telltale-bench-"))
    postgres = Postgres(folder / Postgres.name, "benchmark", durable=False)
    supervisor = Supervisor(folder, [service_program(postgres)])
    try:
        supervisor.start().wait_started()
        start_services(supervisor, [postgres])
        migrations.upgrade(postgres.database_url())
        adopt({**postgres.environment, **ELSEWHERE})
        yield postgres
        db.engine().dispose()
    finally:
        supervisor.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--cases", type=int, nargs=2, default=(10_000, 1_000_000), help="the two sizes, smaller first")
    parser.add_argument("--requests", type=int, default=20, help="of each kind")
    options = parser.parse_args()
    console = Console()
    results = []
    with database():
        people()
        done = 0
        for size in options.cases:
            say(f"filling up to {size:,} cases …")
            with db.engine().begin() as connection:
                filling.fill(connection, done, size)
            filling.settle_down()
            done = size
            say(f"measuring on {size:,} cases …")
            results.append(measure(size, options.requests))
            console.print(table(results[-1]))
    print(json.dumps(summary(results)))  # noqa: T201  (the line that programs read)


def say(words: str) -> None:
    """On stderr."""
    print(words, file=sys.stderr)  # noqa: T201


def people() -> None:
    """The tenants, and somebody who leads all of them."""
    with transaction() as session:
        user = tenants.create_user(session, EMAIL, PASSWORD)
        for number in range(TENANTS):
            tenant = tenants.create_tenant(session, f"tenant {number:02}")
            tenants.add_member(session, user, tenant, Role.LEAD)
        filling.make_versions(session)


def measure(size: int, requests: int) -> Measured:
    """Every kind of request so many times, in turns."""
    # Only now: an application reads the settings when it is made.
    from api.app import create_app
    from api.dashboard import cookies
    from api.process import EXTENSION
    from moderation.settings import settings

    app = create_app(settings())
    try:
        client = app.test_client()
        token = accounts.sign_in(EMAIL, PASSWORD, address="127.0.0.1", browser="benchmark")
        client.set_cookie(cookies.SESSION, token)
        person = accounts.person_with(token)
        asked, warm_up = filters(), min(WARM_UP, requests)
        check(client, person, asked)
        measured = Measured(size, {name: [] for name in asked}, {"in review": [], "decided": []})
        for name, times in measured.queue.items():
            queue_times(client, asked[name], warm_up)
            times.extend(queue_times(client, asked[name], requests))
        for name, times in measured.case.items():
            ids = some_cases(in_review=name == "in review", count=warm_up + requests * len(asked) // 2)
            times.extend([timed(client, f"/dashboard/cases/{id_}")[0] for id_ in ids][warm_up:])
        return measured
    finally:
        app.extensions[EXTENSION].sandbox.close()


def filters() -> dict[str, dict[str, str]]:
    """What the queue is asked for, by name: nothing, each filter alone, and some together."""
    with transaction() as session:
        tenant = session.scalars(select(Tenant.id).order_by(Tenant.name).limit(1)).one()
        versions = session.scalars(select(ModelVersion.id).order_by(ModelVersion.name)).all()
    common, rare = {"category": "people"}, {"category": "maps"}
    old, version = {"age": "168"}, {"version": str(versions[0])}
    score = {"from": "0.4", "to": "0.55"}
    return {
        "all": {},
        "tenant": {"tenant": str(tenant)},
        "reason": {"reason": ReviewReason.UNCERTAIN.value},
        "rare reason": {"reason": ReviewReason.APPEAL.value},
        "category": common,
        "rare category": rare,
        "model version": version,
        "rare model version": {"version": str(versions[-1])},
        "priority": {"priority": Priority.HIGH.value},
        "score": score,
        "far score": {"from": "0.8"},
        "older than a day": {"age": "24"},
        "older than a week": old,
        "held": {"held": "1"},
        "mine": {"mine": "1"},
        "score and age": {**score, **old},
        "category and score": {**common, **score},
        "rare category and age": {**rare, **old},
        "tenant, category and version": {"tenant": str(tenant), **common, **version},
    }


def check(client: FlaskClient, person: Person, asked: dict[str, dict[str, str]]) -> None:
    """Raise AssertionError where a page's count or oldest age is not what counting one by one gives."""
    from api.dashboard.queue import filter_of

    for name, query in asked.items():
        filter_ = filter_of(query)
        shown = SHOWN.search(client.get(path_of(query)).get_data(as_text=True))
        with transaction() as session:
            conditions = queue._conditions(session, person, filter_)
            mine = Case.tenant_id.in_([filter_.tenant_id] if filter_.tenant_id else person.tenant_ids)
            count, oldest = session.execute(
                select(func.count(), func.min(Case.settled_at)).where(mine, *conditions)
            ).one()
            totals = queue.totals(session, person, filter_)
        if not shown or int(shown[1]) != count or totals != backlog.Totals(count, oldest):
            raise AssertionError(f"{name}: {shown and shown[1]} and {totals}, but there are {count} since {oldest}")


def path_of(query: dict[str, str]) -> str:
    """The queue's address."""
    return f"/dashboard/queue?{urlencode(query)}"


def queue_times(client: FlaskClient, query: dict[str, str], requests: int) -> list[float]:
    """Milliseconds of so many pages of one filter: the first ones, DEEP of them, again and again."""
    times: list[float] = []
    path = path_of(query)
    while len(times) < requests:
        ms, page = timed(client, path)
        times.append(ms)
        following = FOLLOWING.search(page)
        path = unescape(following[1]) if following and len(times) % DEEP else path_of(query)
    return times


def timed(client: FlaskClient, path: str) -> tuple[float, str]:
    """Milliseconds until the whole page was there, and the page. Raises AssertionError for one that was refused."""
    start = time.perf_counter()
    answer = client.get(path)
    page = answer.get_data(as_text=True)
    ms = 1000 * (time.perf_counter() - start)
    if answer.status_code != 200:
        raise AssertionError(f"{path}: {answer.status}")
    return ms, page


def some_cases(*, in_review: bool, count: int) -> list[UUID]:
    """Cases from all over the table."""
    query = text(
        "SELECT id FROM cases TABLESAMPLE SYSTEM (:share) WHERE (status = 'in_review') = :in_review LIMIT 5000"
    )
    with transaction() as session:
        total = session.scalar(text("SELECT reltuples FROM pg_class WHERE relname = 'cases'")) or 1
        share = min(100.0, 100 * 40_000 / total)
        found = list(session.scalars(query, {"share": share, "in_review": in_review}))
    return random.Random(0).choices(found, k=count)


def table(measured: Measured) -> Table:
    made = Table("page", "what", "requests", "p50 ms", "p95 ms", title=f"{measured.cases:,} cases")
    for page, kinds in (("queue", measured.queue), ("case", measured.case)):
        everything = [ms for times in kinds.values() for ms in times]
        for what, times in (*kinds.items(), ("all of these", everything)):
            row = (str(len(times)), f"{statistics.median(times):.1f}", f"{percentile(times):.1f}")
            made.add_row(page, what, *row, end_section=what == "all of these")
    return made


def summary(results: Sequence[Measured]) -> dict[str, float]:
    """What the last line says."""
    small, large = (result.p95_ms for result in results)
    return {"p95_ms_10k": round(small, 1), "p95_ms_1m": round(large, 1), "ratio": round(large / small, 2)}


if __name__ == "__main__":
    main()
