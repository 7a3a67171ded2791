"""Answers are read by whole words of the first sentence, and never guessed."""

from __future__ import annotations

import pytest

from model.answer import decoded, parse, whole_sentences
from tests.model import tiny


@pytest.mark.parametrize(
    ("answer", "reading"),
    [
        ("This is a real image.", "real"),
        ("This is a fake image. The hands have six fingers.", "fake"),
        ("  this image is FAKE", "fake"),
        ("This is a real image. Nothing in it looks fake.", "real"),
        ("Fake.", "fake"),
        ("This is an unrealistic image.", "unparsable"),
        ("This really is an image.", "unparsable"),
        ("This could be real or fake.", "unparsable"),
        ("This is not a real image.", "unparsable"),
        ("This isn't a fake image.", "unparsable"),
        ("This is a fake-looking image.", "unparsable"),
        ("This is an image. It is fake.", "unparsable"),
        ("", "unparsable"),
        ("1", "unparsable"),
    ],
)
def test_reading(answer: str, reading: str) -> None:
    assert parse(answer) == reading


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("This is a fake image. The edges are", "This is a fake image."),
        ("This is a fake image. The edges ring.", "This is a fake image. The edges ring."),
        ('He said "no." And th', 'He said "no."'),
        ("At 0.5 the score", "At 0.5 the score"),
        ("no end", "no end"),
    ],
)
def test_a_cut_answer_ends_at_its_last_sentence(text: str, kept: str) -> None:
    assert whole_sentences(text) == kept


def test_an_answer_holds_nothing_that_a_database_does_not() -> None:
    tokenizer = tiny.tokenizer()
    written = tokenizer("It is\0odd.", add_special_tokens=False)["input_ids"]
    assert decoded(tokenizer, (), [*written, tokenizer.eos_token_id]) == "It is\N{REPLACEMENT CHARACTER}odd."
