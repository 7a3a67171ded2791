"""Start a vLLM server for a checkpoint as Telltale's engine expects it: `python infra/vllm/serve.py CHECKPOINT`.

It runs in vLLM's own environment, and needs nothing of Telltale there but this folder. It knows which options keep the
scores right (prompt, precision, names), and leaves those that make it fast to the caller.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = Path(__file__).with_name("fakevlm.jinja")
MANIFEST = "telltale.json"

# 576 image tokens, the prompt and 256 tokens of explanation make 856 for FakeVLM.
MAX_MODEL_LEN = 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the server: this process is replaced by vLLM's, which therefore gets every signal.

    Raises SystemExit with what to do where the version's name cannot be found.
    """
    given, options = parser().parse_known_args(arguments)
    words = command(given.checkpoint, given.name or version_name(given.checkpoint), given.dtype, options)
    print(shlex.join(words), flush=True)  # noqa: T201 - what was started is what its log should begin with
    os.execv(sys.executable, [sys.executable, "-m", "vllm.entrypoints.cli.main", *words[1:]])


def parser() -> argparse.ArgumentParser:
    """The few options of ours; every other one goes to `vllm serve` as it is."""
    made = argparse.ArgumentParser(
        description="Serve a checkpoint with vLLM for Telltale. Options not listed here go to `vllm serve`."
    )
    made.add_argument("checkpoint", help="a checkpoint folder, or a hub id (then with --revision and --name)")
    made.add_argument("--name", help=f"the model version's name; by default the one in the folder's {MANIFEST}")
    made.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    return made


def version_name(checkpoint: str) -> str:
    """What the checkpoint's manifest calls it. Raises SystemExit where there is none."""
    manifest = Path(checkpoint) / MANIFEST
    if not manifest.is_file():
        raise SystemExit(
            f"{checkpoint} has no {MANIFEST}: pass --name with the name that `telltale models list` shows, or run "
            f"`telltale models register {checkpoint}` first, which writes one into a folder."
        )
    name: str = json.loads(manifest.read_bytes())["name"]
    return name


def command(checkpoint: str, name: str, dtype: str, options: Sequence[str] = ()) -> list[str]:
    """The words of the command. `options` come last, so that they win over ours.

    The served name carries the dtype, because vLLM's API does not tell it and a verdict must. The head runs in float32,
    as in the engine in process: in bfloat16 a logit near 20 moves in steps of 0.125. A checkpoint's own generation
    defaults (temperature, penalties) are left aside.
    """
    ours = {
        "--served-model-name": f"{name}:{dtype}",
        "--dtype": dtype,
        "--hf-overrides": '{"head_dtype": "float32"}',
        "--chat-template": str(TEMPLATE),
        "--chat-template-content-format": "openai",
        "--limit-mm-per-prompt": '{"image": 1}',
        "--max-model-len": str(MAX_MODEL_LEN),
        "--generation-config": "vllm",
    }
    return ["vllm", "serve", checkpoint, *(word for pair in ours.items() for word in pair), *options]


if __name__ == "__main__":
    main()
