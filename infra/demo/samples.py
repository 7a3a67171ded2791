"""The sample images that ship with the demo checkpoint, and a server for those that are submitted as links."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import model.demo
from infra.demo.server import Server
from moderation.errors import ConfigurationError

FOLDER = Path(model.demo.__file__).parent / "samples"
INDEX = "samples.json"


@dataclass(frozen=True)
class Sample:
    """One image file, whose name is its id, and what it really is: `real` or `fake`."""

    path: Path
    truth: str

    @property
    def name(self) -> str:
        return self.path.name


def samples(folder: Path = FOLDER) -> list[Sample]:
    """The shipped samples, in the order of their index. Raises ConfigurationError where one is missing."""
    index = folder / INDEX
    if not index.is_file():
        raise ConfigurationError(f"There are no sample images: {index} is missing; `make demo-checkpoint` makes them.")
    entries = json.loads(index.read_text())["samples"]
    listed = [Sample(folder / entry["file"], entry["label"]) for entry in entries]
    missing = [sample.name for sample in listed if not sample.path.is_file()]
    if missing:
        raise ConfigurationError(f"Sample images are missing in {folder}: {', '.join(missing)}.")
    return listed


def sample_server(folder: Path = FOLDER) -> Server:
    """Serves the samples at `/<name>`."""
    return Server(partial(_Quiet, directory=str(folder)))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing: the table will."""
