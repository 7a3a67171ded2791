"""`telltale renditions`: what the dashboard shows of images that were judged before all of it was made.

That is a picture for browsers, what the file says of its origin, and which other images are like it. Needed once, after
an upgrade: since then the screening worker makes all three.
"""

from __future__ import annotations

from functools import partial
from uuid import UUID

import click

from model.decode import UndecodableImage, to_rgb
from moderation import exhibits
from moderation.db import transaction
from moderation.errors import NotFound
from moderation.sandbox import Sandbox, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import Image


@click.command()
def renditions() -> None:
    """Make what the dashboard lacks of judged images: picture, provenance, likeness. Running it again does the rest."""
    rules, store = settings(), Storage(settings())
    sandbox = Sandbox(rules.decode_processes, rules.decode_memory_bytes, rules.decode_timeout_s)
    made, after = 0, None
    try:
        while image := _next(after):
            made += _make(image, store, sandbox, rules)
            after = image.id
    finally:
        sandbox.close()
    click.echo(f"Images completed: {made}.")


def _next(after: UUID | None) -> Image | None:
    with transaction() as session:
        return next(iter(exhibits.lacking(session, after=after, limit=1)), None)


def _make(image: Image, store: Storage, sandbox: Sandbox, rules: Settings) -> bool:
    """Whether it could be completed; why not is said."""
    try:
        data = store.get(image.s3_key, max_bytes=image.bytes)
        pixels = sandbox.call(partial(to_rgb, max_pixels=rules.max_image_pixels), data)
    except (NotFound, UndecodableImage, SandboxCrash, SandboxMemory, SandboxTimeout) as error:
        click.echo(f"Image {image.id}: {error}", err=True)
        return False
    made = exhibits.made_apart(sandbox, image.id, data, image.media_type, pixels)
    exhibits.keep(store, image.tenant_id, image.id, made)
    return True
