"""`telltale models`: which model versions there are, and which one judges."""

from __future__ import annotations

import click

from infra import listings, registration
from infra.printing import as_json_option, print_list, print_record
from infra.registration import Say, Source
from model.manifest import Manifest
from moderation import model_versions
from moderation.db import transaction
from moderation.settings import Settings, settings
from moderation.tables import ModelVersion

ACTOR = "operator"


@click.group()
def models() -> None:
    """Register model versions, list them, choose the champion."""


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
    quantization: registration.Quantization | None,
    promoted: bool,
    as_json: bool,
) -> None:
    """Load a checkpoint, prove its answers, and store it as a version.

    CHECKPOINT is a folder, a hub id such as lingcco/fakeVLM, or `demo`. One that has no telltale.json is taken for a
    published FakeVLM: it gets a manifest with its pinned revision, the raw prompt, and golden outputs made now on the
    shipped samples.
    """
    settings()  # before the weights are loaded, which takes minutes
    source = Source.of(checkpoint, revision)
    manifest = registration.prepared(source, name, _say, quantization)
    with transaction() as session:
        version = registration.write(session, source, manifest)
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
@as_json_option
def promote(name: str, as_json: bool) -> None:
    """Make a version champion; restart screening workers to have it judge."""
    with transaction(wake=True) as session:
        version = model_versions.promote(session, model_versions.version_named(session, name).id, actor=ACTOR)
    _print(version, as_json)


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
    with transaction() as session:
        version = registration.write(session, source, registration.unambiguous(session, manifest))
        model_versions.promote(session, version.id, actor=ACTOR)
    instead = f" instead of {before.name}, because TELLTALE_MODEL is {rules.model or 'not set'}" if before else ""
    say(f"{version.name} is champion now{instead}.")


def _is(version: ModelVersion, source: Source) -> bool:
    """Whether a version is of this checkpoint, as it is now."""
    if version.checkpoint != source.text:
        return False
    manifest = source.manifest()
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
