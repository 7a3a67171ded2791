"""`telltale migrate`: bring the database's schema up to date, and its secrets under a key."""

from __future__ import annotations

import click


@click.command()
@click.option("--revision", default="head", show_default=True, help="Up to this revision only.")
def migrate(revision: str) -> None:
    """Bring the database's schema up to date, and encrypt the secrets that an older Telltale stored in plain text.

    The database is that of TELLTALE_DATABASE_URL. Run again, or by several machines at once, it changes nothing more.
    """
    import migrations
    from infra import schema
    from moderation.settings import settings

    if revision == "head":
        schema.bring_up_to_date()
    else:
        migrations.upgrade(settings().database_url, revision)
    click.echo("The database is up to date.")
