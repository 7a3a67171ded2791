"""The mailing task: one attempt, written once, and no transaction open while the mail server takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import Engine, select

from moderation import notices, tenants
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Notice, NoticeMail, User
from moderation.vocabulary import NoticeKind, Role
from tests.factories import make_tenant
from tests.mailbox import Mailbox, serving
from tests.workers.test_delivery import open_transactions
from tests.workers.test_relay import ids_in, messages, turn
from workers import mailing
from workers.relay import Relay


class Watching(Mailbox):
    """Looks, while it is spoken to, for transactions that are open."""

    seen_open: list[str] | None = None

    async def handle_DATA(self, *said: Any) -> str:
        self.seen_open = open_transactions()
        return await super().handle_DATA(*said)


@pytest.fixture
def box(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    with serving(Watching) as made:
        monkeypatch.setattr(mailing, "settings", made.rules)
        monkeypatch.setattr(notices, "settings", made.rules)
        yield made


@pytest.fixture
def notice_ids(db: Engine, box: Mailbox) -> list[UUID]:
    """Three notices of one lead, each to be mailed."""
    with transaction() as session:
        user = User(email="lea@telltale.example", password_hash="")
        session.add(user)
        session.flush()
        tenants.add_member(session, user, make_tenant(session), Role.LEAD, actor="test")
        for number in range(3):
            said = f"{number}"
            notices.tell(session, NoticeKind.MODEL_DRIFTED, said, said, "Why.", actor="test", for_operators=False)
        return list(session.scalars(select(NoticeMail.notice_id).order_by(NoticeMail.notice_id)))


def test_one_task_is_one_attempt_and_again_sends_nothing(notice_ids: list[UUID], box: Watching) -> None:
    for _ in range(2):
        mailing.send(str(notice_ids[0]))
    assert [message["Subject"] for message in box.taken] == ["Telltale: 0"]
    assert box.seen_open == []
    with transaction() as session:
        assert session.get_one(Notice, notice_ids[0]).mailed_at is not None


def test_a_failure_is_in_the_row_and_in_the_log(
    notice_ids: list[UUID], box: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    box.data = "451 Later, lea@telltale.example"
    mailing.send(str(notice_ids[0]))
    assert "The mail server said 451: Later, …" in caplog.text and "lea@" not in caplog.text
    with transaction() as session:
        row = session.get_one(NoticeMail, notice_ids[0])
    assert (row.attempts, row.lease_until, row.failed_at) == (1, None, None)


def test_the_relay_offers_two_at_a_time_and_none_without_a_server(
    notice_ids: list[UUID], box: Watching, redis_url: str
) -> None:
    with redis.Redis.from_url(redis_url) as broker:
        assert turn(Relay(settings())) == 0
        relay = Relay(box.rules())
        assert turn(relay) == 2 and turn(relay) == 0
        first = ids_in(broker, "housekeeping")
        assert sorted(first) == [str(each) for each in notice_ids[:2]]
        assert {message["headers"]["task"] for message in messages(broker, "housekeeping")} == {"mailing.send"}
        for each in first:
            mailing.send(each)
        assert turn(relay) == 1
        assert ids_in(broker, "housekeeping")[2:] == [str(notice_ids[2])]
