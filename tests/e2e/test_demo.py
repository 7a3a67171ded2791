"""`telltale demo` as a new user runs it: everything from nothing, up until Ctrl-C, and nothing left behind.

That the next run takes the folder up again is the stack's (tests/infra/test_up.py) and the platform's
(tests/infra/test_commands_demo.py); that `--once` ends by itself is seen on processes that start at once.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import urllib3
from click.testing import CliRunner
from rich.console import Console

from infra.cli import telltale
from infra.commands import demo as command
from infra.demo.samples import Sample, samples
from infra.services import LOOPBACK, free_port, is_free
from moderation.settings import settings
from tests.e2e.processes import Stage, wait_for
from tests.forked import Nursery
from tests.infra.test_supervision import eventually

# A run takes about 25 s on two idle cores; other tests may be using them.
RUN_TIMEOUT_S = 300
pytestmark = pytest.mark.timeout(2 * RUN_TIMEOUT_S + 60)
LAST_LINE = re.compile(r"demo: (\d+) submitted, (\d+) settled, (\d+) explained, (\d+) webhooks verified, 0 failed")


class Demo:
    """A `telltale demo` in a process of its own, its output kept."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        call = "from infra.cli import telltale; telltale()"
        # Without the TELLTALE_* of the tests' own services.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TELLTALE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", call, "demo", "--data", str(folder), *arguments],
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        """Where the test failed before it had ended, it goes on for nobody."""
        if self.process.poll() is None:
            self.process.kill()
            self.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait(self) -> int:
        status = self.process.wait(RUN_TIMEOUT_S)
        self._reader.join()
        return status

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


def left_running(folder: Path) -> list[str]:
    """The command lines of processes that were given the folder, or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            works_in = str((process / "cwd").readlink())
        except OSError:
            continue  # it has ended meanwhile
        if str(folder) in command or works_in.startswith(str(folder)):
            found.append(command)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own temporary folder: its path may be closed to the user PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="telltale-demo-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def signs_in(output: str) -> bool:
    """Whether the moderator that was printed gets into the dashboard that was printed."""
    found = re.search(r"dashboard  (http://\S+)\s+moderator  (\S+), password (\S+)", output)
    assert found is not None, output
    address, email, password = found.groups()
    form = urllib3.request("GET", f"{address}/sign-in")
    token = re.search(r'name="csrf_token" value="(\w+)"', form.data.decode())
    assert token is not None
    answer = urllib3.request(
        "POST",
        f"{address}/sign-in",
        fields={"csrf_token": token[1], "email": email, "password": password},
        headers={"Cookie": form.headers["Set-Cookie"].partition(";")[0]},
        redirect=False,
    )
    return (answer.status, answer.headers.get("Location")) == (303, "/dashboard/queue")


def test_every_sample_is_judged_explained_and_told_of(folder: Path) -> None:
    with Demo(folder) as demo:
        stays = "It stays up until Ctrl-C."
        assert eventually(lambda: stays in demo.output or demo.process.poll() is not None, RUN_TIMEOUT_S), demo.output
        address = re.search(r"API  (http://\S+)", demo.output)
        assert address is not None, demo.output
        assert urllib3.request("GET", f"{address[1]}/health/ready").status == 200
        assert signs_in(demo.output)
        assert left_running(folder) != []
        demo.process.send_signal(signal.SIGINT)
        assert demo.wait() == 0, demo.output
        counts = LAST_LINE.fullmatch(demo.lines[-1])
        assert counts is not None, demo.output
        assert {int(count) for count in counts.groups()} == {len(samples())}
        assert "demo model, not FakeVLM" in demo.output
        assert left_running(folder) == []


@pytest.fixture
def few(champion: UUID, redis_url: str, nursery: Nursery, tmp_path: Path) -> Iterator[list[Sample]]:
    """Samples that a demo sends, both ways, to processes that start at once on the tests' own services."""
    sent = samples()[:3]
    with pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def running(console: Console, data: Path, port: int, environment: Mapping[str, str]) -> Iterator[Any]:
            url = f"http://{LOOPBACK}:{(port := free_port())}"
            for name, value in {**environment, "TELLTALE_PUBLIC_URL": url}.items():
                patch.setenv(name, value)
            settings.cache_clear()
            stage = Stage(nursery, tmp_path, {})
            try:
                stage.api(port)
                for start in (stage.relay, stage.screening, stage.fetching, stage.delivery):
                    start()
                wait_for(lambda: not is_free(port), "the api", stage=stage, timeout_s=RUN_TIMEOUT_S)
                yield SimpleNamespace(folder=data, url=url, supervisor=SimpleNamespace(logs=tmp_path))
            finally:
                stage.end()

        patch.setattr(command, "running", running)
        patch.setattr("infra.demo.samples.samples", lambda: sent)
        yield sent
    settings.cache_clear()


def test_once_ends_with_the_table(few: list[Sample], tmp_path: Path) -> None:
    result = CliRunner().invoke(telltale, ["demo", "--once", "--data", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    *shown, last = result.output.splitlines()
    assert LAST_LINE.fullmatch(last) and shown[-1] == "Stopping …"
    assert all(sample.name in result.output for sample in few)
