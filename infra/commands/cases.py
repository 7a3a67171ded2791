"""`telltale cases`: what became of the images that were sent, as an operator sees it, across tenants."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO
from uuid import UUID

import click
from rich.live import Live

from infra import listings
from infra.printing import as_json_option, console, print_json, print_list, print_record, table
from moderation import cases as judged
from moderation import descriptions, tenants
from moderation import statements as reasons
from moderation.db import transaction
from moderation.spreadsheets import inert
from moderation.statements import Statement
from moderation.vocabulary import SETTLED, CaseStatus, Label

POLL_S = 0.25
ACTOR = "operator"


@click.group()
def cases() -> None:
    """List, show and watch cases."""


@cases.command("list")
@click.option("--tenant", required=True)
@click.option("--status", type=click.Choice([status.value for status in CaseStatus]))
@click.option("--label", type=click.Choice([label.value for label in Label]))
@click.option("--external-id", help="The platform's own id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json_option
def list_(
    tenant: str, status: str | None, label: str | None, external_id: str | None, limit: int, as_json: bool
) -> None:
    """List a tenant's newest cases. `ms` is from submission to settled."""
    with transaction() as session:
        rows = listings.found_cases(
            session,
            tenant,
            status=CaseStatus(status) if status else None,
            label=Label(label) if label else None,
            external_id=external_id,
            limit=limit,
        )
    print_list(rows, as_json=as_json, none="No case.")


@cases.command()
@click.argument("case_id", type=click.UUID)
@as_json_option
def show(case_id: UUID, as_json: bool) -> None:
    """Show one case and its history."""
    with transaction() as session:
        case = listings.case_with(session, case_id)
        described, events = descriptions.describe(case), listings.case_events(session, case_id)
        row = listings.case_row(case)
    if as_json:
        print_json({**described, "events": events})
        return
    verdict, failure = described["verdict"] or {}, described["failure"] or {}
    model = verdict.get("model", {}).get("version")
    why = {"model": model, "explanation": verdict.get("explanation"), "failure": failure.get("detail")}
    print_record({**row, **{name: value for name, value in why.items() if value}}, as_json=False)
    console().print(table(events))


@cases.command()
@click.argument("case_ids", type=click.UUID, nargs=-1, required=True, metavar="CASE_ID...")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=300, show_default=True, help="Seconds.")
def watch(case_ids: tuple[UUID, ...], timeout_s: float) -> None:
    """Watch cases until all are settled. Exits with 1 if one failed, or the time ran out."""
    deadline = time.monotonic() + timeout_s
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            rows = _rows(case_ids)
            live.update(table(rows), refresh=True)
            if all(row["status"] in SETTLED for row in rows):
                break
            if time.monotonic() > deadline:
                raise click.ClickException(f"Not all were settled within {timeout_s:g} s; is a screening worker up?")
            time.sleep(POLL_S)
    if any(row["status"] == CaseStatus.FAILED for row in rows):
        raise click.ClickException("A case failed; `telltale cases show CASE_ID` says why.")


def _rows(case_ids: Sequence[UUID]) -> listings.Rows:
    with transaction() as session:
        return [listings.case_row(listings.case_with(session, case_id)) for case_id in case_ids]


@cases.command()
@click.argument("case_ids", type=click.UUID, nargs=-1, required=True, metavar="CASE_ID...")
def retry(case_ids: tuple[UUID, ...]) -> None:
    """Put failed cases back to be judged again. All of them, or none if one has not failed."""
    with transaction(wake=True) as session:
        for case_id in case_ids:
            tenant_id = listings.case_with(session, case_id).tenant_id
            judged.retry(session, tenant_id, case_id, actor=ACTOR)
    click.echo(f"{len(case_ids)} {'case' if len(case_ids) == 1 else 'cases'} will be judged again.")


DAY = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])


@cases.command()
@click.argument("tenant")
@click.option("--since", type=DAY, required=True, help="Decided from then on (UTC).")
@click.option("--until", type=DAY, help="Decided before then (UTC); now, if left out.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV instead of a line of JSON each.")
@click.option("--out", type=click.File("w", encoding="utf-8", lazy=True), default="-", help="A file, not the terminal.")
def statements(tenant: str, since: datetime, until: datetime | None, as_csv: bool, out: TextIO) -> None:
    """Write the statements of reasons for a tenant's decisions.

    They are as the EU's DSA Transparency Database takes them.

    Only decisions that are still in force, and that restrict: fake, or reported as illegal. What is missing in a
    statement is named beside it.
    """
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    with transaction() as session:
        tenant_id = tenants.tenant_named(session, tenant).id
    found = _counted(reasons.between(tenant_id, since.replace(tzinfo=UTC), end), tenant_id)
    if as_csv:
        _write_csv(found, out)
    else:
        for statement in found:
            click.echo(json.dumps(statement.describe(), ensure_ascii=False), file=out)


def _counted(found: Iterable[Statement], tenant_id: UUID) -> Iterator[Statement]:
    """The same, and at the end it is written down how many there were, and said how many lack something."""
    count = lacking = 0
    for statement in found:
        count, lacking = count + 1, lacking + bool(statement.missing)
        yield statement
    with transaction() as session:
        reasons.note_export(session, tenant_id, count, actor=ACTOR)
    click.echo(f"{count} statements, {lacking} of them with something missing.", err=True)


def _write_csv(found: Iterable[Statement], out: TextIO) -> None:
    """A column for each field; several values in one are separated by `|`, and none is a formula."""
    columns = ["case_id", "decided_at", "missing", *reasons.FIELDS]
    table = csv.DictWriter(out, columns)
    table.writeheader()
    for statement in found:
        told = {"case_id": statement.case_id, "decided_at": statement.decided_at.isoformat()}
        lacks = "|".join(each.field for each in statement.missing)
        table.writerow({**told, "missing": lacks, **{name: _cell(value) for name, value in statement.fields.items()}})


def _cell(value: object) -> str:
    return inert("|".join(map(str, value)) if isinstance(value, list) else str(value))
