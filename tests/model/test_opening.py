"""Whatever somebody names is opened: what is asked of the loader, and of a server's client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model import manifest as manifests
from model.checkpoint import has_manifest
from model.detector import Detector
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
    Detector.open(str(tiny_checkpoint))
    assert has_manifest(tiny_checkpoint)
    assert asked == [("load", (tiny_checkpoint,), {"revision": None, "manifest": manifests.read(tiny_checkpoint)})]


def test_a_hub_checkpoint_is_taken_for_a_fakevlm_at_its_commit(asked: list[Any]) -> None:
    Detector.open(f"lingcco/fakeVLM@{COMMIT}")
    assert not has_manifest(f"lingcco/fakeVLM@{COMMIT}")
    [(name, given, named)] = asked
    assert (name, given, named["revision"]) == ("load", ("lingcco/fakeVLM",), COMMIT)
    assert (named["manifest"].kind, named["manifest"].prompt.text) == ("fakevlm", FAKEVLM_PROMPT)
    assert (named["manifest"].revision, named["manifest"].calibration.method) == (COMMIT, "none")


def test_a_folder_without_a_manifest_is_taken_for_a_fakevlm(tmp_path: Path, asked: list[Any]) -> None:
    Detector.open(str(tmp_path))
    assert not has_manifest(tmp_path)
    assert asked[0][2]["manifest"].kind == "fakevlm"


def test_a_server_is_connected_to_and_no_weights_are_loaded(tiny_checkpoint: Path, asked: list[Any]) -> None:
    Detector.open(str(tiny_checkpoint), url="http://gpu:8100")
    [(name, given, named)] = asked
    assert (name, given) == ("connect", ("http://gpu:8100", tiny_checkpoint))
    assert named == {"revision": None, "manifest": manifests.read(tiny_checkpoint)}


def test_fewer_bits_are_a_version_of_its_own(tiny_checkpoint: Path, asked: list[Any]) -> None:
    plain = manifests.read(tiny_checkpoint)
    Detector.open(str(tiny_checkpoint), quantization="nf4")
    [(_, _, named)] = asked
    found = named["manifest"]
    assert (found.quantization, found.name) == ("nf4", f"{plain.name}-nf4")
    assert (found.golden, found.metrics, found.prompt) == ((), {}, plain.prompt)
    Detector.open(str(tiny_checkpoint), quantization=None)
    assert asked[1][2]["manifest"] == plain
