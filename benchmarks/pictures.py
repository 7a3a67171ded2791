"""Pictures to time a detector on: drawn, of many sizes, and easy to tell apart, so that a small network can be sure.

What is timed is the work that an image causes, not how hard it is to judge. Knows nothing of networks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from model.prompt import Label

# Sentences are chained per kind of picture, so that answers differ in length as FakeVLM's do: its training rows hold
# 700 to 750 tokens, of which about 585 are the prompt.
REAL = (
    "The light falls evenly from one side and the shadows agree with it.",
    "Edges stay continuous where one surface passes behind another.",
    "Fine grain runs through the whole frame, as a sensor leaves it.",
    "Colours drift slowly from warm to cool without any banding.",
    "Highlights roll off gently and keep a trace of detail.",
    "The background loses focus gradually, in keeping with the depth of the scene.",
    "No part of the picture repeats itself, and no contour ends without a cause.",
    "Small irregularities are spread at random, which is typical of a photograph.",
)
FAKE = (
    "A regular pattern covers the surface, and its period does not change with distance.",
    "The same motif repeats at equal steps, as upsampling layers leave it.",
    "Edges break where the pattern meets them, and contours are doubled.",
    "Texture is too uniform for the lighting of the scene.",
    "Contrast alternates between neighbouring cells without a physical cause.",
    "Shadows do not follow the direction of the light.",
    "The grid remains visible in dark and bright areas alike.",
    "Transitions between regions are abrupt and lie on straight lines.",
)
KINDS: tuple[tuple[Label, str], ...] = (
    ("real", "warm"),
    ("real", "cool"),
    ("real", "green"),
    ("real", "grey"),
    ("fake", "rows"),
    ("fake", "columns"),
    ("fake", "checks"),
    ("fake", "dots"),
)
TINTS = {"warm": (1.0, 0.55, 0.3), "cool": (0.35, 0.55, 1.0), "green": (0.4, 0.9, 0.4), "grey": (0.7, 0.7, 0.7)}
# How many sentences the dark and the bright pictures of each kind are explained with.
SENTENCES = ((4, 6), (5, 8), (7, 5), (6, 8), (5, 8), (4, 7), (8, 6), (7, 5))
PERIOD = 8  # pixels of a pattern at the network's own size


@dataclass(frozen=True)
class Picture:
    """One JPEG file's bytes, its label, and the answer a network learns to give."""

    jpeg: bytes
    label: Label
    answer: str


def pictures(count: int, seed: int, side: int) -> Iterator[Picture]:
    """`count` pictures, whose patterns have their period once the short side is scaled to `side` pixels."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        kind, bright = int(rng.integers(len(KINDS))), bool(rng.integers(2))
        label, style = KINDS[kind]
        pixels = _draw(rng, style, bright, side)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=int(rng.integers(75, 95)))
        yield Picture(stream.getvalue(), label, answer(kind, bright))


def answer(kind: int, bright: bool) -> str:
    """What is said of one kind of picture; dark and bright ones are explained at different lengths."""
    label, _ = KINDS[kind]
    sentences = REAL if label == "real" else FAKE
    chosen = [sentences[(kind * 3 + place) % len(sentences)] for place in range(SENTENCES[kind][bright])]
    return " ".join([f"This is a {label} image.", f"The picture is {'bright' if bright else 'dark'}.", *chosen])


def answers() -> list[str]:
    return [answer(kind, bright) for kind in range(len(KINDS)) for bright in (False, True)]


def _draw(rng: np.random.Generator, style: str, bright: bool, side: int) -> np.ndarray:
    """A soft field of colour, three to four times as wide as the network sees it in all, with a pattern or none."""
    scale = float(rng.uniform(1.2, 2.4))
    height, width = (int(side * scale * float(stretch)) for stretch in (1, rng.uniform(1, 1.5)))
    field = Image.fromarray(rng.integers(60, 196, (5, 7, 3), dtype=np.uint8)).resize((width, height), 2)
    pixels = np.asarray(field, dtype=np.float32)
    level = 1.15 if bright else 0.55
    tint = np.array(TINTS.get(style, (0.8, 0.7, 0.6)), dtype=np.float32)
    pixels = pixels * tint * level + rng.normal(0, 4, pixels.shape)
    if style not in TINTS:
        pixels *= 1 + 0.45 * _pattern(style, height, width, PERIOD * scale)[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _pattern(style: str, height: int, width: int, period: float) -> np.ndarray:
    """Values of −1 and 1."""
    rows, columns = np.mgrid[:height, :width] * (2 * np.pi / period)
    waves = {
        "rows": np.sin(rows),
        "columns": np.sin(columns),
        "checks": np.sin(rows) * np.sin(columns),
        "dots": np.minimum(np.sin(rows), np.sin(columns)) + 0.3,
    }
    return np.sign(waves[style])
