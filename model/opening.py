"""What every command that judges asks for: which checkpoint, and which engine runs it.

torch is imported when a detector is opened, not when a command is listed. It knows nothing of what is judged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from model.detector import Detector
    from model.manifest import Quantization

Command = Callable[..., Any]
INTERRUPTED = 130  # what a shell calls a command that Ctrl-C ended


def checkpoint_options(command: Command) -> Command:
    """`--checkpoint` (as `source`), `--revision`, `--engine`, `--url` and `--quantization`."""
    asked = (
        click.option(
            "--checkpoint",
            "source",
            default="demo",
            show_default=True,
            envvar="TELLTALE_MODEL",
            help="A checkpoint folder, a hub id such as lingcco/fakeVLM@COMMIT, or `demo`, the small one that ships.",
        ),
        click.option("--revision", help="The full commit hash of a hub checkpoint."),
        click.option(
            "--engine",
            type=click.Choice(["transformers", "vllm"]),
            default="transformers",
            show_default=True,
            help="Run the network in this process, or ask a vLLM server (infra/vllm/README.md).",
        ),
        click.option("--url", help="Where the vLLM server is, such as http://localhost:8000; with --engine vllm."),
        click.option(
            "--quantization",
            type=click.Choice(["int8", "nf4"]),
            help="Load the language model in 8 or 4 bits, for a small GPU; its scores differ, and its name says so.",
        ),
    )
    for option in reversed(asked):
        command = option(command)
    return command


def require_agreement(engine: str, url: str | None, quantization: Quantization | None) -> None:
    """Raises UsageError where engine, address and quantization contradict each other."""
    if (engine == "vllm") != (url is not None):
        raise click.UsageError("--engine vllm and --url belong together: one says how, the other where.")
    if url is not None and quantization is not None:
        raise click.UsageError("--quantization is done in this process: a vLLM server loads its weights by itself.")


def open_detector(
    source: str, revision: str | None, url: str | None, quantization: Quantization | None = None
) -> Detector:
    """The detector, with what people must know of it said on standard error.

    Raises ClickException where it cannot be loaded or connected to.
    """
    from transformers.utils import logging as transformers_logging

    from model import checkpoint
    from model.detector import Detector
    from model.engines.engine import EngineError
    from model.manifest import ManifestError

    logging.basicConfig(level=logging.ERROR)  # what matters of it is said here
    transformers_logging.disable_progress_bar()
    try:
        if not checkpoint.has_manifest(source, revision):
            click.echo(f"{source} has no manifest: taken for a FakeVLM, its score is not calibrated.", err=True)
        detector = Detector.open(source, revision=revision, url=url, quantization=quantization)
    except (checkpoint.CheckpointError, ManifestError, EngineError) as error:
        raise click.ClickException(str(error)) from error
    if detector.manifest.is_demo:
        click.echo(f"{detector.manifest.name}: demo model, not FakeVLM", err=True)
    return detector
