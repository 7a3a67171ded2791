"""The images both engines are compared on: the demo checkpoint's golden ones, some held-out ones, and two not square.

Also the form a recorded request keeps an image in.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from model.checkpoint import DEMO_FOLDER, SAMPLES_FOLDER
from model.decode import to_rgb

HELDOUT = DEMO_FOLDER.with_name("heldout") / "images"
URI = "data:image/png;base64,"


def golden() -> list[Image.Image]:
    """In the manifest's order."""
    return [to_rgb(path) for path in sorted((DEMO_FOLDER / "golden").glob("*.jpg"))]


def heldout(first: int, count: int) -> list[Image.Image]:
    """Images `first`, `first` + 1 and so on; the first eight are the golden ones."""
    return [to_rgb(path) for path in sorted(HELDOUT.iterdir())[first : first + count]]


def contract() -> list[Image.Image]:
    """Eighteen images: few enough to record, and both labels among them."""
    sample = to_rgb(SAMPLES_FOLDER / "astronaut.png")
    return [*golden(), *heldout(100, 8), sample.crop((0, 0, 192, 110)), sample.crop((40, 0, 140, 190))]


def without_images(body: Mapping[str, Any]) -> str:
    """A request's JSON, with the sha256 of an image's pixels in place of its data URI.

    A PNG of the same pixels may have other bytes with another zlib; everything else must be equal to the byte.
    """

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: replaced(each) for name, each in value.items()}
        if isinstance(value, list):
            return [replaced(each) for each in value]
        return f"sha256:{_digest(value)}" if isinstance(value, str) and value.startswith(URI) else value

    return json.dumps(replaced(body), ensure_ascii=False)


def _digest(uri: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(URI))))
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
