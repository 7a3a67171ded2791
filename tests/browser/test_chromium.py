"""Which browser is driven; and where there is none, a failure that says what to do, never a skipped test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.browser import chromium


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any browser; returns where Playwright would keep its own."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    return tmp_path


def test_where_none_can_be_had_it_says_what_to_do(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []
    monkeypatch.setattr(chromium, "_succeeds", lambda *command: tried.append(command) or False)
    with pytest.raises(RuntimeError, match="apt-get install chromium-headless-shell"):
        chromium.executable()
    assert any("playwright" in command for command in tried)


def test_playwrights_own_is_used_where_the_system_has_none(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "_succeeds", lambda *command: install(bare))
    assert chromium.executable() == str(bare / "chromium_headless_shell-1/chrome-linux/headless_shell")


def install(folder: Path) -> bool:
    file = folder / "chromium_headless_shell-1/chrome-linux/headless_shell"
    file.parent.mkdir(parents=True)
    file.touch(mode=0o755)
    return True


def test_the_distributions_is_installed_where_we_are_root(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    def run(*command: str) -> bool:
        commands.append(" ".join(command))
        installed = command[:2] == ("apt-get", "install")
        if installed:
            monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        return installed

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(chromium, "_succeeds", run)
    assert chromium.executable() == "/usr/bin/chromium-headless-shell"
    assert commands[-2:] == [
        "apt-get update",
        "apt-get install --yes --no-install-recommends chromium-headless-shell",
    ]
