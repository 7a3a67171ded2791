"""The two examples of the client's README work as they stand there."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import infra.client
from moderation import signing
from tests.infra.client.conftest import Moody
from tests.infra.client.distribution import FOLDER

SUBMIT, TAKE = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)


@pytest.fixture(autouse=True)
def as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name that it is imported by where it is installed."""
    monkeypatch.setitem(sys.modules, "telltale_client", infra.client)


def test_submitting(
    moody: Moody, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(b"bytes")
    moody.says(202, {"id": "1", "status": "queued"})
    moody.says(200, {"id": "1", "status": "decided", "decision": {"label": "fake", "by": "policy"}})
    exec(SUBMIT.replace("https://telltale.example.com", moody.url).replace("tt_…", "tt_k"), {})
    assert capsys.readouterr().out == "fake by policy\n"


def test_taking_a_webhook(capsys: pytest.CaptureFixture[str]) -> None:
    secret = signing.new_secret()
    names: dict[str, Any] = {}
    exec(TAKE.replace("whsec_…", secret), names)
    case = {"external_id": "post-1", "sequence": 4, "decision": {"label": "fake"}}
    body = json.dumps({"type": "decision.created", "timestamp": "…", "data": case}).encode()
    headers = signing.sign([secret], "msg-1", datetime.now(UTC), body)
    assert names["take"](headers, body) == 204
    assert capsys.readouterr().out == "post-1 {'label': 'fake'}\n"
    assert names["take"](headers, body + b" ") == 401
