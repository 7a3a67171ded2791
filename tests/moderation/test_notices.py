"""Notices: who is told of what, once, in the same transaction; what is read, and what nobody may read any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from moderation import accounts, model_versions, notices, tenants
from moderation.db import new_id, transaction
from moderation.errors import NotFound
from moderation.estimates import Interval
from moderation.retraining import decisions, panel, runs
from moderation.retraining.panel import Measured
from moderation.settings import settings
from moderation.tables import ModelVersion, Notice, NoticeMail, Tenant, TrainingRun, User
from moderation.vocabulary import NoticeKind, PanelSet, Role, RunStatus
from tests.factories import make_tenant, make_version

Told = list[tuple[str, NoticeKind, str]]


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        return make_tenant(session, "Pixelgram")


@pytest.fixture
def person(tenant: Tenant) -> Callable[..., UUID]:
    """Makes somebody of this role."""

    def made(name: str, role: Role, *, operator: bool = False) -> UUID:
        with transaction() as session:
            user = User(email=f"{name}@pixelgram.example", password_hash="", operator=operator)
            session.add(user)
            session.flush()
            tenants.add_member(session, user, session.get_one(Tenant, tenant.id), role, actor="test")
            return user.id

    return made


@pytest.fixture
def olga(person: Callable[..., UUID]) -> UUID:
    """An operator, beside a lead, a moderator and an operator who leads nothing."""
    person("lea", Role.LEAD)
    person("mo", Role.MODERATOR)
    person("otto", Role.MODERATOR, operator=True)
    return person("olga", Role.ADMIN, operator=True)


def told() -> Told:
    """Who was told what: the name, the kind, the title; in order."""
    with transaction() as session:
        query = session.query(User.email, Notice).join(Notice, Notice.user_id == User.id).order_by(Notice.id)
        return [(email.partition("@")[0], notice.kind, notice.title) for email, notice in query]


def notice_of(user_id: UUID) -> Notice:
    with transaction() as session:
        return session.query(Notice).filter_by(user_id=user_id).order_by(Notice.id.desc()).first() or pytest.fail()


def ended(status: RunStatus, reason: str | None = None, name: str = "r2") -> UUID:
    """A run that a worker brings to this end."""
    with transaction() as session:
        version = make_version(session, name, champion=False)
        asked = runs.ask(session, actor="test").id
        lease = runs.take(session, timedelta(seconds=60))
        assert lease is not None
        run = runs.held(session, lease)
        if status in (RunStatus.KEPT, RunStatus.REJECTED):
            run.model_version_id, run.reasons = version.id, ["It cannot be told whether it is better."]
        runs.end(session, lease, status, reason)
        return asked


@pytest.mark.parametrize(
    ("status", "kind", "title"),
    [
        (RunStatus.KEPT, NoticeKind.RUN_KEPT, "r2 waits for your answer"),
        (RunStatus.REJECTED, NoticeKind.RUN_REJECTED, "r2 was rejected by the gate"),
        (RunStatus.FAILED, NoticeKind.RUN_FAILED, "A training run failed"),
        (RunStatus.LOST, NoticeKind.RUN_FAILED, "A training run was lost"),
    ],
)
def test_how_a_run_ended_is_told_to_operators_who_lead(
    olga: UUID, status: RunStatus, kind: NoticeKind, title: str
) -> None:
    run_id = ended(status, None if status in runs.JUDGED else "Memory ran out.")
    assert told() == [("olga", kind, title)]
    notice = notice_of(olga)
    why = "It cannot be told whether it is better." if status in runs.JUDGED else "Memory ran out."
    assert (notice.text, notice.run_id, notice.for_operators) == (why, run_id, True)
    assert notices.path(notice) == f"/dashboard/runs/{run_id}"


@pytest.mark.parametrize("status", [RunStatus.SKIPPED, RunStatus.CANCELLED])
def test_a_run_that_nobody_has_to_act_on_is_told_to_nobody(olga: UUID, status: RunStatus) -> None:
    ended(status, "12 images are new, and 50 are needed.")
    assert told() == []


def test_what_is_rolled_back_with_its_transaction_was_never_told(olga: UUID) -> None:
    def fail(session: Any) -> None:
        first = make_version(session, "r1")
        model_versions.promote(
            session, make_version(session, "r2", champion=False).id, actor="test", instead_of=first.id
        )
        raise RuntimeError

    with pytest.raises(RuntimeError), transaction() as session:
        fail(session)
    assert told() == []


def test_a_promotion_is_told_to_all_who_lead_and_its_reason_to_operators_alone(olga: UUID) -> None:
    with transaction() as session:
        first, second = make_version(session, "r1"), make_version(session, "r2", champion=False)
        run = TrainingRun(status=RunStatus.REJECTED, asked_by="test", model_version_id=second.id)
        session.add(run)
    with transaction() as session:
        session.query(Notice).delete()
        reason = "Pixelgram's halftone"
        model_versions.promote(session, second.id, actor="operator", reason=reason, instead_of=first.id)
    assert sorted(told()) == [
        ("lea", NoticeKind.MODEL_PROMOTED, "r2 is champion"),
        ("olga", NoticeKind.MODEL_PROMOTED, "r2 is champion"),
    ]
    mine = notice_of(olga)
    assert mine.text == "It judges in place of r1, for every platform. Done by a command. Reason: Pixelgram's halftone"
    assert mine.run_id == run.id
    with transaction() as session:
        theirs = session.query(Notice).filter(Notice.user_id != olga).one()
    assert theirs.run_id is None and "Pixelgram" not in theirs.text and "in place of r1" in theirs.text


def test_who_decides_is_not_told_and_for_the_others_nothing_waits_any_more(
    olga: UUID, person: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = settings().model_copy(update={"smtp_url": "smtp://127.0.0.1:9", "mail_from": "a@b.example"})
    monkeypatch.setattr(notices, "settings", lambda: rules)
    oskar = person("oskar", Role.LEAD, operator=True)
    with transaction() as session:
        make_version(session, "r1")
    run_id = ended(RunStatus.KEPT)
    with transaction() as session:
        session.query(Notice).filter(Notice.kind != NoticeKind.RUN_KEPT).delete()
        assert session.query(NoticeMail).count() == 2
    with transaction() as session:
        champion = model_versions.champion_id(session)
        decisions.promote_kept(session, run_id, actor=f"user:{olga}", reason="ten points", instead_of=champion)
    with transaction() as session:
        assert [n.read_at is not None for n in session.query(Notice).filter_by(kind=NoticeKind.RUN_KEPT)] == [True] * 2
        mailed = [session.get_one(Notice, mail.notice_id) for mail in session.query(NoticeMail)]
    assert {notice.kind for notice in mailed} == {NoticeKind.MODEL_PROMOTED}, "no mail asks for what was decided"
    assert [name for name, kind, _ in told() if kind is NoticeKind.MODEL_PROMOTED] == ["oskar", "lea"]
    assert "Done by olga@pixelgram.example. Reason: ten points" in notice_of(oskar).text


def test_a_rollback_says_so(olga: UUID) -> None:
    with transaction() as session:
        make_version(session, "r1")
        make_version(session, "r2")
        session.query(Notice).delete()
    with transaction() as session:
        model_versions.rollback(session, actor="operator", reason="reals fell")
    assert ("olga", NoticeKind.MODEL_ROLLED_BACK, "Rolled back to r1") in told()
    assert "in place of r2" in notice_of(olga).text and notices.path(notice_of(olga)) == "/dashboard/models"


def night(version: ModelVersion, *worse: PanelSet) -> None:
    """The champion is measured after a run, and found worse on these sets."""
    change = {True: Interval(-0.045, -0.072, -0.019), False: Interval(0.001, -0.02, 0.02)}
    with transaction() as session:
        run = TrainingRun(status=RunStatus.SKIPPED, asked_by="test")
        session.add(run)
        session.flush()
        found = [
            Measured(each, 400, Interval(0.885, 0.85, 0.92), before=0.93, change=change[each in worse])
            for each in PanelSet
        ]
        for _ in range(2):  # a worker that was killed over it does it again
            panel.keep(session, run.id, session.get_one(ModelVersion, version.id), found)


def test_a_drop_is_told_to_all_who_lead_when_it_comes_and_not_again_every_night(olga: UUID) -> None:
    with transaction() as session:
        champion = make_version(session, "r1")
        session.query(Notice).delete()
    night(champion, PanelSet.HOLDOUT, PanelSet.BLURRED)
    assert sorted(name for name, _, _ in told()) == ["lea", "olga"]
    text = notice_of(olga).text
    assert "4.5 points on the set “holdout”, to 88.5 %" in text and "blurred" in text and "resized" not in text
    night(champion, PanelSet.HOLDOUT)
    assert len(told()) == 2
    night(champion, PanelSet.HOLDOUT, PanelSet.RESIZED)
    assert len(told()) == 4, "another set"
    night(champion)
    night(champion, PanelSet.HOLDOUT)
    assert len(told()) == 6, "it had been well again"


def test_who_becomes_an_operator_hears_of_the_runs_that_wait(olga: UUID) -> None:
    with transaction() as session:
        session.get_one(User, olga).operator = False
    ended(RunStatus.KEPT)
    assert told() == []
    with transaction() as session:
        accounts.set_operator(session, session.get_one(User, olga), True, actor="test")
    for _ in range(2):
        with transaction() as session:
            runs.tell_of_kept(session)
    assert told() == [("olga", NoticeKind.RUN_KEPT, "r2 waits for your answer")]


def test_who_is_no_operator_any_more_is_shown_none_of_it(olga: UUID) -> None:
    ended(RunStatus.FAILED, "Case 7 of Fotoforum.")
    with transaction() as session:
        assert notices.unread(session, olga, operator=True) == 1
        assert notices.unread(session, olga, operator=False) == 0
        assert notices.notices_of(session, olga, operator=False, limit=9) == []
        session.get_one(User, olga).operator = False
        assert not notices.concerns(session, notice_of(olga))


def test_a_notice_is_read_by_its_own_reader_once(olga: UUID, person: Callable[..., UUID]) -> None:
    oskar = person("oskar", Role.LEAD, operator=True)
    run_id = ended(RunStatus.FAILED, "Memory ran out.")
    mine = notice_of(olga)
    for stranger, notice_id in ((oskar, mine.id), (olga, new_id())):
        with pytest.raises(NotFound), transaction() as session:
            notices.read(session, stranger, notice_id)
    with transaction() as session:
        notices.read(session, olga, mine.id)
    at = notice_of(olga).read_at
    with transaction() as session:
        notices.read_all(session, olga)
        notices.seen(session, oskar, None)
        assert (at, notices.unread(session, oskar, operator=True)) == (notice_of(olga).read_at, 1)
        notices.seen(session, oskar, run_id)
        assert notices.unread(session, oskar, operator=True) == 0


def test_where_no_mail_server_is_set_nothing_is_to_be_mailed(olga: UUID) -> None:
    ended(RunStatus.FAILED, "Memory ran out.")
    with transaction() as session:
        assert session.query(NoticeMail).count() == 0
        assert session.query(TrainingRun).count() == 1


def test_the_newest_come_first_page_by_page(olga: UUID) -> None:
    with transaction() as session:
        for number in range(5):
            notices.tell(session, NoticeKind.RUN_FAILED, f"{number}", f"{number}", "\x00", actor="test")
    with transaction() as session:
        first = notices.notices_of(session, olga, operator=True, limit=3)
        rest = notices.notices_of(session, olga, operator=True, limit=3, before=first[-1].id)
    assert [notice.title for notice in [*first, *rest]] == ["4", "3", "2", "1", "0"]
    assert first[0].text == "\ufffd"
