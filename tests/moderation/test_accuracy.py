"""Accuracy: what audits, second opinions and answers against verdicts say of decisions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from moderation import accuracy
from moderation.db import transaction
from moderation.estimates import wilson
from moderation.tables import User
from moderation.vocabulary import Answer, Label, ReviewReason
from tests.history import Said, make_past
from tests.moderation.test_insight import Platform, at
from tests.reviewing import make_person


@pytest.fixture
def platform(db: Engine) -> Platform:
    return Platform()


def test_audits_tell_errors_precision_and_recall_by_their_weights(platform: Platform) -> None:
    platform.audited(36, 0.95, Answer.FAKE)  # stand for 360 fakes found
    platform.audited(4, 0.95, Answer.REAL)  # 40 reals called fake
    platform.audited(45, 0.05, Answer.REAL, 0.5)  # 90 reals found
    platform.audited(5, 0.05, Answer.FAKE, 0.5)  # 10 fakes missed
    platform.audited(3, 0.95, Answer.CANNOT_TELL)
    make_past(platform.past, at(1), 0.95, audit_probability=0.1)  # not answered yet
    make_past(platform.past, at(1), 0.95)  # not audited
    platform.write()
    with transaction() as session:
        found = accuracy.audits(session, platform.selection())
    assert (found.unclear, found.waiting) == (3, 1)
    assert found.precision[Label.FAKE].found == wilson(0.9, 40)
    assert found.precision[Label.REAL].found == wilson(0.9, 50)
    assert found.errors.found is not None and found.errors.n == 90
    assert found.errors.found.value == pytest.approx(50 / 500)
    recall = found.recall[Label.FAKE]
    assert recall.found is not None and recall.found.value == pytest.approx(360 / 370)
    assert found.recall[Label.REAL].found is not None
    assert found.recall[Label.REAL].found.value == pytest.approx(90 / 130)


def test_an_audit_that_is_appealed_is_an_audit_still(platform: Platform) -> None:
    """The lot was drawn before; likely errors are appealed, and would be missing otherwise."""
    audit, appeal, later = ReviewReason.AUDIT, ReviewReason.APPEAL, timedelta(hours=5)
    for said in (
        [Said(platform.anna, Answer.REAL, appeal)],  # appealed before anybody answered the audit
        [Said(platform.anna, Answer.FAKE, audit), Said(platform.bert, Answer.REAL, appeal, later)],
        [Said(platform.anna, Answer.CANNOT_TELL, appeal), Said(platform.bert, Answer.REAL, appeal, later)],
        [],
    ):
        for _ in range(8):
            make_past(platform.past, at(1), 0.95, said, audit_probability=0.1)
    for _ in range(8):  # appealed, and no audit was drawn
        make_past(platform.past, at(1), 0.95, [Said(platform.anna, Answer.REAL, appeal)])
    platform.write()
    with transaction() as session:
        found = accuracy.audits(session, platform.selection())
    assert (found.errors.n, found.unclear, found.waiting) == (24, 0, 8)
    assert found.errors.found is not None and found.errors.found.value == 1.0


def test_no_audits_no_numbers(platform: Platform) -> None:
    make_past(platform.past, at(1), 0.95)
    platform.write()
    with transaction() as session:
        found = accuracy.audits(session, platform.selection())
    assert (found.errors.n, found.errors.found) == (0, None)


def test_opinions_are_paired_and_compared_with_the_model(platform: Platform) -> None:
    anna, bert = platform.anna, platform.bert
    second = ReviewReason.SECOND_OPINION
    for first, then, count in (
        (Answer.FAKE, Answer.FAKE, 12),
        (Answer.REAL, Answer.REAL, 8),
        (Answer.FAKE, Answer.REAL, 4),
        (Answer.REAL, Answer.CANNOT_TELL, 1),
    ):
        for _ in range(count):
            said = [Said(anna, first), Said(bert, then, second, timedelta(hours=3), blind=True)]
            make_past(platform.past, at(2), 0.6, said, category="food")
    platform.write()
    with transaction() as session:
        found = accuracy.reviewers(session, platform.selection())
    assert found.pairs == {("fake", "fake"): 12, ("real", "real"): 8, ("fake", "real"): 4, ("real", "cannot_tell"): 1}
    assert found.opinions.n == 25 and found.opinions.kappa is not None
    # Observed 20/25; by chance 16/25·12/25 + 9/25·12/25 = 12/25.
    assert found.opinions.kappa.value == pytest.approx((0.8 - 0.48) / (1 - 0.48))
    assert found.with_model.seeing.n == 25 and found.with_model.seeing.found == wilson(16 / 25, 25)
    assert found.with_model.blind.found == wilson(0.5, 24)
    assert found.with_model.unclear == 1
    assert list(found.by_category) == ["food"] and list(found.by_version) == [platform.version.name]


def test_who_decides_between_two_opinions_is_no_opinion(platform: Platform) -> None:
    """A lead sees both; and who gave the first one does not give the second too."""
    anna, bert, second = platform.anna, platform.bert, ReviewReason.SECOND_OPINION
    with transaction() as session:
        lead = session.get_one(User, make_person(session, platform.tenant).user_id)
    first = Said(anna, Answer.FAKE)
    then, last = timedelta(hours=3), timedelta(hours=9)
    for said in (
        [first, Said(bert, Answer.REAL, second, then), Said(lead, Answer.FAKE, second, last)],
        [first, Said(bert, Answer.CANNOT_TELL, second, then), Said(lead, Answer.FAKE, second, last)],
        [first, Said(anna, Answer.FAKE, second, then)],
    ):
        make_past(platform.past, at(2), 0.6, said)
    platform.write()
    with transaction() as session:
        found = accuracy.reviewers(session, platform.selection())
    assert found.pairs == {("fake", "real"): 1, ("fake", "cannot_tell"): 1}
