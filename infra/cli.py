"""The `telltale` command: finds the subcommand, and says what went wrong in one line.

Each subcommand is a module of its own, imported only when it runs, so that `telltale --help` is quick and a machine
that only detects needs no service. It knows their names, not what they do.
"""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from moderation.errors import TelltaleError

# Name, module and object, and the line that `telltale --help` prints: written here so that help imports no command.
COMMANDS = {
    "demo": ("infra.commands.demo:demo", "Start everything, submit the sample images, show what happens."),
    "demo-retrain": (
        "infra.commands.demo_retrain:demo_retrain",
        "Start everything, have moderators teach the model a new type of fake.",
    ),
    "detect": ("infra.commands.detect:detect", "Judge image files here and now, with no service running."),
    "evaluate": ("model.evaluate.command:evaluate", "Measure a checkpoint on FakeClue, LOKI, DD-VQA or a folder."),
    "finetune": ("model.finetune.command:finetune", "Train a new checkpoint from records, as a file says."),
    "merge": ("model.finetune.command:merge", "Fold an adapter into its base: one checkpoint that stands alone."),
    "up": ("infra.commands.up:up", "Start everything on this machine and keep it running until Ctrl-C."),
    "doctor": (
        "infra.commands.doctor:doctor",
        "Look at everything that Telltale needs, and say how to mend what is wrong.",
    ),
    "migrate": ("infra.commands.migrate:migrate", "Bring the database's schema up to date."),
    "backup": ("infra.commands.backup:backup", "Copy the database and all images to a folder or another bucket."),
    "restore": ("infra.commands.restore:restore", "Make a service of a backup again, in an empty database and bucket."),
    "models": ("infra.commands.models:models", "Register model versions, list them, choose the champion."),
    "retrain": ("infra.commands.retrain:retrain", "Have the model learn from what was reviewed, now, and follow it."),
    "export-dataset": (
        "infra.commands.export_dataset:export_dataset",
        "Write what a training run learned from as a FakeClue folder.",
    ),
    "renditions": ("infra.commands.renditions:renditions", "Make the pictures of images judged by an older Telltale."),
    "tenants": ("infra.commands.tenants:tenants", "Create and list tenants: the platforms that send images."),
    "keys": ("infra.commands.keys:keys", "Create, list and revoke API keys."),
    "users": ("infra.commands.users:users", "Create and list moderators, leads and administrators."),
    "sources": ("infra.commands.sources:sources", "Create and list sources: whose webhooks are accepted, and how."),
    "endpoints": ("infra.commands.endpoints:endpoints", "Create and list endpoints: where events are sent."),
    "secrets": (
        "infra.commands.secrets:secrets",
        "See which keys encrypt stored secrets, and change to a new one.",
    ),
    "deliveries": ("infra.commands.deliveries:deliveries", "See what was sent to endpoints, and send it again."),
    "policies": ("infra.commands.policies:policies", "Set and show policies: what is decided, and what is reviewed."),
    "submit": ("infra.commands.submit:submit", "Submit images to the service, and watch them being judged."),
    "cases": ("infra.commands.cases:cases", "List, show and watch cases."),
}


# These need none, or start their own.
WITHOUT_A_STACK = {"detect", "demo", "demo-retrain", "evaluate", "finetune", "merge", "up"}


INTERRUPTED = 130  # what a shell calls a command that Ctrl-C ended


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of COMMANDS, which is that of a new user's needs."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Where there is no such command, the usage error says what may have been meant."""
        if args[0] not in COMMANDS:
            close = get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing what it lists."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what Telltale raises on purpose becomes one line on stderr and exit code 1.

        Ctrl-C, where a command has nothing of its own to say about it, is 130, as for any program.
        """
        try:
            return super().invoke(ctx)
        except _told() as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("\nStopped.", err=True)
            raise SystemExit(INTERRUPTED) from None


def _told() -> tuple[type[Exception], ...]:
    """What is raised on purpose. The client's errors only where it was imported: it wants what training lacks."""
    client = sys.modules.get("infra.client")
    return (TelltaleError, client.ClientError) if client else (TelltaleError,)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="telltale")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=".telltale",
    show_default=True,
    envvar="TELLTALE_DATA",
    help="Speak to the `telltale up` that runs here, unless TELLTALE_DATABASE_URL is set.",
)
@click.pass_context
def telltale(context: click.Context, data: Path) -> None:
    """Tell whether an image is synthetic, and why."""
    if context.invoked_subcommand not in WITHOUT_A_STACK:
        from infra.local import adopt_running

        adopt_running(data)
