"""Counts of the queue: the same as counting one by one, after whatever has happened, whoever writes meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from moderation import backlog, cases, claims, queue, restrictions, reviews
from moderation.accounts import Member, Person
from moderation.db import new_id, transaction
from moderation.queue import Filter
from moderation.reviews import Reply
from moderation.tables import Case, ModelVersion, QueueChange, QueueSummary, Tenant
from moderation.vocabulary import Answer, CaseStatus, Label, Priority, ReviewReason, Role
from tests.factories import champion_or_new, make_case, make_tenant, make_version
from tests.reviewing import make_person, make_review_case, ten_seconds_later

NOW = datetime.now(UTC)
CATEGORIES = [None, "people", "news"]
AGES = [timedelta(minutes=5), timedelta(hours=3), timedelta(days=2), timedelta(days=9)]
SCORES = [None, 0.3, 0.35, 0.5, 0.62, 0.7]


@pytest.fixture
def platforms(db: Engine) -> list[Tenant]:
    with transaction() as session:
        make_version(session, "newer", champion=False)
        return [make_tenant(session) for _ in range(2)]


def one_by_one(session: Session, person: Person, filter_: Filter) -> backlog.Totals:
    """The count as it would be made without summaries."""
    conditions = queue._conditions(session, person, filter_)
    query = select(func.count(), func.min(Case.settled_at)).where(Case.tenant_id.in_(person.tenant_ids), *conditions)
    if filter_.tenant_id:
        query = query.where(Case.tenant_id == filter_.tenant_id)
    return backlog.Totals(*session.execute(query).one())


def filters(platforms: list[Tenant], versions: list[ModelVersion], draw: random.Random, count: int) -> list[Filter]:
    """All of one part each, and some of several."""
    parts: list[dict[str, object]] = [
        *({"reason": reason} for reason in ReviewReason),
        *({"category": category} for category in CATEGORIES[1:]),
        *({"model_version_id": version.id} for version in versions),
        *({"priority": priority.rank} for priority in Priority),
        *({"older_than": age} for age in (timedelta(hours=1), timedelta(days=1), timedelta(weeks=1))),
        *({"score_from": low, "score_to": high} for low, high in ((0.35, 0.62), (None, 0.5), (0.5, None), (0.9, 1.0))),
        *({"tenant_id": tenant.id} for tenant in platforms),
        {"held": True},
        {"mine": True},
    ]
    several = []
    for _ in range(count):
        chosen: dict[str, object] = {}
        for part in draw.sample(parts, draw.choice((2, 2, 3))):
            chosen |= part
        several.append(chosen)
    return [Filter(**fields) for fields in ({}, *parts, *several)]  # type: ignore[arg-type]


def differences(people: list[Person], asked: list[Filter]) -> list[str]:
    with transaction() as session:
        return [
            f"{person.email} {filter_}: {shown} and not {true}"
            for person in people
            for filter_ in asked
            if (shown := queue.totals(session, person, filter_)) != (true := one_by_one(session, person, filter_))
        ]


def new_case(session: Session, tenant: Tenant, draw: random.Random) -> None:
    """A case that comes into review, or is decided at once, as if some time ago."""
    submission = {"details": {"category": draw.choice(CATEGORIES[1:])} if draw.random() < 0.8 else {}}
    priority = draw.choice(list(Priority))
    if draw.random() < 0.2:
        make_case(session, tenant, CaseStatus.DECIDED, priority=priority, **submission)
        return
    case = make_review_case(session, tenant, blind=draw.random() < 0.3, text=None, priority=priority, **submission)
    case.review_reason = draw.choice(list(ReviewReason))
    case.score = draw.choice(SCORES)
    case.settled_at = NOW - draw.choice(AGES) * draw.uniform(0.9, 1.1)
    case.restricted = draw.random() < 0.1
    case.model_version_id = draw.choice(session.scalars(select(ModelVersion.id).order_by(ModelVersion.id)).all())


def act(person: Person, case: Case, draw: random.Random) -> None:
    """One of the things that happen to a case in review, through what moderators use."""
    with transaction() as session:
        if claims.refusal(session, person, case) is not None:
            return
        fence = claims.claim(session, person, case.id).fence
        colleagues = reviews.colleagues(session, session.get_one(Case, case.id))
        actions: list[Callable[[], object]] = [
            lambda: reviews.skip(session, person, case.id, fence),
            lambda: reviews.hold(session, person, case.id, fence, timedelta(hours=1)),
            lambda: reviews.escalate(session, person, case.id, fence),
            *(partial(reviews.reassign, session, person, case.id, fence, user.id) for user in colleagues[:1]),
            lambda: reviews.answer(session, person, case.id, fence, Reply(draw.choice(list(Answer)))),
        ]
        draw.choice([*actions, actions[-1]])()
    with transaction() as session:
        answered = reviews.pending(session, case.id) is not None
    if answered and draw.random() < 0.3:
        with transaction() as session:
            reviews.undo(session, person, case.id)
    elif answered and draw.random() < 0.7:
        ten_seconds_later(case.id)
        reviews.settle(case.id)


def waiting(session: Session) -> list[Case]:
    query = select(Case).where(Case.status == CaseStatus.IN_REVIEW, Case.answer_due.is_(None)).order_by(Case.id)
    return list(session.scalars(query))


@pytest.mark.parametrize(("seed", "few"), [(0, backlog.FEW), (1, 1), (2, 5)])
def test_counts_are_right_after_whatever_happens(
    platforms: list[Tenant], monkeypatch: pytest.MonkeyPatch, seed: int, few: int
) -> None:
    monkeypatch.setattr(backlog, "FEW", few)
    draw = random.Random(seed)
    with transaction() as session:
        champion_or_new(session)
        lead = make_person(session, *platforms, role=Role.LEAD, email="lead")
        mixed = replace(
            make_person(session, *platforms, email="mixed"),
            memberships=tuple(
                Member(tenant.id, tenant.name, role)
                for tenant, role in zip(platforms, (Role.MODERATOR, Role.LEAD), strict=True)
            ),
        )
        versions = list(session.scalars(select(ModelVersion)))
    for round_ in range(4):
        for _ in range(12):
            with transaction() as session:
                new_case(session, draw.choice(platforms), draw)
        with transaction() as session:
            chosen = draw.sample(there := waiting(session), min(5, len(there)))
        for case in chosen:
            act(lead, case, draw)
        if round_ in (1, 2):
            with transaction() as session:
                assert backlog.summarise(session) > 0
        assert differences([lead, mixed], filters(platforms, versions, draw, 10)) == []
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(QueueSummary)) or 0 > 0
        assert session.scalar(select(func.count()).select_from(QueueChange)) or 0 > 0


def test_counts_are_right_while_others_write_and_summarise(platforms: list[Tenant]) -> None:
    """Every reading is checked in the moment it is made: both ways of counting in one repeatable transaction."""
    with transaction() as session:
        champion_or_new(session)
        lead = make_person(session, *platforms, role=Role.LEAD)
    stop = threading.Event()

    def loop(work: Callable[[random.Random], object], seed: int) -> None:
        draw = random.Random(seed)
        while not stop.is_set():
            work(draw)

    def write(draw: random.Random) -> None:
        with transaction() as session:
            new_case(session, draw.choice(platforms), draw)
            there = session.scalars(select(Case.id).where(Case.tenant_id == platforms[0].id)).all()
            if there:
                row = session.get(Case, draw.choice(there), with_for_update={"skip_locked": True})
                if row is not None and row.status is CaseStatus.IN_REVIEW:
                    row.priority = draw.randrange(4)
                    row.answer_due = draw.choice([None, NOW])

    def summarise(draw: random.Random) -> None:
        with transaction() as session:
            backlog.summarise(session)

    asked = [Filter(), Filter(category="people"), Filter(score_from=0.3, score_to=0.5), Filter(priority=1)]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(loop, work, seed) for seed, work in enumerate((write, write, summarise, summarise))]
        number = most = 0
        try:
            # However seldom the others have their turn.
            while (number < 200 or most <= 10) and not any(one.done() for one in running):
                with transaction() as session:
                    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                    filter_ = asked[number % len(asked)]
                    there = queue.totals(session, lead, filter_)
                    assert there == one_by_one(session, lead, filter_)
                number, most = number + 1, max(most, there.count)
        finally:
            stop.set()
        for one in running:
            one.result()
    assert number >= 200 and most > 10


def test_nothing_is_counted_of_nothing(db: Engine) -> None:
    nobody = Person(new_id(), "nobody@example.com", new_id(), ())
    with transaction() as session:
        assert queue.totals(session, nobody, Filter()) == backlog.Totals(0, None)
        assert backlog.summarise(session) == 0


def test_a_hold_that_ends_counts_again_without_anybody_doing_anything(platforms: list[Tenant]) -> None:
    with transaction() as session:
        lead = make_person(session, *platforms, role=Role.LEAD)
        case = make_review_case(session, platforms[0])
        backlog.summarise(session)
        case.held_until = datetime.now(UTC) + timedelta(hours=1)
        session.flush()
        assert queue.totals(session, lead, Filter()) == backlog.Totals(0, None)
        assert queue.totals(session, lead, Filter(held=True)).count == 1
        case.held_until = func.now()  # for a transaction it is as late as when it began
        session.flush()
        assert queue.totals(session, lead, Filter()) == backlog.Totals(1, case.settled_at)


def test_a_case_that_is_not_in_review_costs_no_change(platforms: list[Tenant]) -> None:
    with transaction() as session:
        # A case that is drawn to be answered blind comes in and changes at once.
        session.get_one(Tenant, platforms[0].id).blind_share = 0.0
        make_case(session, platforms[0], CaseStatus.DECIDED)
        assert session.scalar(select(func.count()).select_from(QueueChange)) == 0
        case = make_case(session, platforms[0], CaseStatus.IN_REVIEW)
        person = make_person(session, platforms[0])
        claims.claim(session, person, case.id)
        cases.note(session, case, cases.EventType.CASE_SKIPPED, actor="test", was={}, now={})
        session.flush()
        assert session.scalar(select(func.count()).select_from(QueueChange)) == 1


def test_categories_are_those_of_cases_that_a_person_may_work_on(platforms: list[Tenant]) -> None:
    tenant = platforms[0]
    with transaction() as session:
        lead, anna = make_person(session, tenant, role=Role.LEAD), make_person(session, tenant)
        for category in ("faces", "abuse-report-77"):
            case_id = make_review_case(session, tenant, details={"category": category}).id

    def offered(person: Person) -> list[str]:
        with transaction() as session:
            return list(queue.choices(session, person).categories)

    assert offered(anna) == ["abuse-report-77", "faces"]
    with transaction() as session:
        backlog.summarise(session)
        restrictions.report(session, lead, case_id)
    for _ in range(2):
        assert (offered(anna), offered(lead)) == (["faces"], ["abuse-report-77", "faces"])
        with transaction() as session:
            backlog.summarise(session)


@pytest.mark.parametrize("summarised", [False, True])
def test_of_more_categories_than_can_be_told_apart_the_queue_keeps_few_kinds(
    platforms: list[Tenant], monkeypatch: pytest.MonkeyPatch, summarised: bool
) -> None:
    monkeypatch.setattr(backlog, "MAX_CATEGORIES", 3)
    with transaction() as session:
        lead = make_person(session, *platforms, role=Role.LEAD)
        make_review_case(session, platforms[1], details={"category": "another platform's"})
        made = []
        for name in ("a", "b", "b", "c", "c", "c", "d", "e", "a"):
            if summarised:
                backlog.summarise(session)
            made.append(make_review_case(session, platforms[0], details={"category": name}).category)
        backlog.summarise(session)
        assert made == ["a", "b", "b", "c", "c", "c", "other", "other", "a"]
        kinds = session.scalars(select(QueueSummary).where(QueueSummary.tenant_id == platforms[0].id)).all()
        assert sorted((kind.category or "", kind.count) for kind in kinds) == [
            ("a", 2),
            ("b", 2),
            ("c", 3),
            ("other", 2),
        ]
        assert queue.totals(session, lead, Filter(category="other")).count == 2
        offered = queue.choices(session, lead).categories
        assert len(offered) == 3 and "c" in offered, "the most frequent"


def test_where_cases_have_left_there_is_room_for_other_categories(
    platforms: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MAX_CATEGORIES", 1)
    with transaction() as session:
        first = make_review_case(session, platforms[0], details={"category": "a"})
        assert make_review_case(session, platforms[0], details={"category": "b"}).category == "other"
        cases.rule(session, first, Label.REAL, actor="test", review_id=first.id)
        session.flush()
        backlog.summarise(session)
        other = session.scalars(select(Case).where(Case.category == "other")).one()
        cases.rule(session, other, Label.REAL, actor="test", review_id=first.id)
        session.flush()
        backlog.summarise(session)
        assert make_review_case(session, platforms[0], details={"category": "c"}).category == "c"
