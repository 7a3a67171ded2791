"""Every command, setting and metric that a page names is there, with its options."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from infra.cli import telltale
from moderation.settings import OF_COMMANDS, Settings
from tests.docs.conftest import ROOT
from tests.docs.test_links import PAGES, prose
from tests.docs.transcript import FENCE
from tests.measuring import served

# What has been is no more.
TODAY = [page for page in PAGES if page != "CHANGELOG.md"]
EACH = pytest.mark.parametrize("page", TODAY)
# A name that is no setting and no metric: a package, a user of the database, a part of another's address.
OTHERS = {"telltale_client", "telltale_scaler"}
HELP = {"-h", "--help"}
INSTALL = re.compile(r"pip install [\"']?telltale")
# Of which a path may be before it, but no option whose value it is.
COMMAND = re.compile(r"(?<!namespace )(?<!username )(?<![\w-])(telltale [^-\s].*|telltale --.*)")


@EACH
def test_every_command_exists_with_its_options(page: str) -> None:
    assert {command: wrong for command in commands(page) if (wrong := unknown(command))} == {}


def test_commands_are_found_where_they_stand() -> None:
    assert "telltale cases retry CASE_ID CASE_ID" in commands("docs/operations.md")
    assert 'telltale models rollback --reason "…"' in commands("docs/runbooks.md")
    assert any(command.startswith("telltale users create --help") for command in commands("docs/kubernetes.md"))
    assert [unknown(f"telltale {words}") for words in ("case list", "cases list --tenants a", "--date . up")] == [
        "case",
        "--tenants",
        "--date",
    ]


def commands(page: str) -> list[str]:
    """Every `telltale …` of a page, in its blocks and in its text, as far as the shell hands it on."""
    blocks = [body for kind, _, body in FENCE.findall((ROOT / page).read_text()) if kind in ("", "bash", "console")]
    inline = re.findall(r"`([^`]+)`", prose(ROOT / page))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines = [re.sub(r"(^|\s)# .*", "", line) for line in lines] + [" ".join(code.split()) for code in inline]
    return [re.split(r"\s[#|>&]|[;)]", found[1])[0].strip(" .") for line in lines if (found := COMMAND.search(line))]


def unknown(command: str) -> str:
    """What of a command line there is not: a command, or an option; empty where all of it is there."""
    here: click.Command = telltale
    words = iter(shlex.split(command)[1:])
    for word in words:
        option = word.partition("=")[0]
        if option in HELP:
            continue
        if word.startswith("-"):
            found = next((one for one in here.params if option in one.opts), None)
            if found is None:
                return word
            if isinstance(found, click.Option) and not found.is_flag and option == word:
                next(words, None)
        elif isinstance(here, click.Group) and not word.isupper():
            below = here.get_command(click.Context(here), word)
            if below is None:
                return word
            here = below
    return ""


def test_nobody_is_told_to_install_a_strangers_package() -> None:
    """What is called telltale on PyPI is not this."""
    code = [path for folder in ("infra", "model", "moderation") for path in (ROOT / folder).rglob("*.py")]
    told = [path for path in [*code, *(ROOT / page for page in PAGES)] if INSTALL.search(path.read_text())]
    assert told == []


@pytest.mark.parametrize("page", [*TODAY, "docker-compose.yml"])
def test_every_setting_and_metric_exists(page: str) -> None:
    settings = {*Settings.model_fields, *OF_COMMANDS}
    series = {name for metric in served() for name in (metric.name, *metric.series)}
    text = (ROOT / page).read_text()
    variables = {name.lower() for name in re.findall(r"\bTELLTALE_([A-Z0-9_]+)", text)}
    # With a line at its end it is the beginning of several.
    assert [name for name in variables - settings if not any(each.startswith(name) for each in settings)] == []
    names = set(re.findall(r"\btelltale_\w+", text)) - OTHERS - series
    assert {name for name in names if name.removeprefix("telltale_") not in settings} == set()
