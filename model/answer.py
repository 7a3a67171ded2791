"""An answer's text: out of the tokens an engine wrote, and the verdict out of it where there is no score.

Whole words of the first sentence decide; nothing is guessed. It knows nothing of scores: `detector` reads those.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

Reading = Literal["real", "fake", "unparsable"]

FIRST_SENTENCE = re.compile(r"[^.!?\n]*")
# A word that turns the verdict around, or makes it a question, leaves nothing that can be read with certainty.
DOUBT = re.compile(r"\b(?:not|no|neither|nor|never|cannot|hardly|whether|unclear|unsure|isn't|isn’t)\b", re.IGNORECASE)
# "fake-looking" and "non-fake" are other words, hence no hyphen on either side.
VERDICT = re.compile(r"(?<![\w-])(real|fake)(?![\w-])", re.IGNORECASE)


def parse(answer: str) -> Reading:
    """`real` or `fake` where the first sentence says exactly one of them plainly, else `unparsable`.

    "unrealistic" is not "real"; a sentence with both words, with neither, or with a negation is unparsable.
    """
    match = FIRST_SENTENCE.match(answer.strip())
    sentence = match.group() if match else ""
    words = {word.lower() for word in VERDICT.findall(sentence)}
    if len(words) != 1 or DOUBT.search(sentence):
        return "unparsable"
    return "fake" if words == {"fake"} else "real"


def whole_sentences(text: str) -> str:
    """`text` up to its last complete sentence, for an answer that was cut at a token limit; all of it if none ends."""
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s|$)", text)]
    return text[: ends[-1]] if ends else text


def decoded(tokenizer: Any, opening: Sequence[int], written: Sequence[int]) -> str:
    """The text of an answer that was given `opening` and continued with `written`, both token ids.

    `written` ends with the tokenizer's EOS, or was cut at a limit: then only its whole sentences are kept. A NUL, which
    a network may write and no database holds, becomes a replacement mark.
    """
    ended = bool(written) and written[-1] == tokenizer.eos_token_id
    ids = [*opening, *(written[:-1] if ended else written)]
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").strip()
    return text if ended else whole_sentences(text)
