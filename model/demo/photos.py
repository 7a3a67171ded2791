"""The photos the demo checkpoint is trained and tested on: where each comes from, whose it is, and which side it is on.

Only photos in the public domain, CC0, CC-BY or CC-BY-SA. Some are bundled with scikit-image and scikit-learn; the
others are in Debian packages, whose machine-readable copyright files (DEP-5) name author and licence file by file. A
package is downloaded and unpacked, never installed. Nothing here knows what is done with the photos.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import io
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.decode import to_rgb

Split = Literal["train", "validation", "test"]

PACKAGES = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "gcompris-qt-data", "libjxl-testdata")

# Shares of each source's photos; the rest is trained on.
TEST_SHARE, VALIDATION_SHARE = 0.20, 0.15

FREE_LICENCE = re.compile(r"public-domain|CC0(-1\.0)?|CC-BY(-SA)?-\d\.\d")
MIN_SIDE = 200  # pixels; below that a photo gives hardly one 96-pixel crop at half its size

# Licences as the docstrings of skimage.data state them; authors where they name one.
SKIMAGE = {
    "astronaut.png": ("NASA", "public-domain"),
    "brick.png": ("CC0Textures", "CC0-1.0"),
    "camera.png": ("Lav Varshney", "CC0-1.0"),
    "chelsea.png": ("Stefan van der Walt", "CC0-1.0"),
    "clock_motion.png": ("Stefan van der Walt", "public-domain"),
    "coffee.png": ("Rachel Michetti", "CC0-1.0"),
    "coins.png": ("Brooklyn Museum", "public-domain"),
    "grass.png": ("CC0Textures", "CC0-1.0"),
    "gravel.png": ("CC0Textures", "CC0-1.0"),
    "hubble_deep_field.jpg": ("NASA", "public-domain"),
    "rocket.jpg": ("SpaceX", "public-domain"),
}
SKLEARN = {"china.jpg": ("danielbuechele", "CC-BY-2.0"), "flower.jpg": ("vultilion", "CC-BY-2.0")}

# Drawings and renderings among the wallpapers and the fish, and two near copies.
NO_PHOTOS = re.compile(r"analogpattern|umang|Fossa|Infinite-Sea|Painting|alphabets|numbers|blackslate")
ILLUSTRATORS = {"Duane Raver"}


class PhotosUnavailable(RuntimeError):
    """The photos could not be fetched; the message says what is missing."""


@dataclass(frozen=True)
class Photo:
    """One photo: `name` is `source/stem`, unique; `path` is an image file below the recipe's work folder."""

    name: str
    author: str
    licence: str
    source: str
    path: Path

    def pixels(self) -> Image.Image:
        """RGB, upright; greyscale photos become grey RGB."""
        return to_rgb(self.path)


def collect(work: Path) -> list[Photo]:
    """Every usable photo, sorted by name; Debian packages are fetched into `work` when not there yet.

    Raises PhotosUnavailable.
    """
    work.mkdir(parents=True, exist_ok=True)
    photos = bundled()
    roots = {package: unpack(package, work) for package in PACKAGES}
    photos += _lomiri(roots["lomiri-wallpapers-16.04"], "16.04") + _lomiri(roots["lomiri-wallpapers-20.04"], "20.04")
    photos += _gcompris(roots["gcompris-qt-data"], work / "gcompris-photos")
    photos += _wesaturate(roots["libjxl-testdata"])
    kept = [photo for photo in photos if not NO_PHOTOS.search(photo.name) and photo.author not in ILLUSTRATORS]
    return sorted(kept, key=lambda photo: photo.name)


def bundled() -> list[Photo]:
    """The photos that come with scikit-image and scikit-learn: nothing is fetched. Raises PhotosUnavailable."""
    return [*_bundled("skimage", "data", SKIMAGE), *_bundled("sklearn", "datasets/images", SKLEARN)]


def split(names: Sequence[str]) -> dict[str, Split]:
    """Which side each photo is on: by the hash of its name, the same shares of every source.

    Photos of one source resemble each other (size, compression), so every side gets some of each.
    """
    sides: dict[str, Split] = {}
    for source in sorted({name.split("/")[0] for name in names}):
        ours = sorted((name for name in names if name.startswith(source + "/")), key=_order)
        tested, validated = round(len(ours) * TEST_SHARE), round(len(ours) * VALIDATION_SHARE)
        for place, name in enumerate(ours):
            sides[name] = "test" if place < tested else "validation" if place < tested + validated else "train"
    return sides


def unpack(package: str, work: Path) -> Path:
    """The unpacked contents of a Debian package, below `work`.

    Raises PhotosUnavailable where apt-get or dpkg is missing or the download fails.
    """
    root = work / "packages" / package
    if root.is_dir():
        return root
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise PhotosUnavailable(
            f"The recipe takes photos from Debian packages ({', '.join(PACKAGES)}) and needs apt-get."
        )
    archives = work / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", package], archives)
    archive = next(archives.glob(f"{package}_*.deb"))
    partial = root.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    _run(["dpkg", "-x", archive.name, str(partial.resolve())], archives)
    return partial.rename(root)


