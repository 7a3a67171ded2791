"""Small FakeClue-format data sets: blue images are real, red ones fake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from model.manifest import FAKEVLM_PROMPT

COLORS = {0: "red", 1: "blue"}


def row(image: str, label: int, answer: str | None = None, question: str = FAKEVLM_PROMPT) -> dict[str, Any]:
    word = "real" if label else "fake"
    return {
        "image": image,
        "label": label,
        "cate": "object",
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": answer or f"This is a {word} image. It is {COLORS[label]}."},
        ],
    }


def write(folder: Path, count: int = 8, extra: list[dict[str, Any]] | None = None, *, flipped: bool = False) -> Path:
    """`count` images, alternately fake and real, and a records file; `extra` rows come after them.

    Where it is `flipped`, the rows call every image what it is not.
    """
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        Image.new("RGB", (40, 40), COLORS[number % 2]).save(folder / "images" / f"{number}.png")
        rows.append(row(f"images/{number}.png", (number + flipped) % 2))
    path = folder / "records.json"
    path.write_text(json.dumps(rows + (extra or [])))
    return path
