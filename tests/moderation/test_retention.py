"""Retention: what is too old goes, in batches, and nothing that waits, is reviewed, is held or is shared."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select, text, update

from moderation import cases, descriptions, retention
from moderation.db import transaction, turn
from moderation.errors import InvalidRequest
from moderation.retention import Periods
from moderation.tables import Case, Event, Explanation, Image, RetentionPass, Tenant, Verdict
from moderation.vocabulary import CaseStatus, EventType, Kept
from tests.factories import make_case, make_image, make_tenant
from tests.learning import make_review
from tests.reading import copy, reading_few
from tests.reviewing import make_person, make_review_case

NONE = dict.fromkeys(Kept, 0)


def keep(tenant: Tenant, **days: int | None) -> None:
    """Appeals are taken for a day, unless told otherwise, so that anything else may end."""
    with transaction() as session:
        retention.set_periods(session, tenant.id, Periods(**{"appeals": 1, **days}), actor="user:x")


def made(tenant: Tenant, days: float, status: CaseStatus = CaseStatus.DECIDED, **fields: object) -> Case:
    """A case that came in and was settled so many days ago."""
    with transaction() as session:
        case = make_case(session, tenant, status, **{"external_id": f"post-{days}", **fields})  # type: ignore[arg-type]
    age(case, days)
    return case


def age(case: Case, days: float) -> None:
    then = func.now() - timedelta(days=days)
    with transaction() as session:
        settled = {"settled_at": then} if session.get_one(Case, case.id).settled_at else {}
        session.execute(update(Case).where(Case.id == case.id).values(created_at=then, **settled))


def now(case: Case) -> Case:
    with transaction() as session:
        found = session.get_one(Case, case.id)
        assert found.submission is not None and found.image is not None  # loaded here
        return found


def gone(case: Case) -> set[Kept]:
    """What of a case is gone."""
    found = now(case)
    assert found.image is not None
    signs = {
        Kept.IMAGES: found.image.erased_at is not None,
        Kept.VERDICTS: found.verdict_id is None,
        Kept.EVENTS: found.submission.external_id is None,
    }
    return {kept for kept, is_gone in signs.items() if is_gone}


def again() -> None:
    """As if a day had passed since the last passes ended."""
    with transaction() as session:
        session.execute(update(RetentionPass).values(ended_at=RetentionPass.ended_at - timedelta(days=2)))


def test_nothing_goes_where_nothing_is_set(tenant: Tenant) -> None:
    case = made(tenant, 5000)
    assert retention.sweep() == NONE and gone(case) == set()


def test_each_kind_has_its_own_time(tenant: Tenant) -> None:
    keep(tenant, images=30, verdicts=365, events=730)
    ages = {20: set(), 40: {Kept.IMAGES}, 400: {Kept.IMAGES, Kept.VERDICTS}, 800: set(Kept)}
    found = {days: made(tenant, days) for days in ages}
    assert retention.sweep() == {Kept.IMAGES: 3, Kept.VERDICTS: 2, Kept.EVENTS: 1}
    assert {days: gone(case) for days, case in found.items()} == ages
    oldest = now(found[800])
    assert oldest.label is not None and oldest.decided_by is not None, "the decision stays"
    assert oldest.image is not None and oldest.image.sha256, "and the tombstone"
    with transaction() as session:
        shown = descriptions.describe(session.get_one(Case, oldest.id))
    assert (shown["verdict"], shown["metadata"], shown["decision"]["label"]) == (None, {}, "fake")


def test_verdicts_go_with_their_words_and_events_repeat_neither(tenant: Tenant) -> None:
    keep(tenant, verdicts=10)
    with transaction() as session:
        case = make_review_case(session, tenant, text="Anna has six fingers.")
        session.execute(
            update(Case).where(Case.id == case.id).values(status="decided", label="fake", decided_by="policy")
        )
    age(case, 11)
    assert retention.sweep()[Kept.VERDICTS] == 1
    with transaction() as session:
        counts = [session.scalar(select(func.count()).select_from(row)) for row in (Verdict, Explanation)]
        told = session.scalars(select(Event).where(Event.case_id == case.id, Event.data.is_not(None))).all()
    assert counts == [0, 0]
    assert told and all(event.data is not None and event.data["verdict"] is None for event in told)
    assert now(case).score is None


@pytest.mark.parametrize("status", [CaseStatus.QUEUED, CaseStatus.SCREENING, CaseStatus.IN_REVIEW])
def test_what_waits_or_is_reviewed_stays_however_old_it_is(tenant: Tenant, status: CaseStatus) -> None:
    keep(tenant, images=30, events=30)
    case = made(tenant, 900, status)
    assert retention.sweep() == NONE and now(case).image.erased_at is None  # type: ignore[union-attr]


def test_an_appeal_begins_the_time_anew(tenant: Tenant) -> None:
    keep(tenant, images=30)
    case = made(tenant, 40)
    with transaction() as session:
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message=None)
    assert retention.sweep() == NONE and gone(case) == set()


def test_an_image_goes_with_the_last_of_its_cases_and_so_does_its_verdict(tenant: Tenant) -> None:
    keep(tenant, images=30, verdicts=30)
    with transaction() as session:
        image = make_image(session, tenant)
    old, young = made(tenant, 40, image=image), made(tenant, 10, CaseStatus.FAILED, image=image)
    assert retention.sweep() == NONE and gone(old) == set()
    age(young, 31)
    again()
    assert retention.sweep() == {Kept.IMAGES: 2, Kept.VERDICTS: 2, Kept.EVENTS: 0}
    assert gone(old) == {Kept.IMAGES, Kept.VERDICTS}


def test_a_restricted_case_is_held_until_the_report_is_lifted_or_its_own_days_are_over(tenant: Tenant) -> None:
    keep(tenant, images=30, verdicts=30, events=30)
    held, lifted = made(tenant, 90), made(tenant, 90)
    with transaction() as session:
        session.execute(update(Case).values(restricted=True))
    assert retention.sweep() == NONE and gone(held) == gone(lifted) == set()
    with transaction() as session:
        session.get_one(Case, lifted.id).restricted = False
        passes = session.scalars(select(RetentionPass)).all()
        assert {each.held for each in passes} == {2}
    again()
    assert retention.sweep() == dict.fromkeys(Kept, 1)
    assert (gone(held), gone(lifted)) == (set(), set(Kept))
    keep(tenant, images=30, restricted=60)
    retention.sweep()
    assert gone(held) == set(Kept)


def test_another_tenants_data_is_not_touched(tenant: Tenant) -> None:
    keep(tenant, images=1, verdicts=1, events=7)
    with transaction() as session:
        other = make_tenant(session)
    theirs = made(other, 900)
    assert retention.sweep() == NONE and gone(theirs) == set()


def test_a_pass_goes_on_where_it_was_and_is_one_event(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    keep(tenant, images=30)
    for days in (50, 49, 48, 47, 46):
        made(tenant, days)
    assert retention.sweep(at_most_s=0) == NONE, "no time is no batch"
    assert retention._batch(tenant.id, Kept.IMAGES) == 2
    with transaction() as session:
        assert session.get_one(RetentionPass, (tenant.id, Kept.IMAGES)).after_id is not None
    assert retention.sweep()[Kept.IMAGES] == 3
    with transaction() as session:
        (event,) = session.scalars(select(Event).where(Event.type == EventType.RETENTION_SWEPT)).all()
        gone_now = session.scalar(select(func.count()).select_from(Image).where(Image.expired_at.is_not(None)))
    assert (event.actor, event.after, gone_now) == (
        "housekeeping",
        {"kept": "images", "cases": 5, "held": 0, "days": 30, "restricted_days": None},
        5,
    )
    assert retention.sweep() == NONE, "once a day"


def test_an_image_stays_while_somebody_is_at_work_on_a_case_of_it_and_nobody_waits(tenant: Tenant) -> None:
    keep(tenant, images=30, verdicts=30)
    with transaction() as session:
        image = make_image(session, tenant)
    old, other = made(tenant, 40, image=image), made(tenant, 40, CaseStatus.FAILED, image=image)
    free = made(tenant, 40)
    with transaction() as session:
        session.get_one(Case, other.id, with_for_update=True)
        with transaction() as sweeping:
            sweeping.execute(text("SET LOCAL lock_timeout = '1s'"))
            whole = sweeping.scalars(select(Image).with_for_update()).all()
            assert retention._all_due(sweeping, whole, Periods(images=30), Kept.IMAGES) == {free.image_id}
        assert retention.sweep()[Kept.IMAGES] == 1
        session.get_one(Image, image.id, with_for_update=True)  # as a worker that ends its case does
    assert (gone(old), gone(free)) == (set(), {Kept.IMAGES, Kept.VERDICTS})
    again()
    assert retention.sweep() == {Kept.IMAGES: 2, Kept.VERDICTS: 2, Kept.EVENTS: 0}


def test_a_verdict_that_goes_is_looked_for_in_an_index(tenant: Tenant) -> None:
    """Deleting one asks this of each table that names it: by reading all cases, five hundred would never be done."""
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        review = make_review(session, case, make_person(session, tenant))
        session.flush()
        copy(session, "cases", case.id, "submission_id", "verdict_id")
        copy(session, "reviews", review.id, "claim_id", "verdict_id")
        for table in ("cases", "reviews"):
            asks = text(f"SELECT FROM ONLY {table} WHERE verdict_id = :named FOR KEY SHARE")
            with reading_few(session, table):
                assert len(session.execute(asks, {"named": case.verdict_id}).all()) == 1


def test_of_two_sweeps_at_once_one_does_nothing(tenant: Tenant) -> None:
    keep(tenant, images=30)
    case = made(tenant, 40)
    with turn(retention.SWEEP_LOCK) as mine:
        assert mine and retention.sweep() == NONE
    assert gone(case) == set()


def test_setting_it_is_an_event_and_begins_anew(tenant: Tenant) -> None:
    keep(tenant, images=30)
    case = made(tenant, 20)
    retention.sweep()
    keep(tenant, images=10)
    assert retention.sweep()[Kept.IMAGES] == 1 and gone(case) == {Kept.IMAGES}
    with transaction() as session:
        changed = select(Event).where(Event.type == EventType.TENANT_CHANGED).order_by(Event.id.desc()).limit(1)
        event = session.scalars(changed).one()
        assert (event.before, event.after) == ({"retention": {"images": 30}}, {"retention": {"images": 10}})
        assert retention.set_periods(session, tenant.id, Periods(images=10, appeals=1)) == {}


@pytest.mark.parametrize(
    "days, pointer",
    [
        ({"images": 0}, "/images"),
        ({"events": 6}, "/events"),
        ({"verdicts": 36_501}, "/verdicts"),
        ({"restricted": 6}, "/restricted"),
        ({"images": 30, "appeals": None}, "/images"),
        ({"verdicts": 36_500, "appeals": None}, "/verdicts"),
        ({"images": 30, "appeals": 183}, "/images"),
        ({"images": 200, "verdicts": 182, "appeals": 183}, "/verdicts"),
    ],
)
def test_days_that_cannot_be_are_refused(tenant: Tenant, days: dict[str, int | None], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        keep(tenant, **days)
    assert refused.value.pointer == pointer
    with transaction() as session:
        assert retention.periods_of(session.get_one(Tenant, tenant.id)) == Periods()
