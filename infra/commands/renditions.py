"""`telltale renditions`: pictures for the dashboard of images in review that were judged before there were any.

Needed once, after an upgrade from a Telltale without a dashboard: since then the screening worker makes them.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

import click

from model.decode import UndecodableImage, to_rgb
from moderation import renditions as pictures
from moderation.db import transaction
from moderation.errors import NotFound
from moderation.sandbox import Sandbox, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import Image


@click.command()
def renditions() -> None:
    """Make the renditions that images in review lack. Running it again does what is left."""
    rules, store = settings(), Storage(settings())
    sandbox = Sandbox(rules.decode_processes, rules.decode_memory_bytes, rules.decode_timeout_s)
    made, after = 0, None
    try:
        while image := _next(after):
            made += _make(image, store, sandbox, rules)
            after = image.id
    finally:
        sandbox.close()
    click.echo(f"Renditions made: {made}.")


def _next(after: UUID | None) -> Image | None:
    with transaction() as session:
        return next(iter(pictures.lacking(session, after=after, limit=1)), None)


def _make(image: Image, store: Storage, sandbox: Sandbox, rules: Settings) -> bool:
    """Whether it could be made; why not is said."""
    try:
        data = store.get(image.s3_key, max_bytes=image.bytes)
        pixels = sandbox.call(partial(to_rgb, max_pixels=rules.max_image_pixels), data)
    except (NotFound, UndecodableImage, SandboxCrash, SandboxMemory, SandboxTimeout) as error:
        click.echo(f"Image {image.id}: {error}", err=True)
        return False
    pictures.keep(store, image.id, pixels)
    return True
