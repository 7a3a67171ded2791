"""Record what a real vLLM server answers to our client, for the tests to replay.

    vllm-venv/bin/python infra/vllm/serve.py model/demo/checkpoint --dtype float32 --port 8100
    .venv/bin/python -m tests.model.engines.record http://127.0.0.1:8100

(`infra/vllm/README.md` says how such a server is installed on a machine without a GPU.) Our client speaks to a proxy
here, which passes everything on and keeps it. Needed again when what the client asks, the demo checkpoint or the
images of the contract change.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from typing import Any

import httpx

from model.checkpoint import DEMO
from model.detector import Detector
from tests.model.engines.album import contract, without_images
from tests.model.engines.replay import RECORDED, Said, serving

# What the server refuses: a model it does not serve, an answer longer than it has room for.
HELLO = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
UNKNOWN_MODEL = {"model": "another", "messages": HELLO}
TOO_LONG = {"messages": HELLO, "max_tokens": 5000}


class Recorder:
    """Passes requests on to the server at `url`, and keeps them with their answers."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=300)
        self._lock = threading.Lock()
        self.exchanges: list[dict[str, Any]] = []

    def __call__(self, method: str, path: str, body: bytes) -> Said:
        """See `replay.Respond`."""
        response = self._http.request(method, path, content=body, headers={"content-type": "application/json"})
        request = json.loads(without_images(json.loads(body))) if body else None
        answer = {"status": response.status_code, "response": response.json()}
        with self._lock:
            self.exchanges.append({"method": method, "path": path, "request": request, **answer})
        return response.status_code, response.json()

    def write(self, name: str) -> None:
        """What was exchanged since the last call, in an order that does not depend on threads."""
        with self._lock:
            kept, self.exchanges = self.exchanges, []
        kept.sort(key=lambda each: (each["path"], json.dumps(each["request"])))
        (RECORDED / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str]) -> None:
    """Record connecting, judging, explaining, completing, and two refusals."""
    [url] = arguments
    recorder = Recorder(url)
    with serving(recorder) as proxy:
        detector = Detector.connect(proxy, DEMO)
        recorder.write("connecting")
        prepared = [detector.prepare(image) for image in contract()]
        detector.detect_prepared(prepared, explain=False)
        recorder.write("judging")
        detector.detect_prepared(prepared)
        recorder.exchanges = [each for each in recorder.exchanges if each["request"]["max_tokens"] > 1]
        recorder.write("explaining")
        detector.complete_prepared(prepared[:4])
        recorder.write("completing")
        for body in (UNKNOWN_MODEL, TOO_LONG):
            httpx.post(f"{proxy}/v1/chat/completions", json=body)
        recorder.write("refusing")


if __name__ == "__main__":
    main(sys.argv[1:])
