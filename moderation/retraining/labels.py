"""What reviewers made of an image, and in which words: the label they agree on, and the answer a model should give.

Of one case's reviews, all of which have taken effect. It knows nothing of who may review, and asks nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from moderation.tables import Review, ReviewedSentence
from moderation.vocabulary import Answer, Grade, Label, ReviewReason


class LeftOut(StrEnum):
    """Why a reviewed case is not learned from."""

    RESTRICTED = "restricted"
    ERASED = "erased"
    FORGOTTEN = "forgotten"  # its verdict was kept for its time: of what reviewers wrote of it nothing is left
    OPEN = "open"  # appealed, or asked again, and not answered yet
    CANNOT_TELL = "cannot_tell"
    DISAGREEMENT = "disagreement"
    CONTRADICTED = "contradicted"  # another case of the same image was answered otherwise
    DUPLICATE = "duplicate"  # another case of the same image was answered the same
    NO_CONSENT = "no_consent"  # its tenant does not allow training (any more)


@dataclass(frozen=True)
class Wording:
    """How a model is asked, and how its answers begin: the prompt of the version that is trained on."""

    question: str
    real: str
    fake: str

    def opening(self, label: Label) -> str:
        return self.fake if label is Label.FAKE else self.real


def agreed(reviews: Sequence[Review], leads: Collection[UUID]) -> Label | LeftOut:
    """The label that one case's reviews, in order, come to, or why they come to none. `leads` are users' ids.

    The last answer to an appeal stands, whatever came before. Otherwise all must say the same, or a lead has answered
    after two who did not. An answer of "cannot tell" counts for nothing, unless it is the last.
    """
    told = [review for review in reviews if review.answer is not Answer.CANNOT_TELL]
    if not told or reviews[-1].answer is Answer.CANNOT_TELL:
        return LeftOut.CANNOT_TELL
    last = told[-1]
    if last.reason is ReviewReason.APPEAL or len({review.answer for review in told}) == 1:
        return Label(last.answer.value)
    appeals = [review for review in told if review.reason is ReviewReason.APPEAL]
    if appeals:
        return Label(appeals[-1].answer.value)
    if len(told) > 2 and last.user_id in leads:
        return Label(last.answer.value)
    return LeftOut.DISAGREEMENT


def answer(reviews: Sequence[Review], label: Label, wording: Wording) -> str:
    """The answer a model should give: its opening sentence, then what the last review with this label left standing.

    A sentence graded right as it was said, an edited one as it was written, then what was added; none that any review
    of the case calls wrong, also where somebody wrote it again, and none that is unclear. Where nothing is left, the
    opening sentence alone.
    """
    deciding = [review for review in reviews if review.answer.value == label.value][-1]
    wrong = [said.said for review in reviews for said in review.sentences if said.grade is Grade.WRONG]
    unsaid = {_line(text).casefold() for text in (wording.real, wording.fake, *wrong)}
    kept = [text for said in deciding.sentences if (text := _standing(said))]
    return " ".join([wording.opening(label), *(text for text in kept if text.casefold() not in unsaid)])


def _standing(sentence: ReviewedSentence) -> str:
    """What is left of one sentence."""
    if sentence.written is None and sentence.grade is not Grade.RIGHT:
        return ""
    return _line(sentence.said if sentence.written is None else sentence.written)


def _line(text: str | None) -> str:
    """As one line that ends."""
    text = " ".join((text or "").split())
    return text if not text or text.rstrip("\"'”’)]").endswith((".", "!", "?")) else f"{text}."
