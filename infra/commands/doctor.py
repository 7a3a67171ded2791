"""`telltale doctor`: all that Telltale needs, looked at from this machine, and what to do where it is not well."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from infra.doctor.finding import Finding, State, broken, doubtful, well
from infra.local import TARGETS
from infra.printing import as_json_option, console, print_json
from moderation.errors import ConfigurationError
from moderation.settings import settings, unread_variables

MARKS = {
    State.WELL: ("✓", "green"),
    State.DOUBTFUL: ("!", "yellow"),
    State.BROKEN: ("✗", "bold red"),
    State.UNKNOWN: ("?", "dim"),
    State.UNUSED: ("–", "dim"),
}
_OF_THIS_MACHINE = "on one machine `telltale up` sets all that it needs, and --data names its folder."


@click.command()
@as_json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look at everything that Telltale needs, and say what is wrong and how to mend it.

    All is looked at at once, in a few seconds. A probe of some bytes is put into the bucket and deleted again; nothing
    else is changed. The exit status is 1 where something is broken.
    """
    began = time.monotonic()
    found = _examined(context.find_root().params["data"] / TARGETS)
    seconds = time.monotonic() - began
    if as_json:
        print_json(_as_record(found, seconds))
    else:
        _print(found, seconds)
    if _broken(found):
        context.exit(1)


def _examined(targets: Path) -> dict[str, Finding]:
    """Without settings there is nothing else to look at, and not all of it can be imported."""
    try:
        rules = settings()
    except ConfigurationError as error:
        _, *wrong = error.message.split("\n  ")
        return {"settings": broken("\n".join(wrong), f"Set what is named; {_OF_THIS_MACHINE}")}
    from infra.doctor.examination import checks, examine

    return {"settings": _settings(), **examine(rules, checks(targets))}


def _settings() -> Finding:
    """Whether every variable that is set is one that somebody reads."""
    unread = unread_variables()
    if unread:
        return doubtful("\n".join(unread), "Correct what is misspelt, or remove it: nobody reads it.")
    return well("Complete and valid.")


def _broken(found: dict[str, Finding]) -> list[str]:
    return [name for name, finding in found.items() if finding.state is State.BROKEN]


def _as_record(found: dict[str, Finding], seconds: float) -> dict[str, object]:
    checks = [
        {"name": name, "state": each.state.value, "said": each.said, "mend": each.mend} for name, each in found.items()
    ]
    return {"well": not _broken(found), "seconds": round(seconds, 2), "checks": checks}


def _print(found: dict[str, Finding], seconds: float) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, finding in found.items():
        table.add_row(Text(*MARKS[finding.state]), Text(name), _words(finding))
    screen = console()
    screen.print(table)
    screen.print(_summary(found, seconds), style="red" if _broken(found) else "green")


def _words(finding: Finding) -> Text:
    quiet = finding.state in (State.UNKNOWN, State.UNUSED)
    words = Text(finding.said, style="dim" if quiet else "")
    return words.append(f"\n→ {finding.mend}", style="cyan") if finding.mend else words


def _summary(found: dict[str, Finding], seconds: float) -> str:
    wrong = _broken(found)
    if not wrong:
        return f"\nNothing is broken. ({seconds:.1f} s)"
    return f"\nBroken: {', '.join(wrong)}. ({seconds:.1f} s)"
