"""`telltale detect --engine vllm`, and the command that starts a server for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.commands.detect import detect
from infra.vllm import serve
from model.checkpoint import DEMO_FOLDER
from model.engines import vllm
from model.manifest import FILE_NAME
from tests.model.engines.replay import Replay, Said, nobody, serving

GOLDEN = DEMO_FOLDER / "golden"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "PAUSES_S", ())


# --- detect ----------------------------------------------------------------------------------------------------------


def test_images_are_judged_through_the_server() -> None:
    with serving(Replay()) as url:
        result = CliRunner().invoke(detect, [str(GOLDEN), "--engine", "vllm", "--url", url, "--json"])
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    goldens = json.loads((DEMO_FOLDER / FILE_NAME).read_text())["golden"]
    assert [each["label"] for each in found] == [golden["label"] for golden in goldens]
    assert [each["explanation"] for each in found] == [golden["text"] for golden in goldens]
    assert {(each["engine"], each["dtype"]) for each in found} == {("vllm", "float32")}


@pytest.mark.parametrize("options", [["--engine", "vllm"], ["--url", "http://localhost:8000"]])
def test_engine_and_address_belong_together(options: list[str]) -> None:
    result = CliRunner().invoke(detect, [str(GOLDEN), *options])
    assert result.exit_code == 2
    assert "--engine vllm and --url belong together" in result.stderr


def test_a_server_s_weights_are_not_quantized_here() -> None:
    result = CliRunner().invoke(detect, ["x.jpg", "--engine", "vllm", "--url", "http://h", "--quantization", "nf4"])
    assert result.exit_code == 2
    assert "a vLLM server loads its weights by itself" in result.stderr


def test_nobody_there_is_one_line() -> None:
    with nobody() as url:
        result = CliRunner().invoke(detect, [str(GOLDEN), "--engine", "vllm", "--url", url])
    assert result.exit_code == 1
    assert f"Error: No vLLM server answers at {url}" in result.stderr


def test_a_server_that_goes_away_ends_the_run() -> None:
    """Instead of the same error for each of ten thousand images."""

    def away(_: object) -> Said:
        return 503, b""

    with serving(Replay({"/v1/chat/completions": away})) as url:
        result = CliRunner().invoke(detect, [str(GOLDEN), "--engine", "vllm", "--url", url, "--json"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "answered 503" in result.stderr


# --- serve.py --------------------------------------------------------------------------------------------------------


def test_the_server_is_named_after_the_version_and_its_dtype() -> None:
    words = serve.command("folder", serve.version_name(str(DEMO_FOLDER)), "bfloat16", ["--port", "8100"])
    assert words[:3] == ["vllm", "serve", "folder"]
    assert words[words.index("--served-model-name") + 1] == "telltale-demo:bfloat16"
    assert words[words.index("--dtype") + 1] == "bfloat16"
    assert words[words.index("--chat-template") + 1] == str(serve.TEMPLATE)
    assert serve.TEMPLATE.is_file()
    assert words[-2:] == ["--port", "8100"]


def test_every_dtype_it_offers_is_one_the_client_knows() -> None:
    for dtype in vllm.DTYPES:
        assert serve.parser().parse_args(["folder", "--dtype", dtype]).dtype == dtype
    with pytest.raises(SystemExit):
        serve.parser().parse_args(["folder", "--dtype", "int8"])


def test_its_name_for_the_manifest_is_the_manifests() -> None:
    assert serve.MANIFEST == FILE_NAME


def test_a_folder_without_a_manifest_needs_a_name(tmp_path: Path) -> None:
    """As its user runs it, in an environment that has neither vLLM nor Telltale."""
    command = [sys.executable, "-I", serve.__file__, str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "pass --name" in refused.stderr
    named = subprocess.run([*command, "--name", "fakevlm"], capture_output=True, text=True, check=False)
    assert "--served-model-name fakevlm:bfloat16" in named.stdout
    assert "vllm" in named.stderr, "there is none here, and Python says so"
    assert named.returncode == 1
