"""Notices in real Chromium: a mark in the navigation, what is unread, and the way to the run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Page, expect

from moderation import errands, notices
from moderation.db import transaction
from moderation.tables import Notice, NoticeMail
from moderation.vocabulary import NoticeKind, RunStatus
from tests.browser.conftest import Dashboard
from tests.browser.test_training import OLGA, operator
from tests.factories import make_version
from tests.trained import make_challenger, make_run

Look = Callable[[Page, str], None]
DRIFTED = (
    "The standing panel lost more than 2 points: 4.5 points on the set “holdout”, to 88.5 %. Look at what came with "
    "the last promotion, and at your thresholds; an operator can roll back."
)


def test_an_operator_finds_what_waits_and_reads_it(dashboard: Dashboard, look: Look) -> None:
    operator(dashboard)
    now = datetime.now(UTC)
    with transaction() as session:
        make_version(session, "fakevlm-r4")
        run = make_run(session, RunStatus.KEPT, version=make_challenger(session, "fakevlm-r5"))
        failed = make_run(session, RunStatus.FAILED)
        session.query(Notice).delete()
        for kind, title, text, run_id in (
            (NoticeKind.RUN_FAILED, "A training run failed", "Memory ran out: lower `batch_size`.", failed.id),
            (NoticeKind.MODEL_PROMOTED, "fakevlm-r4 is champion", "It judges in place of fakevlm-r3, …", None),
            (NoticeKind.MODEL_DRIFTED, "fakevlm-r4 has got worse", DRIFTED, None),
            (NoticeKind.RUN_KEPT, "fakevlm-r5 waits for your answer", run.reasons[0], run.id),
        ):
            notices.tell(
                session, kind, title, title, text, actor="test", run_id=run_id, for_operators=run_id is not None
            )
        told = {notice.kind: notice for notice in session.query(Notice)}
        for days, kind in enumerate((NoticeKind.MODEL_DRIFTED, NoticeKind.MODEL_PROMOTED, NoticeKind.RUN_FAILED), 1):
            told[kind].created_at = now - timedelta(days=days)
            told[kind].mailed_at = now - timedelta(days=days)
            told[kind].read_at = now if kind is not NoticeKind.MODEL_DRIFTED else None
        told[NoticeKind.RUN_FAILED].mailed_at = None
        refused = NoticeMail(notice_id=told[NoticeKind.RUN_FAILED].id, asked_by="test")
        session.add(refused)
        errands.fail(refused, "The mail server said 550: 5.1.1 No such user")
        waits = NoticeMail(notice_id=told[NoticeKind.RUN_KEPT].id, asked_by="test", attempts=2)
        waits.failure_detail = "The mail server cannot be reached: Connection refused"
        waits.next_attempt_at = now + timedelta(minutes=5)
        session.add(waits)
        run_id = run.id
    page = dashboard.sign_in(OLGA)
    link = page.get_by_role("link", name="Notices 2 not read")
    look(page, "notices-mark")
    link.click()
    expect(page.get_by_role("heading", level=2)).to_have_count(4)
    look(page, "notices")
    page.get_by_role("button", name="Mark as read: fakevlm-r4 has got worse").press("Enter")
    expect(page.get_by_role("link", name="Notices 1 not read")).to_be_visible()
    page.get_by_role("link", name="fakevlm-r5 waits for your answer").click()
    page.wait_for_url(f"**/dashboard/runs/{run_id}")
    expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Notices", exact=True)).to_be_visible()
    page.get_by_role("link", name="Notices", exact=True).click()
    expect(page.get_by_text("All are read.")).to_be_visible()
