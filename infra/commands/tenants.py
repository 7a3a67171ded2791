"""`telltale tenants`: the platforms that send images."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import click

from infra import listings
from infra.printing import as_json_option, print_json, print_list, print_record
from moderation import retention as keeping
from moderation import statement_defaults, subject_exports
from moderation import tenants as platforms
from moderation.db import transaction
from moderation.retention import Periods
from moderation.settings import settings
from moderation.storage import Storage
from moderation.subject_exports import Subject
from moderation.vocabulary import OPERATOR


@click.group()
def tenants() -> None:
    """Create and list tenants: the platforms that send images."""


# Of a new tenant: enough to know after some thousands of cases how often the policy, and how often people, are wrong.
SECOND_OPINION_SHARE = 0.05
AUDIT_SHARE = 0.01


@tenants.command()
@click.argument("name")
@click.option("--allow-training", is_flag=True, help="Their reviewed images may be used to retrain the model.")
@click.option(
    "--second-opinion-share",
    type=float,
    default=SECOND_OPINION_SHARE,
    show_default=True,
    help="Of the cases that somebody answers: the share (0 to 1) that somebody else answers too.",
)
@click.option(
    "--audit-share",
    type=float,
    default=AUDIT_SHARE,
    show_default=True,
    help="Of the cases that the policy decides: the share (0 to 1) that a person looks at.",
)
@as_json_option
def create(name: str, allow_training: bool, second_opinion_share: float, audit_share: float, as_json: bool) -> None:
    """Create a tenant with the default policy."""
    shares = {"second_opinion_share": second_opinion_share, "audit_share": audit_share}
    with transaction() as session:
        tenant = platforms.create_tenant(session, name, allow_training=allow_training)
        platforms.change_tenant(session, tenant.id, shares)
    print_record({"id": tenant.id, "name": name, "allow_training": allow_training, **shares}, as_json=as_json)


@tenants.command("set")
@click.argument("name")
@click.option("--blind-share", type=float, help="Of coming reviews: the share (0 to 1) answered before the verdict.")
@click.option("--second-opinion-share", type=float, help="Of cases answered: the share somebody else answers too.")
@click.option("--audit-share", type=float, help="Of cases decided by the policy: the share a person looks at.")
def set_(name: str, **shares: float | None) -> None:
    """Change how closely a tenant's coming cases are looked at."""
    wanted = {share: value for share, value in shares.items() if value is not None}
    if not wanted:
        raise click.UsageError("Nothing to set: give --blind-share, --second-opinion-share or --audit-share.")
    with transaction() as session:
        tenant = platforms.tenant_named(session, name)
        platforms.change_tenant(session, tenant.id, wanted)
        session.flush()
        blind, second, audit = tenant.blind_share, tenant.second_opinion_share, tenant.audit_share
    click.echo(
        f"Of {name}'s reviews, {100 * blind:g}% are answered blind and {100 * second:g}% by somebody else too; "
        f"of what its policy decides, {100 * audit:g}% is looked at."
    )


@tenants.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """List all tenants."""
    with transaction() as session:
        rows = listings.all_tenants(session)
    print_list(rows, as_json=as_json, none="There is no tenant yet: `telltale tenants create NAME` makes one.")


EVER = "ever"
# Of an option that was not given.
UNSAID = "unsaid"


class Days(click.ParamType):
    """A number of days, or `ever`: without end."""

    name = "days"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | str | None:
        """None where it is `ever`."""
        if value in (EVER, UNSAID):
            return None if value == EVER else UNSAID
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of days nor `{EVER}`", param, ctx)


@tenants.command()
@click.argument("name")
@click.option("--images", type=Days(), default=UNSAID, help="The image, and every picture made of it.")
@click.option("--verdicts", type=Days(), default=UNSAID, help="Scores, explanations, and what moderators wrote.")
@click.option(
    "--events", type=Days(), default=UNSAID, help="What was sent with the image, also where events repeat it."
)
@click.option("--restricted", type=Days(), default=UNSAID, help="Instead: all of a case reported as illegal.")
@click.option(
    "--appeals", type=Days(), default=UNSAID, help="How long a decision may be appealed. Images stay as long."
)
@as_json_option
def retention(name: str, as_json: bool, **days: int | str | None) -> None:
    """Show, or set, for how many days a tenant's data is kept.

    Days are counted from when its case was settled.

    `ever` keeps without end. What is too old goes within a day, and for good.
    """
    said = {kind: value for kind, value in days.items() if value != UNSAID}
    with transaction() as session:
        tenant = platforms.tenant_named(session, name)
        periods = keeping.periods_of(tenant)
        if said:
            periods = replace(periods, **said)
            keeping.set_periods(session, tenant.id, periods)
    print_record(_as_shown(periods, as_json=as_json), as_json=as_json)


def _as_shown(periods: Periods, *, as_json: bool) -> dict[str, object]:
    shown = asdict(periods)
    return shown if as_json else {kind: EVER if days is None else f"{days} days" for kind, days in shown.items()}


@tenants.command()
@click.argument("name")
@click.option(
    "--file",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON, as docs/privacy.md describes it: it takes the place of what was said before.",
)
def statements(name: str, path: Path | None) -> None:
    """Show, or set, what statements of reasons say of a tenant."""
    with transaction() as session:
        tenant = platforms.tenant_named(session, name)
        defaults = statement_defaults.defaults_of(tenant)
        if path is not None:
            defaults = statement_defaults.read(_json_in(path))
            statement_defaults.change(session, tenant.id, defaults)
    print_json(defaults.model_dump(mode="json", exclude_defaults=True))


def _json_in(path: Path) -> dict[str, object]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise click.ClickException(f"{path} is not JSON: {error}.") from error
    if not isinstance(said, dict):
        raise click.ClickException(f"{path} holds no JSON object.")
    return said


@tenants.command("export-subject")
@click.argument("name")
@click.option("--subject", help="Exactly the `subject` of their submissions' metadata.")
@click.option("--external-id", "external_ids", multiple=True, help="Instead: their submissions' external ids.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="A new file, a zip.")
def export_subject(name: str, subject: str | None, external_ids: tuple[str, ...], out: Path) -> None:
    """Write all that is kept of one person's images.

    That is cases, events, statements of reasons, and the images themselves.
    """
    if out.exists():
        raise click.ClickException(f"{out} is there already: give a new file.")
    store = Storage(settings())
    with transaction() as session:
        tenant = platforms.tenant_named(session, name)
        found = subject_exports.begin(session, tenant.id, Subject(subject, external_ids), actor=OPERATOR)
    partial = out.with_name(f"{out.name}.partial")
    with partial.open("wb") as file:
        file.writelines(subject_exports.archive(store, tenant.id, found))
    partial.replace(out)
    click.echo(f"{len(found)} {'case' if len(found) == 1 else 'cases'} in {out}.")
