"""What must be there before the processes start: the schema, the bucket and a champion. Safe to repeat.

`python -m infra.preparation`; a process of its own, because making sure of a champion loads the model.
"""

from __future__ import annotations

import sys

import click

from infra import schema
from moderation.errors import TelltaleError
from moderation.settings import settings
from moderation.storage import Storage


def prepare() -> None:
    """Migrate, make the bucket, and register the configured model as champion where there is none."""

    from infra.commands.models import ensure_champion

    schema.bring_up_to_date()
    Storage(settings()).ensure_bucket()
    ensure_champion(settings(), say=click.echo)


if __name__ == "__main__":
    try:
        prepare()
    except TelltaleError as error:
        click.echo(error.message)
        sys.exit(1)
