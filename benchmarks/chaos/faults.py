"""What goes wrong, and how it is made to: processes killed or stopped, the store's quota full, endpoints in bad moods.

Each fault is done to the real thing from outside, as the kernel, a disk or a network would. It knows no schedule.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psycopg

from benchmarks.chaos.platforms import GONE, Platform, add_endpoint, remove_strays
from benchmarks.chaos.receivers import Mood, Receivers
from infra.local import Stack
from infra.services import Postgres, SeaweedFS, weed
from moderation.settings import Settings

Kind = TypeVar("Kind")
# As the issue names them, and the worker that reads links.
KILLED = ("api", "relay", "screening", "delivery", "beat", "valkey", "postgres", "seaweedfs", "fetching")
# What holds leases of some kind, and the three services, as a network that is cut would have it.
PAUSED = ("api", "relay", "screening", "fetching", "delivery", "valkey", "postgres", "seaweedfs")
PAST_A_LEASE_S = 3.0
START_PATIENCE_S = 30.0
PREY_PATIENCE_S = 4.0
QUOTA_MB, ROOM_MB, BALLAST_BYTES = 1, 100_000, 1_500_000
BALLAST = "ballast"
QUOTA_S = (6.0, 12.0)
MOOD_S = (8.0, 14.0)

# What a kill should hit in the middle of its work, and how that is seen.
AT_WORK = {
    "screening": "SELECT count(*) FROM cases WHERE status = 'screening' AND lease_until > now()",
    "fetching": "SELECT count(*) FROM cases WHERE status = 'fetching' AND lease_until > now()",
    "delivery": "SELECT count(*) FROM deliveries WHERE status = 'pending' AND lease_until > now()",
}


@dataclass
class Ground:
    """Where faults happen, and the list of those that did."""

    stack: Stack
    receivers: Receivers
    platforms: list[Platform]
    settings: Settings
    moody: list[str]
    gone: list[str]
    lot: random.Random
    tell: Callable[[str], None]
    kills: Counter[str] = field(default_factory=Counter)
    pauses: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    at_work: int = 0
    _stopped: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def kill(self, program: str) -> None:
        """SIGKILL, for Postgres sometimes its immediate shutdown; the workers in the middle of their work."""
        if program in AT_WORK and self._wait_for_work(AT_WORK[program]):
            self.at_work += 1
        pid = self._pid(program)
        number = signal.SIGKILL
        if program == "api" and self.lot.random() < 0.5:
            pid = self.lot.choice(children(pid) or [pid])
        if program == "postgres" and self.lot.random() < 0.5:
            number = signal.SIGQUIT
        os.kill(pid, number)
        self.kills[program] += 1
        self.tell(f"kill   {program} ({number.name}, pid {pid})")

    def pause(self, program: str) -> None:
        """SIGSTOP of the whole program for longer than what it holds is its own; then SIGCONT."""
        seconds = self._lease_s(program) + PAST_A_LEASE_S
        pids = family(self._pid(program))
        self.tell(f"pause  {program} for {seconds:.0f} s")
        with self._lock:
            self._stopped.update(pids)
        for pid in pids:
            signal_if_alive(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in pids:
            signal_if_alive(pid, signal.SIGCONT)
        with self._lock:
            self._stopped.difference_update(pids)
        self.pauses[program] += 1

    def fill_quota(self, name: str) -> None:
        """The bucket's quota is full for a while: it can be read, and nothing more is written."""
        self._set_quota(QUOTA_MB, full=True)
        seconds = self.lot.uniform(*QUOTA_S)
        self.tell(f"quota  of the image store full for {seconds:.0f} s")
        time.sleep(seconds)
        self.lift_quota()
        self.others[name] += 1

    def lift_quota(self) -> None:
        """Make room for what is to come."""
        self._set_quota(ROOM_MB, full=False)

    def _set_quota(self, size_mb: int, *, full: bool) -> None:
        """And enforce it, until it shows: the store counts its bytes every few seconds, and may just be away."""
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            self._shell(f"s3.bucket.quota -name={self.settings.s3_bucket} -sizeMB={size_mb} -op=set")
            if self._is_full() is full:
                return
            time.sleep(1)
        raise RuntimeError(f"The image store's quota could not be {'filled' if full else 'lifted'}.")

    def spoil_mood(self, name: str) -> None:
        """The moody endpoints behave badly for a while."""
        mood, seconds = Mood(name), self.lot.uniform(*MOOD_S)
        self.tell(f"moody  endpoint {mood.value} for {seconds:.0f} s")
        for endpoint in self.moody:
            self.receivers.set_mood(endpoint, mood)
        time.sleep(seconds)
        for endpoint in self.moody:
            self.receivers.set_mood(endpoint, Mood.WELL)
        self.others[name] += 1

    def be_gone(self, name: str) -> None:
        """An endpoint answers 410 from now on, and its platform registers another one."""
        self.tell(f"moody  endpoint {Mood.GONE.value}, for good")
        self.receivers.set_mood(self.gone[-1], Mood.GONE)
        self.others[name] += 1
        time.sleep(self.lot.uniform(*MOOD_S))
        self.gone.append(add_endpoint(self.platforms[0], self.stack.url, self.receivers, GONE))

    def heal(self) -> None:
        """Nothing is wrong any longer."""
        with self._lock:
            for pid in self._stopped:
                signal_if_alive(pid, signal.SIGCONT)
        self.receivers.all_well()
        self.lift_quota()
        for platform in self.platforms:
            remove_strays(platform, self.stack.url, self.receivers)

    def put_ballast(self) -> None:
        """What fills the quota, once it is set."""
        self._service(SeaweedFS).client().put_object(
            Bucket=self.settings.s3_bucket, Key=BALLAST, Body=os.urandom(BALLAST_BYTES)
        )

    def _lease_s(self, program: str) -> float:
        from workers.delivery import MARGIN

        if program == "delivery":
            return self.settings.delivery_timeout_s + MARGIN.total_seconds()
        return self.settings.case_lease_s

    def _pid(self, program: str) -> int:
        """Of the program, once it runs: it may just be starting again."""
        deadline = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < deadline:
            pid = self.stack.supervisor.pids().get(program)
            if pid is not None:
                return pid
            time.sleep(0.1)
        raise RuntimeError(f"{program} has not been started again within {START_PATIENCE_S:.0f} s.")

    def _wait_for_work(self, query: str) -> bool:
        """Return as soon as there is something to interrupt; False where there was nothing for a while."""
        deadline = time.monotonic() + PREY_PATIENCE_S
        try:
            address = self._service(Postgres).database_url().replace("+psycopg", "")
            with psycopg.connect(address, autocommit=True, connect_timeout=2) as connection:
                while time.monotonic() < deadline:
                    if connection.execute(query).fetchone() != (0,):
                        return True
                    time.sleep(0.01)
        except psycopg.OperationalError:
            pass  # another fault has it
        return False

    def _is_full(self) -> bool | None:
        """None where it cannot be asked."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._service(SeaweedFS).client().put_object(Bucket=self.settings.s3_bucket, Key="probe", Body=b"?")
        except ClientError as error:
            return error.response["Error"]["Code"] == "InternalError"
        except BotoCoreError:
            return None
        return False

    def _shell(self, command: str) -> None:
        """Through the store's own shell; nothing where the store is away, which is then asked again."""
        ports = self._service(SeaweedFS).inner_ports
        shell = [
            *(weed(), "shell"),
            f"-master=127.0.0.1:{ports['master.port']}.{ports['master.port.grpc']}",
            f"-filer=127.0.0.1:{ports['filer.port']}.{ports['filer.port.grpc']}",
        ]
        commands = "\n".join(("lock", command, "s3.bucket.quota.enforce -apply", "unlock", "exit", ""))
        log = self.stack.supervisor.logs / "quota.log"
        with log.open("a") as output:
            try:
                subprocess.run(
                    shell,
                    input=commands,
                    text=True,
                    timeout=15,
                    stdout=output,
                    stderr=output,
                    cwd=log.parent,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                output.write("the store's shell did not end\n")

    def _service(self, kind: type[Kind]) -> Kind:
        return next(service for service in self.stack.services if isinstance(service, kind))


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """A process and all that it and its children have started."""
    return [pid, *(one for child in children(pid) for one in family(child))]


def signal_if_alive(pid: int, number: signal.Signals) -> None:
    """Another fault may have ended it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
