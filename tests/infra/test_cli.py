"""The `telltale` command finds its subcommands and says in one line what went wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from infra import cli
from infra.local import Outside, Stack
from infra.services import LOOPBACK
from moderation.errors import ConfigurationError


@click.command()
def broken() -> None:
    """Raise what commands raise on purpose."""
    raise ConfigurationError("The thing is missing; put it there.")


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(cli.telltale, ["-h"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.partition("Commands:")[2].splitlines() if line[2:3].strip()] == [
        *cli.COMMANDS
    ]


def test_an_error_is_one_line_on_stderr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(cli.COMMANDS, "broken", (f"{__name__}:broken", "For this test."))
    result = CliRunner().invoke(cli.telltale, ["--data", str(tmp_path), "broken"])
    assert result.exit_code == 1
    assert (result.stdout, result.stderr) == ("", "Error: The thing is missing; put it there.\n")


def test_an_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(cli.telltale, ["judge"])
    assert result.exit_code == 2
    assert "No such command 'judge'" in result.stderr


def test_a_misspelt_command_is_guessed() -> None:
    result = CliRunner().invoke(cli.telltale, ["dector"])
    assert result.exit_code == 2
    assert "No such command 'dector'. Did you mean 'doctor'?" in result.stderr


def test_no_line_of_help_is_cut_short() -> None:
    context = click.Context(cli.telltale)
    groups = [name for name in cli.COMMANDS if isinstance(cli.telltale.get_command(context, name), click.Group)]
    shown = {name: CliRunner().invoke(cli.telltale, [name, "--help"], terminal_width=80).output for name in groups}
    assert shown and [name for name, text in shown.items() if "..." in text.partition("Commands:")[2]] == []


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            Stack(tmp_path, port=port, outside=Outside.nothing())


def test_commands_go_by_all_that_a_stack_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLTALE_ALLOWED_HOSTS", '["127.0.0.1:9000"]')
    monkeypatch.setenv("TELLTALE_API_KEY", "tt_of_whoever_started_it")
    stack = Stack(tmp_path, outside=Outside.nothing())
    try:
        assert stack.settings["TELLTALE_ALLOWED_HOSTS"] == '["127.0.0.1:9000"]'
        assert stack.settings["TELLTALE_PUBLIC_URL"] == stack.url and "TELLTALE_API_KEY" not in stack.settings
    finally:
        stack.stop()


def test_a_second_start_in_one_folder_is_told_of_the_first_and_not_of_its_port(tmp_path: Path) -> None:
    first = Stack(tmp_path, outside=Outside.nothing())
    try:
        with socket.create_server((LOOPBACK, 0)) as server, pytest.raises(ConfigurationError, match="already runs on"):
            Stack(tmp_path, port=server.getsockname()[1], outside=Outside.nothing())
    finally:
        first.stop()
