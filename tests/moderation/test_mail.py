"""Mail, to a real server on loopback: what is in it, how it is encrypted, what is tried again and what is given up."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, func, select, update

from moderation import mail, notices, tenants
from moderation.db import new_id, transaction
from moderation.errors import NotFound
from moderation.leases import Lease
from moderation.mail import GIVE_UP_AFTER, WAITS, Letter, Outcome
from moderation.settings import Settings, settings
from moderation.storage import Storage, report_key
from moderation.tables import Event, Notice, NoticeMail, TrainingRun, User
from moderation.vocabulary import EventType, NoticeKind, Role, RunStatus
from tests import mailbox
from tests.factories import make_tenant
from tests.mailbox import FROM, QUOTED, Mailbox, serving

NOW = datetime(2026, 5, 11, 2, 48, tzinfo=UTC)
LETTER = Letter(
    lease=Lease(UUID("01900000-0000-7000-8000-000000000001"), 1, 1),
    to="olga@telltale.example",
    title="r2 waits for\nyour <answer>",
    text="It cannot be told & that is it.",
    path="/dashboard/runs/7",
    written_at=NOW,
    run_id=None,
    for_operators=True,
)


@pytest.fixture
def store(bucket: str) -> Storage:
    return Storage(settings())


@pytest.fixture(scope="module")
def office() -> Iterator[Mailbox]:
    """A server for the whole module; each test empties it."""
    with serving() as made:
        yield made


@pytest.fixture
def box(office: Mailbox) -> Mailbox:
    office.taken.clear()
    office.recipients.clear()
    office.encrypted.clear()
    office.rcpt = office.data = "250 OK"
    return office


def text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def test_a_mail_says_what_the_notice_says_and_leads_there(box: Mailbox, store: Storage) -> None:
    assert mail.attempt(LETTER, store, box.rules()) == Outcome()
    (message,) = box.taken
    assert box.recipients == [["olga@telltale.example"]]
    assert message["Subject"] == "Telltale: r2 waits for your <answer>", "a line end in a name is no header of its own"
    assert (message["From"], message["To"]) == (FROM, "olga@telltale.example")
    assert message["Message-ID"] == f"<notice-{LETTER.notice_id}@127.0.0.1>"
    assert message["Date"].datetime == NOW and message["Auto-Submitted"] == "auto-generated"
    plain, html = text_of(message, "plain"), text_of(message, "html")
    link = f"{settings().public_url}/dashboard/runs/7"
    assert "It cannot be told & that is it." in plain and link in plain and "are an operator" in plain
    assert "your &lt;answer&gt;" in html and "told &amp; that" in html and f'href="{link}"' in html
    assert "<img" not in html and "attached" not in html
    assert list(message.iter_attachments()) == []


def test_a_runs_mail_has_its_report_as_a_file(box: Mailbox, store: Storage) -> None:
    run_id = new_id()
    page = "<!doctype html><title>Straße</title><svg></svg>\n"
    store.put(report_key(run_id), page.encode(), "text/html")
    assert mail.attempt(replace(LETTER, run_id=run_id), store, box.rules()) == Outcome()
    (attached,) = box.taken[0].iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == (f"run-{run_id}.html", "text/html")
    assert attached.get_content().replace("\r\n", "\n") == page
    assert "attached" in text_of(box.taken[0], "plain") and "attached" in text_of(box.taken[0], "html")


def test_a_report_that_is_not_there_or_too_large_is_not_waited_for(
    box: Mailbox, store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = replace(LETTER, run_id=new_id())
    assert mail.attempt(letter, store, box.rules()) == Outcome()
    store.put(report_key(letter.run_id or new_id()), b"0123456789", "text/html")
    monkeypatch.setattr(mail, "MOST_REPORT_BYTES", 9)
    assert mail.attempt(letter, store, box.rules()) == Outcome()
    assert [list(message.iter_attachments()) for message in box.taken] == [[], []]


@pytest.mark.parametrize(
    ("where", "answer", "final"),
    [
        ("rcpt", "550 5.1.1 No such user", True),
        ("rcpt", "450 4.2.1 Come back later", False),
        ("data", "554 5.7.1 Not from you", True),
        ("data", "451 4.3.0 Disk full", False),
    ],
)
def test_a_refusal_for_good_is_final_and_one_for_now_is_not(
    box: Mailbox, store: Storage, where: str, answer: str, final: bool
) -> None:
    setattr(box, where, answer)
    outcome = mail.attempt(LETTER, store, box.rules())
    assert outcome == Outcome(f"The mail server said {answer[:3]}: {answer[4:]}", final=final)
    assert box.taken == []


@pytest.mark.parametrize(
    "address", ["a@b.example, c@d.example", "olga@b.example\nBcc: all@d.example", "@", "ölga@b.example"]
)
def test_what_is_no_single_address_is_mailed_to_nobody(box: Mailbox, store: Storage, address: str) -> None:
    outcome = mail.attempt(replace(LETTER, to=address), store, box.rules())
    assert outcome.final and "Nothing can be mailed to" in (outcome.error or "")
    assert box.taken == []


def test_a_server_that_is_down_or_silent_is_tried_again(store: Storage) -> None:
    rules = settings().model_copy(update={"smtp_url": "smtp://127.0.0.1:9", "mail_from": FROM})
    outcome = mail.attempt(LETTER, store, rules)
    assert not outcome.final and "cannot be reached" in (outcome.error or "")


def test_a_defect_of_ours_is_an_outcome(
    store: Storage, box: Mailbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(smtplib.SMTP, "send_message", broken)
    assert mail.attempt(LETTER, store, box.rules()) == Outcome("ZeroDivisionError")
    assert "a defect" in caplog.text


def test_starttls_is_used_where_it_is_offered_and_its_certificate_checked(
    tmp_path: Path, store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, context = mailbox.certificate(tmp_path)
    options = {"tls_context": context, "authenticator": mailbox.sign_in, "auth_required": True}
    with serving(**options, require_starttls=True) as box:
        refused = mail.attempt(LETTER, store, box.rules(user=QUOTED))
        assert "certificate verify failed" in (refused.error or "") and not refused.final
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert mail.attempt(LETTER, store, box.rules(user=QUOTED)) == Outcome()
        assert (box.encrypted, box.signed_in) == ([True], [True])
        wrong = mail.attempt(LETTER, store, box.rules(user="telltale:wrong"))
        assert "535" in (wrong.error or "") and not wrong.final, "whoever runs this can mend it"
        assert "wrong" not in (wrong.error or "")


def test_smtps_is_encrypted_from_the_start(tmp_path: Path, store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted, context = mailbox.certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with serving(ssl_context=context) as box:
        assert mail.attempt(LETTER, store, box.rules("smtps")) == Outcome()
        assert box.encrypted == [True]


def test_no_password_goes_over_the_wire_in_the_clear(box: Mailbox, store: Storage) -> None:
    outcome = mail.attempt(LETTER, store, box.rules(user=QUOTED))
    assert "offers no STARTTLS" in (outcome.error or "") and not outcome.final
    assert box.taken == []


@pytest.fixture
def notice_id(db: Engine, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """A notice for an operator that is to be mailed."""
    rules = settings().model_copy(update={"smtp_url": "smtp://127.0.0.1:9", "mail_from": FROM})
    monkeypatch.setattr(notices, "settings", lambda: rules)
    with transaction() as session:
        user = User(email="olga@telltale.example", password_hash="", operator=True)
        session.add(user)
        session.flush()
        tenants.add_member(session, user, make_tenant(session), Role.LEAD, actor="test")
        run = TrainingRun(status=RunStatus.FAILED, asked_by="test")
        session.add(run)
        session.flush()
        notices.tell(session, NoticeKind.RUN_FAILED, "1", "It failed", "Why.", actor="test", run_id=run.id)
        return session.scalars(select(NoticeMail.notice_id)).one()


def take(notice_id: UUID) -> Letter | None:
    with transaction() as session:
        return mail.take(session, notice_id)


def settle(letter: Letter, outcome: Outcome) -> bool:
    with transaction() as session:
        return mail.settle(session, letter, outcome)


def row_of(notice_id: UUID) -> NoticeMail | None:
    with transaction() as session:
        return session.get(NoticeMail, notice_id)


def make_due(notice_id: UUID, *, age: timedelta = timedelta(0)) -> None:
    with transaction() as session:
        aged = {"next_attempt_at": func.now(), "created_at": NoticeMail.created_at - age}
        session.execute(update(NoticeMail).where(NoticeMail.notice_id == notice_id).values(aged))


def test_two_workers_send_it_once(notice_id: UUID) -> None:
    letter = take(notice_id)
    assert letter is not None and (letter.to, letter.title) == ("olga@telltale.example", "It failed")
    assert take(notice_id) is None
    assert settle(letter, Outcome())
    assert row_of(notice_id) is None and take(notice_id) is None
    with transaction() as session:
        assert session.get_one(Notice, notice_id).mailed_at is not None


def test_who_has_lost_the_lease_writes_nothing_and_the_copy_has_the_same_id(notice_id: UUID, box: Mailbox) -> None:
    old = take(notice_id)
    with transaction() as session:
        session.execute(update(NoticeMail).values(lease_until=func.now()))
    new = take(notice_id)
    assert old is not None and new is not None
    ids = {mail.message_of(letter, None, box.rules())["Message-ID"] for letter in (old, new)}
    assert ids == {f"<notice-{notice_id}@127.0.0.1>"}
    assert not settle(old, Outcome("late"))
    assert settle(new, Outcome()) and not settle(old, Outcome())


def test_the_waits_grow_and_after_three_days_it_is_given_up(notice_id: UUID) -> None:
    waited = []
    for _ in range(len(WAITS) + 1):
        letter = take(notice_id)
        assert letter is not None
        assert settle(letter, Outcome("The mail server cannot be reached: refused"))
        row = row_of(notice_id)
        assert row is not None and row.failure_detail == "The mail server cannot be reached: refused"
        waited.append(round((row.next_attempt_at - datetime.now(UTC)) / timedelta(minutes=1)))
        make_due(notice_id)
    assert waited == [1, 5, 15, 60, 180, 360, 720, 720]
    make_due(notice_id, age=GIVE_UP_AFTER)
    last = take(notice_id)
    assert last is not None and settle(last, Outcome("still down"))
    row = row_of(notice_id)
    assert row is not None and row.failed_at is not None
    assert row.failure_detail == "Given up after 3 days. still down"
    assert take(notice_id) is None


def test_what_was_refused_for_good_is_not_tried_again(notice_id: UUID) -> None:
    letter = take(notice_id)
    assert letter is not None and settle(letter, Outcome("The mail server said 550: no", final=True))
    make_due(notice_id)
    assert take(notice_id) is None
    row = row_of(notice_id)
    assert row is not None and row.failure_detail == "The mail server said 550: no"


@pytest.mark.parametrize("change", [{"operator": False}, {"disabled_at": NOW}])
def test_who_may_not_know_any_more_is_mailed_nothing(notice_id: UUID, change: dict[str, object]) -> None:
    with transaction() as session:
        session.execute(update(User).values(change))
    assert take(notice_id) is None and row_of(notice_id) is None


@pytest.fixture
def with_variables(services: object, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    def made(url: str, sender: str | None) -> Settings:
        monkeypatch.setenv("TELLTALE_SMTP_URL", url)
        if sender is not None:
            monkeypatch.setenv("TELLTALE_MAIL_FROM", sender)
        return Settings()

    return made


@pytest.mark.parametrize(
    ("url", "sender", "wrong"),
    [
        ("http://host", FROM, "smtp_url"),
        ("smtp://", FROM, "smtp_url"),
        ("smtp://:587", FROM, "smtp_url"),
        ("smtp://host:x", FROM, "smtp_url"),
        ("smtp://user:pa/ss@host", FROM, "smtp_url"),
        ("smtp://host", None, "mail_from"),
        ("smtp://host", "Telltale", "mail_from"),
    ],
)
def test_a_server_or_sender_that_is_none_is_refused_at_the_start(
    with_variables: Callable[..., Settings], url: str, sender: str | None, wrong: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        with_variables(url, sender)
    assert wrong in [error["loc"][0] for error in caught.value.errors()]


def test_a_password_is_in_no_text_of_the_settings(with_variables: Callable[..., Settings]) -> None:
    rules = with_variables(f"smtp://{QUOTED}@mail.example:2525", FROM)
    assert rules.smtp_url == f"smtp://{QUOTED}@mail.example:2525" and "word" not in repr(rules)


def test_what_was_given_up_is_sent_again_for_whose_notice_it_is(notice_id: UUID) -> None:
    first = take(notice_id)
    assert first is not None and settle(first, Outcome("The mail server said 550: no", final=True))
    with transaction() as session:
        reader = session.get_one(Notice, notice_id).user_id
        with pytest.raises(NotFound):
            mail.send_again(session, new_id(), notice_id, actor="test")
        for _ in range(2):  # the second finds it on its way
            mail.send_again(session, reader, notice_id, actor=f"user:{reader}")
        (event,) = session.scalars(select(Event).where(Event.type == EventType.NOTICE_RETRIED))
        assert event.before == {"notice": str(notice_id), "error": "The mail server said 550: no"}
    again = take(notice_id)
    assert again is not None and again.lease.fence == first.lease.fence + 1
    assert settle(again, Outcome("down")) and not settle(first, Outcome())
    row = row_of(notice_id)
    assert row is not None and row.failed_at is None and row.attempts == 1
