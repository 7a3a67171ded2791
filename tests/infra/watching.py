"""A stack that runs, the world around it, and the process that looks at it: what `telltale up` is tested with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import urllib3

from infra.demo.server import Server, answer
from infra.local import RUNNING, TARGETS
from infra.supervision import Supervisor
from tests.images import png

# A word that is in everything a platform or a person might send, and in nothing else.
PRIVATE = "hush6fd1"
PROCESSES = ("api", "relay", "screening", "fetching", "delivery", "retraining", "beat")


class World:
    """What is outside: a server of pictures, and the platform's webhook receiver, which first refuses every event."""

    def __init__(self) -> None:
        self.server = Server(self._handler())
        # Of each delivery that was taken: its event and X-Request-Id.
        self.taken: list[tuple[dict[str, Any], str | None]] = []
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def events_of(self, case_id: str) -> dict[str, str | None]:
        """By type, the request id that came with it."""
        with self._lock:
            return {event["type"]: id_ for event, id_ in self.taken if event["data"]["id"] == case_id}

    def _take(self, headers: Any, body: bytes) -> int:
        with self._lock:
            if headers["webhook-id"] not in self._seen:
                self._seen.add(headers["webhook-id"])
                return 503
            self.taken.append((json.loads(body), headers["x-request-id"]))
            return 204

    def _handler(world) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                answer(self, world._take(self.headers, body))

            def do_GET(self) -> None:
                data = png(seed=2) if self.path.startswith("/picture") else b""
                self.send_response(200 if data else 410)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                """Nothing of it is looked at."""

        return Handler


@dataclass
class Watch:
    """What is seen of a stack, and said to it as a platform."""

    url: str
    supervisor: Supervisor
    world: World
    attendant: subprocess.Popen[str]
    key: str
    pool: urllib3.PoolManager = field(default_factory=urllib3.PoolManager)

    def call(self, method: str, path: str, request_id: str, **options: Any) -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": f"Bearer {self.key}", "X-Request-Id": request_id, **options.pop("headers", {})}
        return self.pool.request(method, self.url + path, headers=headers, **options)

    def found(self) -> dict[str, tuple[str, str]]:
        """What the doctor finds now: by check, its state and what is said."""
        assert self.attendant.stdin is not None and self.attendant.stdout is not None
        self.attendant.stdin.write("examine\n")
        self.attendant.stdin.flush()
        return {name: tuple(said) for name, said in json.loads(self.attendant.stdout.readline()).items()}

    def broken(self) -> list[str]:
        return [name for name, (state, _) in self.found().items() if state == "broken"]

    def logged(self) -> dict[str, str]:
        """By process, all that it has written."""
        return {name: self.supervisor.log_of(name).read_text() for name in PROCESSES}

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        """For the block, these processes and all that they have started neither run nor end."""
        pids = self.supervisor.pids()
        first = [psutil.Process(pids[name]) for name in names]
        group = [each for process in first for each in (process, *process.children(recursive=True))]
        for process in group:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in group:
                process.send_signal(signal.SIGCONT)


@contextmanager
def watched(folder: Path, world: World, environment: Mapping[str, str]) -> Iterator[Watch]:
    """The stack that runs in a folder and was started with this environment, and a platform whose events go out."""
    running = json.loads((folder / RUNNING).read_text())
    hook = f"{world.server.url}/hooks/{PRIVATE}?token={PRIVATE}"
    command = [sys.executable, "-m", "tests.infra.attendant", hook, str(folder / TARGETS)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**environment, **running["environment"]}, **pipes) as attendant:
        assert attendant.stdout is not None
        key = json.loads(attendant.stdout.readline())["key"]
        url = running["environment"]["TELLTALE_PUBLIC_URL"]
        yield Watch(url, Supervisor(folder, [], pid=running["pid"]), world, attendant, key)
        attendant.kill()


def lines_of(logged: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """By process, its lines; what Celery says to root before any logging is set up is not ours to write."""
    whole = {name: text[: text.rfind("\n") + 1] for name, text in logged.items()}
    texts = {name: [line for line in text.splitlines() if line.startswith("{")] for name, text in whole.items()}
    return {name: [json.loads(line) for line in lines] for name, lines in texts.items()}


def submit(watch: Watch) -> tuple[str, str, str]:
    """A file, a link and a link that leads nowhere, each with something private in every field; their cases."""
    told = {"external_id": f"user-{PRIVATE}@example.com", "metadata": {"subject": PRIVATE, "note": f"{PRIVATE}\n?a=b"}}
    form = {"external_id": told["external_id"], "metadata": json.dumps(told["metadata"])}
    parts = {**form, "image": (f"{PRIVATE}.png", png(seed=1), "image/png")}
    answers = [watch.call("POST", f"/v1/submissions?wait=0&x={PRIVATE}", "journey-file", fields=parts)]
    for id_, path in (("journey-link", "picture.png"), ("journey-gone", "nothing")):
        link = f"{watch.world.server.url}/{path}?signature={PRIVATE}"
        answers.append(watch.call("POST", "/v1/submissions", id_, json={"image_url": link, **told}))
    assert [answer.status for answer in answers] == [400, 202, 202], [answer.data for answer in answers]
    answers[0] = watch.call("POST", "/v1/submissions", "journey-file", fields=parts)
    return tuple(answer.json()["id"] for answer in answers)


def misbehave(watch: Watch) -> None:
    """Requests that are refused, each for something private in it."""
    watch.call("GET", f"/v1/cases?external_id={PRIVATE}&limit={PRIVATE}", "refused-query")
    watch.call("GET", f"/{PRIVATE}?token={PRIVATE}", "refused-path")
    watch.call("POST", "/v1/submissions", "refused-json", body=f'{{"{PRIVATE}": '.encode())
    watch.call("GET", "/v1/cases", "refused-key", headers={"Authorization": f"Bearer tt_{PRIVATE}"})
    typed = {"email": f"{PRIVATE}@example.com", "password": PRIVATE}
    watch.call("POST", "/dashboard/sign-in", "refused-person", fields=typed)
