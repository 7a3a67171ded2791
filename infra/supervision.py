"""Keeps processes alive: supervisord with a generated configuration, started and asked through its own interface.

A process that dies is started again; when the whole ends, or whoever started it is killed, every process ends. It
knows commands, not what they do.
"""

from __future__ import annotations

import configparser
import http.client
import io
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client  # nosec B411
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from infra import tether
from moderation.errors import ConfigurationError

# Longer than a clean stop needs, short enough for somebody who pressed Ctrl-C; then SIGKILL.
STOP_TIMEOUT_S = 10
START_TIMEOUT_S = 60
# Relative to supervisord's folder, where it stays.
SOCKET = "supervisor.sock"
LOGS = "log"


@dataclass(frozen=True)
class Program:
    """One process to keep running. Programs of one group start and stop together."""

    name: str
    group: str
    command: Sequence[str]
    folder: Path
    user: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    # What it gets when supervisord itself was killed.
    orphan_signal: str = "KILL"


@dataclass
class Supervisor:
    """supervisord over `programs`. Groups stop in the reverse of the order given.

    Its configuration, socket and logs are in `folder`. `pid` is None until it is started; give that of a running one
    to talk to it from another process.
    """

    folder: Path
    programs: Sequence[Program]
    environment: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def logs(self) -> Path:
        """Where each program's output goes, and supervisord's own."""
        return self.folder / LOGS

    def log_of(self, program: str) -> Path:
        """The file that one program's output goes to; at 20 MB a new one begins."""
        return self.logs / f"{program}.log"

    def start(self) -> Self:
        """Start supervisord, but no program yet. Must be called on a thread that outlives it, such as the main one.

        Raises ConfigurationError where it does not come up.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        file = self.folder / "supervisord.conf"
        file.touch(mode=0o600)
        file.write_text(self._configuration())
        (self.folder / SOCKET).unlink(missing_ok=True)
        command = [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", file.name]
        self._process = subprocess.Popen(
            tethered(command, "TERM", parent=str(os.getpid())),
            cwd=self.folder,
            env=environment_with(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Ctrl-C on the terminal is for whoever started this; it then stops the programs in order. And the programs
            # know by it who their parent must be.
            start_new_session=True,
        )
        self.pid = self._process.pid
        return self

    def wait_started(self) -> None:
        """Return once supervisord answers. Raises ConfigurationError where it ended instead."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._rpc.supervisor.getState()
                return
            except (OSError, http.client.HTTPException):
                ended = self._process is not None and self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"supervisord did not start; see {self.logs / 'supervisord.log'}"
                    ) from None
                time.sleep(0.02)

    def start_group(self, group: str) -> None:
        """Start the programs of one group; does not wait until they are ready."""
        self._rpc.supervisor.startProcessGroup(group, False)

    def stop_group(self, group: str) -> None:
        """Stop the programs of one group, and return once they have ended."""
        self._rpc.supervisor.stopProcessGroup(group)

    def states(self) -> dict[str, str]:
        """Each program's state in supervisord's words: STOPPED, STARTING, RUNNING, BACKOFF, FATAL, …"""
        return {info["name"]: info["statename"] for info in self._information()}

    def pids(self) -> dict[str, int]:
        """The process id of each program that runs now."""
        return {info["name"]: info["pid"] for info in self._information() if info["pid"]}

    def alive(self) -> bool:
        """Whether supervisord, started by this object, still runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End every program, group by group, then supervisord; return when all have ended. Safe to repeat."""
        if self._process is None:
            return
        self._process.terminate()
        groups = {program.group for program in self.programs}
        try:
            self._process.wait(STOP_TIMEOUT_S * (len(groups) + 1))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _information(self) -> Iterable[dict[str, Any]]:
        answer: Any = self._rpc.supervisor.getAllProcessInfo()
        return list(answer)

    @property
    def _rpc(self) -> xmlrpc.client.ServerProxy:
        """A fresh connection, so that any thread and any process may ask."""
        from supervisor.xmlrpc import SupervisorTransport

        # supervisord's working folder, as in its configuration.
        transport = SupervisorTransport(None, None, f"unix:///proc/{self.pid}/cwd/{SOCKET}")
        return xmlrpc.client.ServerProxy("http://supervisor", transport=transport)

    def _configuration(self) -> str:
        config = configparser.RawConfigParser()
        # By way of the working folder: the path of a unix socket is limited to 107 bytes.
        config["unix_http_server"] = {"file": f"/proc/self/cwd/{SOCKET}", "chmod": "0600"}
        config["supervisord"] = {
            **{"logfile": f"{LOGS}/supervisord.log", "pidfile": "supervisord.pid", "silent": "true"},
            **{"nodaemon": "true", "minfds": "1024"},
        }
        config["rpcinterface:supervisor"] = {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }
        for priority, group in enumerate(dict.fromkeys(program.group for program in self.programs)):
            members = [program.name for program in self.programs if program.group == group]
            config[f"group:{group}"] = {"programs": ",".join(members), "priority": str(priority)}
        for program in self.programs:
            config[f"program:{program.name}"] = self._section(program)
        text = io.StringIO()
        config.write(text)
        return text.getvalue()

    def _section(self, program: Program) -> dict[str, str]:
        command = tethered(program.command, program.orphan_signal, program.user)
        return {
            "command": " ".join(quoted(part) for part in command),
            "directory": escaped(program.folder),
            "environment": ",".join(f'{name}="{escaped(value)}"' for name, value in program.variables.items()),
            "stopsignal": program.stop_signal,
            "stopwaitsecs": str(STOP_TIMEOUT_S),
            "killasgroup": "true",
            "autostart": "false",
            "autorestart": "true",
            # It waits a second longer before each new try; the sum is more than a day.
            "startretries": "500",
            "redirect_stderr": "true",
            "stdout_logfile": f"{LOGS}/{program.name}.log",
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "1",
        }


def tethered(
    command: Sequence[str], signal_name: str, user: str | None = None, parent: str = tether.LEADER
) -> list[str]:
    """`command`, which gets the signal when its parent ends, however that ends; run as `user` (needs root).

    `parent` is the id of the process that will start it, by default the leader of that one's session.
    """
    # -I and -S: neither the environment nor site-packages, for speed and because another user may not read them.
    return [sys.executable, "-I", "-S", str(Path(tether.__file__)), parent, signal_name, user or "-", *command]


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with `variables` on top: for a process to be started."""
    return {**os.environ, **variables}


def escaped(value: str | Path) -> str:
    """`value` as supervisord's configuration wants it."""
    return str(value).replace("%", "%%")


def quoted(part: str) -> str:
    """One word of a command line in supervisord's configuration, which splits words as a shell does."""
    return escaped(shlex.quote(part))
