"""Which detector is measured: what is asked of the loader, and of a server's client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.detector import Detector
from model.evaluate import loading
from model.manifest import FAKEVLM_PROMPT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Every call that would have loaded weights or connected."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for name in ("load", "connect"):
        monkeypatch.setattr(Detector, name, lambda *given, _name=name, **named: calls.append((_name, given, named)))
    return calls


def test_a_checkpoint_with_a_manifest_speaks_for_itself(tiny_checkpoint: Path, asked: list[Any]) -> None:
    _, has_manifest = loading.load(str(tiny_checkpoint), None, "transformers", None)
    assert has_manifest
    assert asked == [("load", (tiny_checkpoint,), {"revision": None, "manifest": None})]


def test_a_hub_checkpoint_is_taken_for_a_fakevlm_at_its_commit(asked: list[Any]) -> None:
    _, has_manifest = loading.load(f"lingcco/fakeVLM@{COMMIT}", None, "transformers", None)
    assert not has_manifest
    [(name, given, named)] = asked
    assert (name, given, named["revision"]) == ("load", ("lingcco/fakeVLM",), COMMIT)
    assert (named["manifest"].kind, named["manifest"].prompt.text) == ("fakevlm", FAKEVLM_PROMPT)
    assert (named["manifest"].revision, named["manifest"].calibration.method) == (COMMIT, "none")


def test_a_folder_without_a_manifest_is_taken_for_a_fakevlm(tmp_path: Path, asked: list[Any]) -> None:
    _, has_manifest = loading.load(str(tmp_path), None, "transformers", None)
    assert not has_manifest
    assert asked[0][2]["manifest"].kind == "fakevlm"


def test_a_server_is_connected_to_and_no_weights_are_loaded(tiny_checkpoint: Path, asked: list[Any]) -> None:
    loading.load(str(tiny_checkpoint), None, "vllm", "http://gpu:8100")
    assert asked == [("connect", ("http://gpu:8100", tiny_checkpoint), {"revision": None, "manifest": None})]
