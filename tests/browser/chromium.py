"""Which Chromium the tests drive: the system's, else Playwright's own, else one that is installed now.

There is no skipping: without a browser the tests fail and say what to do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTRUCTIONS = (
    "The dashboard's tests need Chromium, and none could be installed. Install one of your own, such as with\n"
    "    apt-get install chromium-headless-shell      (Debian, as root)\n"
    "    .venv/bin/playwright install chromium        (anywhere that Playwright's downloads can be reached)\n"
    "and run the tests again."
)
INSTALL_TIMEOUT_S = 600


def executable() -> str:
    """Where Chromium is, installed where that is possible. Raises RuntimeError with instructions."""
    found = _of_the_system() or _of_playwright()
    if found is None and _succeeds(sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"):
        found = _of_playwright()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _succeeds("apt-get", "update")
        for package in ("chromium-headless-shell", "chromium"):
            if _succeeds("apt-get", "install", "--yes", "--no-install-recommends", package):
                break
        found = _of_the_system()
    if found is None:
        raise RuntimeError(INSTRUCTIONS)
    return found


def _of_the_system() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _of_playwright() -> str | None:
    kept = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    found = [*kept.glob("chromium*/chrome-*/headless_shell"), *kept.glob("chromium*/chrome-*/chrome*[!.]")]
    return next((str(path) for path in found if path.is_file() and os.access(path, os.X_OK)), None)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, timeout=INSTALL_TIMEOUT_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
