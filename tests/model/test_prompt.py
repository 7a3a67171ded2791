"""A prompt becomes the same ids in training and serving, and one that a tokenizer cannot carry is refused."""

from __future__ import annotations

import pytest

from model.manifest import Prompt
from model.prompt import PromptError, encode, encode_answer, encode_prompt
from tests.model import tiny


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return tiny.tokenizer()


def test_prompt_is_raw_with_bos_and_image_tokens(tokenizer) -> None:
    ids = encode_prompt(tokenizer, Prompt(), image_token="<image>", image_tokens=16)
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert ids[:17] == (tokenizer.bos_token_id, *[image] * 16)
    assert tokenizer.decode(ids[17:]) == "Does the image looks real/fake?"


def test_prefix_verdict_and_suffix_spell_the_answer(tokenizer) -> None:
    tokens = encode(tokenizer, Prompt(), image_token="<image>", image_tokens=16)
    for label in ("real", "fake"):
        spelt = tokenizer.decode([*tokens.prefix, tokens.verdict(label), *tokens.suffix])
        assert spelt == f" This is a {label} image."
        assert encode_answer(tokenizer, Prompt(), f"This is a {label} image.") == (
            *tokens.prefix,
            tokens.verdict(label),
            *tokens.suffix,
        )


def test_the_placeholder_must_be_there_once(tokenizer) -> None:
    for text in ("Is it real?", "<image><image>Is it real?"):
        with pytest.raises(PromptError, match="exactly once"):
            encode_prompt(tokenizer, Prompt(text=text), image_token="<image>", image_tokens=16)


@pytest.mark.parametrize("words", [(" real", " synthetic"), (" real", " real")])
def test_verdict_words_must_be_two_single_tokens(tokenizer, words: tuple[str, str]) -> None:
    prompt = Prompt(real_word=words[0], fake_word=words[1])
    with pytest.raises(PromptError, match="token"):
        encode(tokenizer, prompt, image_token="<image>", image_tokens=16)
