"""`telltale policies`: from which score on an image is fake, up to which it is real, and who looks at the rest."""

from __future__ import annotations

from dataclasses import replace

import click

from infra import listings
from infra.printing import as_json_option, print_record
from moderation import tenants, thresholds
from moderation.db import transaction
from moderation.vocabulary import OPERATOR, ExplainMode

probability = click.FloatRange(0, 1)


@click.group()
def policies() -> None:
    """Show and set a tenant's thresholds."""


@policies.command()
@click.option("--tenant", required=True)
@as_json_option
def show(tenant: str, as_json: bool) -> None:
    """Show the policy in force."""
    with transaction() as session:
        policy = tenants.policy_of(session, tenants.tenant_named(session, tenant).id)
    print_record(listings.policy_row(policy, tenant), as_json=as_json)


@policies.command("set")
@click.option("--tenant", required=True)
@click.option("--fake-from", type=probability, help="p_fake from which on an image is decided fake.")
@click.option("--real-up-to", type=probability, help="p_fake up to which an image is decided real.")
@click.option("--min-pair-mass", type=probability, help="Below this the model was not answering: a review.")
@click.option("--explain", type=click.Choice([mode.value for mode in ExplainMode]), help="What is explained at once.")
@as_json_option
def set_(tenant: str, as_json: bool, explain: str | None, **given: float | None) -> None:
    """Put a new version in force; what is not given stays as it is. Between the two thresholds is a review."""
    changes = {name: value for name, value in given.items() if value is not None}
    if explain is None and not changes:
        raise click.UsageError("Give at least one of --fake-from, --real-up-to, --min-pair-mass and --explain.")
    with transaction() as session:
        owner = tenants.tenant_named(session, tenant)
        now = tenants.policy_of(session, owner.id)
        current = thresholds.thresholds_of(now)
        mode = ExplainMode(explain) if explain else current.explain
        wanted = replace(current, explain=mode, **changes)
        policy = thresholds.change(session, owner.id, wanted, actor=OPERATOR, instead_of=now.version)
    print_record(listings.policy_row(policy, tenant), as_json=as_json)
