"""A manifest's prompt as token ids: what is fed, how an answer follows it, and where the verdict is read.

Training and serving both take their ids from here, so they cannot disagree about a space or a BOS. An answer follows
the prompt after one space, and is tokenised together with it: standalone, a SentencePiece tokenizer would put a second
space mark before ` real`. It knows nothing of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from model.manifest import Prompt

Label = Literal["real", "fake"]


class PromptError(ValueError):
    """This tokenizer cannot carry this prompt; the message says which rule broke."""


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of one prompt under one tokenizer.

    `prompt` is BOS, the image's tokens and the text; `prefix` the answer's opening up to the verdict; `suffix` what
    closes the first sentence. The verdict is one of `real` and `fake`, at the position after `prompt + prefix`.
    """

    prompt: tuple[int, ...]
    prefix: tuple[int, ...]
    real: int
    fake: int
    suffix: tuple[int, ...]

    @property
    def prefill(self) -> tuple[int, ...]:
        return self.prompt + self.prefix

    def verdict(self, label: Label) -> int:
        return self.fake if label == "fake" else self.real


def encode_prompt(tokenizer: Any, prompt: Prompt, *, image_token: str, image_tokens: int) -> tuple[int, ...]:
    """The prompt with its image placeholder repeated `image_tokens` times, and the tokenizer's BOS, if it has one.

    Raises PromptError unless the text holds the placeholder exactly once.
    """
    if prompt.text.count(image_token) != 1:
        raise PromptError(f"The prompt must contain {image_token} exactly once: {prompt.text!r}.")
    return tuple(tokenizer(prompt.text.replace(image_token, image_token * image_tokens))["input_ids"])


def encode_answer(tokenizer: Any, prompt: Prompt, answer: str) -> tuple[int, ...]:
    """The ids of `answer` as they follow the prompt, without BOS or EOS.

    Raises PromptError where the tokenizer would merge the prompt's last token with the answer's first, or ends every
    text with EOS.
    """
    alone = tokenizer(prompt.text)["input_ids"]
    together = tokenizer(f"{prompt.text} {answer}")["input_ids"]
    if together[: len(alone)] != alone:
        raise PromptError(f"The tokenizer merges the end of {prompt.text!r} with the answer, or adds EOS between them.")
    return tuple(together[len(alone) :])


def encode(tokenizer: Any, prompt: Prompt, *, image_token: str, image_tokens: int) -> PromptTokens:
    """Everything the detector feeds, checked.

    Raises PromptError unless ` real` and ` fake` are one known token each, at the same place, with the same suffix.
    """
    prefix = encode_answer(tokenizer, prompt, prompt.verdict_prefix)
    real, real_suffix = _split(tokenizer, prompt, "real", prefix)
    fake, fake_suffix = _split(tokenizer, prompt, "fake", prefix)
    if real == fake or real_suffix != fake_suffix or tokenizer.unk_token_id in (real, fake):
        raise PromptError(
            f"{prompt.real_word!r} and {prompt.fake_word!r} must each be one token of this tokenizer, unlike the other."
        )
    return PromptTokens(
        prompt=encode_prompt(tokenizer, prompt, image_token=image_token, image_tokens=image_tokens),
        prefix=prefix,
        real=real,
        fake=fake,
        suffix=real_suffix,
    )


def _split(tokenizer: Any, prompt: Prompt, label: Label, prefix: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The verdict's token and the suffix after it, of one label's opening sentence."""
    opening = encode_answer(tokenizer, prompt, prompt.answer_start(label))
    until_word = encode_answer(tokenizer, prompt, prompt.answer_start(label).removesuffix(prompt.verdict_suffix))
    if until_word[:-1] != prefix or opening[: len(until_word)] != until_word:
        raise PromptError(f"The verdict in {prompt.answer_start(label)!r} is not a single token of this tokenizer.")
    return until_word[-1], opening[len(until_word) :]