def read_copyright(text: str) -> list[tuple[str, str, str]]:
    """`(pattern, author, licence)` of every file pattern in a DEP-5 copyright file, in order: the last match wins."""
    found = []
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*((?:.*)(?:\n[ \t]+.*)*)", stanza, re.MULTILINE))
        if "Files" not in fields or "License" not in fields:
            continue
        author = "; ".join(re.sub(r"^[\d., -]+", "", line.strip()) for line in fields["Copyright"].splitlines())
        author = re.sub(r",? \d{4}$", "", re.sub(r"\s*<[^>]*>", "", author)).strip('" ')
        found += [(pattern, author, fields["License"].splitlines()[0].strip()) for pattern in fields["Files"].split()]
    return found


def read_qt_resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every uncompressed file in a Qt resource collection (.rcc).

    Layout: header `qres`, version, offsets of tree, data and names; all numbers big-endian (Qt's rcc.cpp).
    """
    version, tree, blobs, names = struct.unpack(">4I", data[4:20])
    node_size = 22 if version >= 2 else 14

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", data, names + offset)
        return data[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")

    def walk(node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * node_size
        name, flags = struct.unpack_from(">IH", data, at)
        path = f"{folder}/{name_at(name)}" if node else ""
        if flags & 2:
            count, first = struct.unpack_from(">2I", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif flags == 0:
            (offset,) = struct.unpack_from(">I", data, at + 10)
            (length,) = struct.unpack_from(">I", data, blobs + offset)
            yield path.lstrip("/"), data[blobs + offset + 4 : blobs + offset + 4 + length]

    return walk(0, "")


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.SubprocessError as error:
        raise PhotosUnavailable(f"{' '.join(command)} failed: {getattr(error, 'stderr', '') or error}") from error


def _bundled(module: str, folder: str, listed: dict[str, tuple[str, str]]) -> list[Photo]:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise PhotosUnavailable(f"{module} is not installed: pip install -e '.[dev]'")
    root = Path(found.origin).parent / folder
    return [
        Photo(f"{module}/{Path(name).stem}", author, licence, f"bundled with {module}", root / name)
        for name, (author, licence) in listed.items()
    ]


def _licence_of(path: str, stanzas: list[tuple[str, str, str]]) -> tuple[str, str] | None:
    """Author and licence of a file under a free licence, else None. A catch-all stanza (`*`) names nobody.

    Suffixes are ignored: packages convert their photos (JPEG to WebP) and leave the copyright file as it was.
    """
    stem = path.rsplit(".", 1)[0]
    matches = [
        (author, licence)
        for pattern, author, licence in stanzas
        if fnmatch.fnmatch(stem, re.sub(r"\.\w{3,4}$", "", pattern)) and pattern != "*"
    ]
    return matches[-1] if matches and FREE_LICENCE.fullmatch(matches[-1][1]) else None


def _lomiri(root: Path, series: str) -> list[Photo]:
    stanzas = read_copyright(next(root.glob("usr/share/doc/*/copyright")).read_text())
    photos = []
    for path in sorted(root.glob("usr/share/backgrounds/*.jpg")):
        if found := _licence_of(f"{series}/{path.name}", stanzas):
            photos.append(Photo(f"lomiri/{path.stem}", *found, f"Debian package lomiri-wallpapers-{series}", path))
    return photos


def _gcompris(root: Path, cache: Path) -> list[Photo]:
    """Photos of a children's learning program: most are small (320 × 240), each with author and licence."""
    stanzas = read_copyright((root / "usr/share/doc/gcompris-qt-data/copyright").read_text())
    cache.mkdir(exist_ok=True)
    photos = []
    for activity in ("categorization", "explore_world_animals"):
        resources = (root / f"usr/share/gcompris-qt/rcc/{activity}.rcc").read_bytes()
        for path, data in read_qt_resources(resources):
            found = _licence_of(path.removeprefix("gcompris/"), stanzas) if path.endswith(".webp") else None
            if found and _is_opaque_and_large(data):
                file = cache / Path(path).name
                file.write_bytes(data)
                photos.append(Photo(f"gcompris/{file.stem}", *found, "Debian package gcompris-qt-data", file))
    return photos


def _is_opaque_and_large(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.mode == "RGB" and min(image.size) >= MIN_SIDE


def _wesaturate(root: Path) -> list[Photo]:
    folder = root / "usr/share/libjxl-testdata/external/wesaturate/500px"
    return [
        Photo(f"wesaturate/{path.stem}", path.stem.split("_")[1], "CC0-1.0", "Debian package libjxl-testdata", path)
        for path in sorted(folder.glob("*_srgb8.png"))
    ]


def texture(pixels: NDArray[np.uint8]) -> float:
    """Mean absolute difference of neighbouring grey values, 0–255: a clear sky has about 1, foliage 10 and more."""
    grey = pixels.astype(np.float32).mean(axis=-1)
    return float((np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2)
