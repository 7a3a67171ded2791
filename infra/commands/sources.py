"""`telltale sources`: whose webhooks are accepted, how they are signed, and where the images are in them."""

from __future__ import annotations

import sys

import click

from infra import listings
from infra.printing import as_json_option, print_list, print_once
from moderation import sources as senders
from moderation import tenants
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.settings import settings
from moderation.tables import Source
from moderation.vocabulary import SourceKind, SourceScheme


@click.group()
def sources() -> None:
    """Create and list sources: whose webhooks are accepted, and how."""


@sources.command()
@click.option("--tenant", required=True, help="Whose webhooks these are.")
@click.option("--name", required=True, help="What it is, such as `uploads`.")
@click.option(
    "--scheme",
    type=click.Choice([scheme.value for scheme in SourceScheme]),
    default=SourceScheme.STANDARD.value,
    show_default=True,
    help="How the platform signs.",
)
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in SourceKind]),
    default=SourceKind.JSON.value,
    show_default=True,
    help="What its body is.",
)
@click.option("--image-url-pointer", help="JSON Pointer to the image's link, such as /data/image/url.")
@click.option("--external-id-pointer", help="JSON Pointer to the platform's own id of the image.")
@click.option("--metadata-pointer", help="JSON Pointer to an object that is kept with the case.")
@click.option("--id-header", help="The header with the webhook's id, where the scheme has none of its own.")
@click.option("--secret-stdin", is_flag=True, help="Read the platform's own secret from standard input.")
@click.option("--s3-endpoint-url", help="Where the bucket of an S3 event is; default: AWS.")
@click.option("--s3-region", help="The bucket's region.")
@click.option("--s3-access-key", help="The key this source reads the bucket with.")
@click.option("--s3-secret-key-stdin", is_flag=True, help="Read that key's secret from standard input.")
@as_json_option
def create(
    tenant: str,
    name: str,
    scheme: str,
    kind: str,
    secret_stdin: bool,
    s3_secret_key_stdin: bool,
    as_json: bool,
    **given: str | None,
) -> None:
    """Create a source. Prints the URL to post webhooks to and, once, the secret to sign them with.

    With both --secret-stdin and --s3-secret-key-stdin, the signing secret is the first line, the S3 secret the second.
    """
    secret = _line("signing secret") if secret_stdin else None
    s3_secret = _line("S3 secret key") if s3_secret_key_stdin else None
    with transaction() as session:
        source = Source(
            tenant_id=tenants.tenant_named(session, tenant).id,
            name=name,
            scheme=SourceScheme(scheme),
            kind=SourceKind(kind),
            **given,
        )
        senders.create(session, source, secret=secret, s3_secret_key=s3_secret)
    print_once(
        "secret", senders.secrets_of(source)[0], listings.source_row(source, tenant, settings()), as_json=as_json
    )


def _line(what: str) -> str:
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise InvalidRequest(f"There is no {what} on standard input.")
    return line


@sources.command("list")
@click.option("--tenant", help="Only this tenant's.")
@as_json_option
def list_(tenant: str | None, as_json: bool) -> None:
    """List sources with the URLs to post to."""
    with transaction() as session:
        rows = listings.sources(session, tenant, settings())
    print_list(rows, as_json=as_json, none="There is no source yet: `telltale sources create` makes one.")
