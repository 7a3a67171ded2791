"""Notices in process: what somebody is shown, what marks it as read, and what became of its mail."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from moderation import accounts, errands, notices
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Notice, NoticeMail, User
from moderation.vocabulary import NoticeKind, Role, RunStatus
from tests.api.dashboard.conftest import Browser
from tests.factories import make_version
from tests.trained import make_challenger, make_run

MARK = '<span class="count">'


@pytest.fixture
def olga(browser_of: Callable[..., Browser]) -> Browser:
    """The browser of a lead who is an operator."""
    browser = browser_of(Role.LEAD)
    assert browser.user is not None
    with transaction() as session:
        session.get_one(User, browser.user.id).operator = True
    return browser


def tell(subject: str, kind: NoticeKind = NoticeKind.MODEL_DRIFTED, run_id: UUID | None = None) -> None:
    with transaction() as session:
        why = f"Why {subject}."
        notices.tell(
            session, kind, subject, subject, why, actor="test", run_id=run_id, for_operators=run_id is not None
        )


def marked(browser: Browser) -> str:
    """The number in the navigation."""
    return browser.get("/dashboard").text.partition(MARK)[2].partition("<")[0]


def test_what_is_not_read_is_counted_in_the_navigation_until_it_is(olga: Browser) -> None:
    assert marked(olga) == "" and "Nothing yet" in olga.get("/dashboard/notices").text
    tell("r2 has got worse")
    tell("<b>r3</b> has got worse")
    assert marked(olga) == "2"
    page = olga.get("/dashboard/notices").text
    assert page.index("&lt;b&gt;r3") < page.index("r2 has got worse") and "2 not read" in page
    with transaction() as session:
        first = session.query(Notice).order_by(Notice.id).first()
    assert first is not None
    assert olga.post(f"/dashboard/notices/{first.id}/read").status_code == 303
    assert marked(olga) == "1"
    assert olga.post("/dashboard/notices/read").status_code == 303
    page = olga.get("/dashboard/notices").text
    assert marked(olga) == "" and "All are read" in page and "Mark" not in page.partition("<main")[2]


def test_who_looks_at_what_it_leads_to_has_read_it(olga: Browser) -> None:
    with transaction() as session:
        make_version(session, "r1")
        run = make_run(session, RunStatus.KEPT, version=make_challenger(session, "r2"))
        session.query(Notice).delete()
    tell("r2 waits", NoticeKind.RUN_KEPT, run.id)
    tell("r1 has got worse")
    assert f'href="/dashboard/runs/{run.id}"' in olga.get("/dashboard/notices").text
    olga.get(f"/dashboard/runs/{run.id}")
    assert marked(olga) == "1"
    olga.get("/dashboard/models")
    assert marked(olga) == ""


def test_nobody_reads_anothers(olga: Browser, browser_of: Callable[..., Browser]) -> None:
    with transaction() as session:
        run = make_run(session, RunStatus.FAILED)
    tell("A training run failed", NoticeKind.RUN_FAILED, run.id)
    ada = browser_of(Role.ADMIN)
    assert "A training run failed" not in ada.get("/dashboard/notices").text
    with transaction() as session:
        notice = session.query(Notice).one()
    assert ada.post(f"/dashboard/notices/{notice.id}/read").status_code == 404
    ada.post("/dashboard/notices/read")
    assert marked(olga) == "1"
    assert olga.user is not None
    with transaction() as session:
        accounts.set_operator(session, session.get_one(User, olga.user.id), False, actor="test")
    assert "A training run failed" not in olga.get("/dashboard/notices").text and marked(olga) == ""


def test_a_notice_says_what_became_of_its_mail(olga: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "names no mail server" in olga.get("/dashboard/notices").text
    rules = settings().model_copy(update={"smtp_url": "smtp://127.0.0.1:9", "mail_from": "a@b.example"})
    monkeypatch.setattr(notices, "settings", lambda: rules)
    for subject in ("sent", "waits", "late", "refused"):
        tell(subject)
    assert olga.get("/dashboard/notices").text.count("about to be mailed") == 4
    with transaction() as session:
        mails = {session.get_one(Notice, mail.notice_id).subject: mail for mail in session.query(NoticeMail)}
        session.get_one(Notice, mails["sent"].notice_id).mailed_at = mails["sent"].created_at
        session.delete(mails["sent"])
        errands.fail(mails["refused"], "The mail server said 550: <no>")
        mails["late"].failure_detail = "The mail server cannot be reached: refused"
    page = olga.get("/dashboard/notices").text
    assert page.count("about to be mailed") == 1 and page.count(", mailed") == 1
    assert "Not mailed: The mail server said 550: &lt;no&gt;" in page
    assert "Not mailed yet: The mail server cannot be reached: refused" in page and "It is tried again" in page


def test_older_notices_are_on_the_next_page(olga: Browser) -> None:
    for number in range(52):
        tell(f"number {number}.")
    page = olga.get("/dashboard/notices").text
    assert "number 51." in page and "number 1." not in page
    following = page.partition("?before=")[2].partition('"')[0]
    page = olga.get(f"/dashboard/notices?before={following}").text
    assert "number 1." in page and "number 2." not in page and "First page" in page
    assert olga.get("/dashboard/notices?before=x").status_code == 400


def test_a_mail_that_was_given_up_is_sent_again(olga: Browser, browser_of: Callable[..., Browser]) -> None:
    tell("refused")
    with transaction() as session:
        notice = session.query(Notice).one()
        given_up = NoticeMail(notice_id=notice.id, asked_by="test")
        session.add(given_up)
        errands.fail(given_up, "The mail server said 550: no")
    assert "Not mailed" in olga.get("/dashboard/notices").text
    path = f"/dashboard/notices/{notice.id}/mail"
    assert browser_of(Role.ADMIN).post(path).status_code == 404
    answer = olga.post(path)
    assert answer.status_code == 303 and answer.headers["Location"].endswith("said=notice_mailed")
    assert "about to be mailed" in olga.get("/dashboard/notices").text
