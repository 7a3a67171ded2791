"""`telltale models`: which model versions there are, and which one judges."""

from __future__ import annotations

from datetime import timedelta

import click

from infra import listings, registration
from infra.printing import as_json_option, print_list, print_record
from infra.registration import Say, Source
from model.manifest import Manifest, Quantization
from moderation import model_versions, rejudging, tenants
from moderation.db import transaction
from moderation.retraining import decisions
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import ModelVersion

ACTOR = "operator"


@click.group()
def models() -> None:
    """Register model versions, list them, choose the champion, go back to the one before."""


reason_option = click.option("--reason", help="Why; kept in the audit trail.")


@models.command()
@click.argument("checkpoint")
@click.option("--revision", help="The full commit hash of a hub checkpoint; asked of the hub where it is not given.")
@click.option("--name", help="What verdicts will call this version; default: the manifest's own name.")
@click.option(
    "--quantization",
    type=click.Choice(["int8", "nf4"]),
    help="Load the language model in 8 or 4 bits, for small GPUs: a version of its own, named so.",
)
@click.option("--promote", "promoted", is_flag=True, help="Make it champion at once.")
@as_json_option
def register(
    checkpoint: str,
    revision: str | None,
    name: str | None,
    quantization: Quantization | None,
    promoted: bool,
    as_json: bool,
) -> None:
    """Load a checkpoint, prove its answers, and store it as a version.

    CHECKPOINT is a folder, a hub id such as lingcco/fakeVLM, or `demo`. One that has no telltale.json is taken for a
    published FakeVLM: it gets a manifest with its pinned revision, the raw prompt, and golden outputs made now on the
    shipped samples. The folder of an adapter is put into the object store, where every worker finds it.
    """
    settings()  # before the weights are loaded, which takes minutes
    source = Source.of(checkpoint, revision)
    manifest = registration.prepared(source, name, _say, quantization)
    place = registration.stored(source, manifest, _say)
    with model_versions.changing() as session:
        version = registration.write(session, place, manifest)
        if promoted:
            model_versions.promote(session, version.id, actor=ACTOR)
    _print(version, as_json)


@models.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """List all versions, newest first."""
    with transaction() as session:
        rows = listings.model_versions(session)
    print_list(rows, as_json=as_json, none="There is no model version yet: `telltale models register` makes one.")


@models.command()
@click.argument("name")
@reason_option
@as_json_option
def promote(name: str, reason: str | None, as_json: bool) -> None:
    """Make a version champion. Workers change over to it between two batches."""
    with model_versions.changing() as session:
        chosen = model_versions.version_named(session, name)
        version = decisions.promote(session, chosen.id, actor=ACTOR, reason=reason)
    _print(version, as_json)


@models.command()
@reason_option
@as_json_option
def rollback(reason: str | None, as_json: bool) -> None:
    """Make the version champion that was before. Once more, the one before that."""
    with model_versions.changing() as session:
        version = model_versions.rollback(session, actor=ACTOR, reason=reason)
    _print(version, as_json)


@models.command()
@click.option("--tenant", help="Its cases only; default: every tenant's.")
@as_json_option
def rejudge(tenant: str | None, as_json: bool) -> None:
    """Have the champion judge the cases in review too.

    Its verdict stands beside the one that each has. Workers do it when they are free.
    """
    with transaction(wake=True) as session:
        tenant_id = tenants.tenant_named(session, tenant).id if tenant else None
        asked = rejudging.ask(session, actor=ACTOR, tenant_id=tenant_id)
    print_record({"cases": asked}, as_json=as_json)


@models.command()
@click.option("--keep", type=click.IntRange(min=2), default=10, show_default=True, help="So many of the newest stay.")
@click.option("--days", type=click.IntRange(min=0), default=30, show_default=True, help="Younger ones stay.")
@as_json_option
def prune(keep: int, days: int, as_json: bool) -> None:
    """Remove old adapters from the object store. The champion's, and that of the version before it, stay."""
    gone = model_versions.remove(Storage(settings()), keep=keep, older_than=timedelta(days=days), actor=ACTOR)
    print_list([{"removed": name} for name in gone], as_json=as_json, none="No adapter is old enough to go.")


def ensure_champion(rules: Settings, say: Say | None = None) -> None:
    """Register the configured model and make it champion, unless it was registered before.

    A version that somebody promoted since stays champion, and where TELLTALE_MODEL is not set the demo model replaces
    nothing but an older demo model. A manifest with golden outputs is taken at its word here, because the worker that
    loads it proves it at once. Raises ConfigurationError.
    """
    say = say or _say
    source = Source.of(rules.model or registration.DEMO)
    with transaction() as session:
        before = model_versions.champion(session)
        if before is not None and rules.model is None and before.checkpoint != registration.DEMO:
            return
        if before is not None and any(_is(version, source) for version in model_versions.versions(session)):
            return
    manifest = source.manifest()
    if manifest is None or not manifest.golden:
        manifest = registration.prepared(source, None, say)
    place = registration.stored(source, manifest, say)
    with model_versions.changing() as session:
        version = registration.write(session, place, registration.unambiguous(session, manifest))
        model_versions.promote(session, version.id, actor=ACTOR)
    instead = f" instead of {before.name}, because TELLTALE_MODEL is {rules.model or 'not set'}" if before else ""
    say(f"{version.name} is champion now{instead}.")


def _is(version: ModelVersion, source: Source) -> bool:
    """Whether a version is of this checkpoint, as it is now."""
    manifest = source.manifest()
    if version.checkpoint != (source.text if manifest is None else source.place(manifest)):
        return False
    if manifest is None:
        return source.revision in (None, version.manifest["revision"])
    stored = Manifest.model_validate(version.manifest)
    own = {"name"}
    if stored.quantization != manifest.quantization:  # the same weights, loaded otherwise and measured so
        own |= {"quantization", "golden", "metrics"}
    return stored.model_dump(exclude=own) == manifest.model_dump(exclude=own)


def _print(version: ModelVersion, as_json: bool) -> None:
    record = {"name": version.name, "stage": version.stage.value, "checkpoint": version.checkpoint}
    print_record({**record, "golden": len(version.manifest["golden"])}, as_json=as_json)


def _say(line: str) -> None:
    click.echo(line, err=True)
