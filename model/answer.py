"""Reading the verdict out of an answer's text, for answers that came without a score.

Whole words of the first sentence decide; nothing is guessed. It knows nothing of scores: `detector` reads those.
"""

from __future__ import annotations

import re
from typing import Literal

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
