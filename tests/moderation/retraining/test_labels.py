"""What reviewers made of an image: whose answer stands, and which of their words a model is to learn."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from moderation.retraining.labels import LeftOut, agreed, answer
from moderation.tables import Review, ReviewedSentence
from moderation.vocabulary import Answer, Grade, Label, ReviewReason
from tests.learning import WORDING

LEAD, ANNA, BEN = uuid4(), uuid4(), uuid4()
REAL, FAKE, UNSURE = Answer.REAL, Answer.FAKE, Answer.CANNOT_TELL
APPEAL, UNCERTAIN = ReviewReason.APPEAL, ReviewReason.UNCERTAIN
RIGHT, WRONG, UNCLEAR = Grade


def said(
    who: UUID, what: Answer, why: ReviewReason = UNCERTAIN, sentences: list[ReviewedSentence] | None = None
) -> Review:
    return Review(user_id=who, answer=what, reason=why, sentences=sentences or [])


def sentence(said: str | None, grade: Grade | None, written: str | None = None) -> ReviewedSentence:
    return ReviewedSentence(said=said, grade=grade, written=written)


@pytest.mark.parametrize(
    ("reviews", "outcome"),
    [
        ([said(ANNA, FAKE)], Label.FAKE),
        ([said(ANNA, FAKE), said(BEN, FAKE)], Label.FAKE),
        ([said(ANNA, FAKE), said(BEN, REAL)], LeftOut.DISAGREEMENT),
        ([said(ANNA, FAKE), said(LEAD, REAL)], LeftOut.DISAGREEMENT),
        ([said(ANNA, FAKE), said(BEN, REAL), said(LEAD, REAL)], Label.REAL),
        ([said(ANNA, FAKE), said(BEN, REAL), said(ANNA, FAKE)], LeftOut.DISAGREEMENT),
        ([said(ANNA, UNSURE)], LeftOut.CANNOT_TELL),
        ([said(ANNA, UNSURE), said(LEAD, FAKE)], Label.FAKE),
        ([said(ANNA, FAKE), said(BEN, UNSURE)], LeftOut.CANNOT_TELL),
        ([said(ANNA, FAKE), said(BEN, REAL, APPEAL)], Label.REAL),
        ([said(ANNA, FAKE), said(BEN, REAL), said(BEN, FAKE, APPEAL)], Label.FAKE),
        ([said(ANNA, FAKE, APPEAL), said(BEN, REAL, APPEAL)], Label.REAL),
        ([said(BEN, REAL, APPEAL), said(ANNA, FAKE)], Label.REAL),
    ],
)
def test_whose_answer_stands(reviews: list[Review], outcome: Label | LeftOut) -> None:
    assert agreed(reviews, {LEAD}) is outcome


def test_sentences_stand_as_they_were_graded_edited_and_added() -> None:
    review = said(
        ANNA,
        FAKE,
        sentences=[
            sentence("This is a fake image.", RIGHT),
            sentence("The hand has six fingers.", RIGHT),
            sentence("The light is even.", WRONG),
            sentence("Something is off.", UNCLEAR),
            sentence("The sky is green.", WRONG, "The sky is\n pale"),
            sentence("Edges melt.", RIGHT, "Edges melt into the wall."),
            sentence(None, None, "The text is garbled!"),
        ],
    )
    assert answer([review], Label.FAKE, WORDING) == (
        "This is a fake image. The hand has six fingers. The sky is pale. Edges melt into the wall. "
        "The text is garbled!"
    )


def test_what_anybody_calls_wrong_is_never_learned() -> None:
    first = said(ANNA, FAKE, sentences=[sentence("The sky is green.", WRONG)])
    last = said(BEN, FAKE, sentences=[sentence("The sky is green.", RIGHT), sentence("Edges melt.", RIGHT)])
    assert answer([first, last], Label.FAKE, WORDING) == "This is a fake image. Edges melt."


def test_what_was_graded_wrong_is_not_learned_where_it_was_written_again() -> None:
    """As by somebody who opened the editor, and left the sentence as it was."""
    again = sentence("The sky is green.", WRONG, "the sky is  green")
    last = said(BEN, FAKE, sentences=[again, sentence(None, None, "Edges melt.")])
    assert answer([last], Label.FAKE, WORDING) == "This is a fake image. Edges melt."


def test_where_nothing_is_left_the_answer_stands_alone() -> None:
    nothing = said(ANNA, REAL, sentences=[sentence("This is a fake image.", WRONG), sentence("Seams.", UNCLEAR)])
    assert answer([nothing], Label.REAL, WORDING) == "This is a real image."


def test_words_of_who_was_overruled_are_not_learned() -> None:
    overruled = said(ANNA, FAKE, sentences=[sentence(None, None, "Six fingers.")])
    appeal = said(BEN, REAL, APPEAL, [sentence(None, None, "A glove with six fingers.")])
    assert answer([overruled, appeal], Label.REAL, WORDING) == "This is a real image. A glove with six fingers."
