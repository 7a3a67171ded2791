"""Notices by mail: taken under a lease, sent by the deployment's own mail server, tried again, given up.

The relay finds them in state (`tables.NoticeMail`). A notice is mailed once; where a worker dies between the server's
yes and the commit it is sent again under the same Message-ID, by which mail readers know a copy. What is mailed is the
notice's words, a link and, of a run, its report: no image, and nothing of any key.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from urllib.parse import SplitResult, unquote, urlsplit
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moderation import errands, events, notices
from moderation.db import FRESH
from moderation.errors import ConfigurationError, ImageTooLarge, InvalidRequest, NotFound, TelltaleError
from moderation.leases import Lease
from moderation.settings import Settings
from moderation.storage import Storage, report_key
from moderation.tables import Notice, NoticeMail, User
from moderation.vocabulary import EventType

log = logging.getLogger(__name__)

# Longer than a mail server may take over all of a conversation whose every answer comes within the time-out.
LEASE = timedelta(minutes=5)
# Before each attempt but the first; the last wait is for every later one, until it is given up.
WAITS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180, 360, 720))
GIVE_UP_AFTER = timedelta(days=3)
# Of a mail server (RFC 6409 and 8314).
PORTS = {"smtp": 587, "smtps": 465}
# Most servers take 10 MB, and base64 adds a third.
MOST_REPORT_BYTES = 6 * 1024**2

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>{title}</title></head>
<body style="margin: 0; padding: 24px; font: 15px/1.5 system-ui, 'Segoe UI', Roboto, sans-serif">
<div style="max-width: 36rem">
<h1 style="font-size: 19px; line-height: 1.3; margin: 0 0 12px">{title}</h1>
<p style="margin: 0 0 20px">{text}</p>
<p style="margin: 0 0 20px"><a href="{link}" style="display: inline-block; padding: 8px 16px; border-radius: 6px;
background: #4453cf; color: #ffffff; text-decoration: none; font-weight: 600">Look at it</a></p>
{more}<p style="margin: 0; font-size: 13px; opacity: 0.75">{why}</p>
</div>
</body></html>
"""


@dataclass(frozen=True)
class Letter:
    """One leased mail, with all that is needed to send it without the database."""

    lease: Lease
    to: str
    title: str
    text: str
    path: str
    written_at: datetime
    run_id: UUID | None
    for_operators: bool

    @property
    def notice_id(self) -> UUID:
        """Leases are only compared: this one's `case_id` is the notice's."""
        return self.lease.case_id


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt: `error` says why it was not sent, `final` that trying again would not help."""

    error: str | None = None
    final: bool = False


def take(session: Session, notice_id: UUID) -> Letter | None:
    """Lease a mail that is due; None where there is none, and where the person may not be told any more."""
    row = errands.take(session, NoticeMail, NoticeMail.notice_id, notice_id, LEASE)
    if row is None:
        return None
    notice = session.get_one(Notice, notice_id)
    if not notices.concerns(session, notice):
        session.delete(row)
        return None
    return Letter(
        lease=Lease(notice_id, row.fence, row.attempts),
        to=session.get_one(User, notice.user_id).email,
        title=notice.title,
        text=notice.text,
        path=notices.path(notice),
        written_at=notice.created_at,
        run_id=notice.run_id,
        for_operators=notice.for_operators,
    )


def attempt(letter: Letter, store: Storage, settings: Settings) -> Outcome:
    """Write the mail and hand it to the server. Whatever goes wrong is an outcome."""
    try:
        _send(message_of(letter, _report(letter, store), settings), settings)
    except smtplib.SMTPRecipientsRefused as error:
        code, said = next(iter(error.recipients.values()))
        return _refused(code, said)
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        return _refused(error.smtp_code, error.smtp_error)
    except smtplib.SMTPNotSupportedError as error:
        return Outcome(f"The mail server cannot take it: {error}", final=True)
    except smtplib.SMTPResponseException as error:  # of the conversation and not of the mail: signing in, greeting
        return Outcome(_said(error.smtp_code, error.smtp_error))
    except TelltaleError as error:
        return Outcome(error.message, final=isinstance(error, InvalidRequest))
    except (smtplib.SMTPException, OSError) as error:
        return Outcome(f"The mail server cannot be reached: {error.strerror or error}")
    except Exception as error:
        # A defect of ours. Unsettled, it would be tried again without end; its text is for us, its name for everybody.
        log.exception("notice %s could not be mailed", letter.notice_id)
        return Outcome(type(error).__name__)
    return Outcome()


def settle(session: Session, letter: Letter, outcome: Outcome) -> bool:
    """Write what came of an attempt, and when the next one is due; False where the lease was lost meanwhile."""
    query = select(NoticeMail).where(NoticeMail.notice_id == letter.notice_id).with_for_update()
    row = session.scalar(query, execution_options=FRESH)
    if row is None or not errands.is_held(row, letter.lease):
        return False
    now = datetime.now(UTC)
    if outcome.error is None:
        session.get_one(Notice, letter.notice_id).mailed_at = now
        session.delete(row)
        return True
    wait = WAITS[min(row.attempts, len(WAITS)) - 1]
    if outcome.final:
        errands.fail(row, outcome.error)
    elif now + wait > row.created_at + GIVE_UP_AFTER:
        errands.fail(row, f"Given up after {GIVE_UP_AFTER.days} days. {outcome.error}")
    else:
        errands.give_back(row, wait, counts=True)
        row.failure_detail = errands.told(outcome.error)
    return True


def send_again(session: Session, user_id: UUID, notice_id: UUID, *, actor: str) -> None:
    """Mail a person's notice after all, which was given up. Nothing is changed where it is on its way anyway.

    Raises NotFound for what is not theirs, or has no mail.
    """
    mine = select(NoticeMail).join(Notice, Notice.id == NoticeMail.notice_id)
    mine = mine.where(Notice.id == notice_id, Notice.user_id == user_id).with_for_update(of=NoticeMail)
    row = session.scalar(mine, execution_options=FRESH)
    if row is None:
        raise NotFound("There is no such notice of yours, or no mail of it that was given up.")
    if row.failed_at is None:
        return
    before = {"notice": str(notice_id), "error": row.failure_detail}
    row.failed_at = row.failure_detail = None
    row.attempts, row.asked_by = 0, actor
    row.created_at = row.next_attempt_at = func.now()
    events.record(session, EventType.NOTICE_RETRIED, tenant_id=None, actor=actor, before=before)


def message_of(letter: Letter, report: bytes | None, settings: Settings) -> EmailMessage:
    """The mail: plain text and HTML, and the run's report as a file. Its id and its date are the notice's.

    Raises ConfigurationError where nobody is set whom it is from, InvalidRequest where it is to no address.
    """
    if settings.mail_from is None:
        raise ConfigurationError("TELLTALE_MAIL_FROM is not set: no mail can be sent without an address it is from.")
    base = settings.public_url.rstrip("/")
    why = f"You get this because you {_reason(letter)} in Telltale at {base}. The same is under Notices there."
    link, more = f"{base}{letter.path}", "The run's report is attached: every rule of the gate, and the plots."
    message = EmailMessage(policy=SMTP)
    message["Subject"] = _line(f"Telltale: {letter.title}")
    message["From"] = settings.mail_from
    message["To"] = _address(letter.to)
    message["Date"] = format_datetime(letter.written_at)
    message["Message-ID"] = f"<notice-{letter.notice_id}@{_host(settings)}>"
    message["Auto-Submitted"] = "auto-generated"
    parts = [letter.title, letter.text, link, *([more] if report else []), why]
    message.set_content("\n\n".join(parts) + "\n", cte="quoted-printable")
    message.add_alternative(
        _PAGE.format(
            title=escape(letter.title),
            text=escape(letter.text).replace("\n", "<br>"),
            link=escape(link),
            more=f'<p style="margin: 0 0 20px">{escape(more)}</p>\n' if report else "",
            why=escape(why),
        ),
        subtype="html",
        cte="quoted-printable",
    )
    if report:
        message.add_attachment(report.decode(), subtype="html", cte="base64", filename=f"run-{letter.run_id}.html")
    return message


def _address(email: str) -> Address:
    """One, and one only: accounts may be named for anything with an @ in it. Raises InvalidRequest."""
    try:
        return Address(addr_spec=email)
    except (MessageError, ValueError, IndexError) as error:
        raise InvalidRequest(f"Nothing can be mailed to {email!r}: {error}") from error


def _reason(letter: Letter) -> str:
    return "are an operator" if letter.for_operators else "lead a platform"


def _line(text: str) -> str:
    """Names may hold line ends, which no header does."""
    return " ".join(text.split())


def _host(settings: Settings) -> str:
    return urlsplit(settings.public_url).hostname or "localhost"


def _report(letter: Letter, store: Storage) -> bytes | None:
    """The run's report; None where it has none, or one that is too large to be mailed: the link leads to it.

    Raises StorageUnavailable.
    """
    if letter.run_id is None:
        return None
    try:
        return store.get(report_key(letter.run_id), max_bytes=MOST_REPORT_BYTES)
    except (NotFound, ImageTooLarge):
        return None


def greet(settings: Settings) -> None:
    """Speak to the mail server as for a mail, signing in included, and send none.

    Raises smtplib's errors, OSError, ConfigurationError.
    """
    with _signed_in(settings) as smtp:
        smtp.noop()


def _send(message: EmailMessage, settings: Settings) -> None:
    """Raises smtplib's errors, OSError, and ConfigurationError where a password would go over the wire in the clear."""
    with _signed_in(settings) as smtp:
        smtp.send_message(message)


@contextmanager
def _signed_in(settings: Settings) -> Iterator[smtplib.SMTP]:
    server = urlsplit(settings.smtp_url or "")
    with _connected(server, settings) as smtp:
        if server.username:
            smtp.login(unquote(server.username), unquote(server.password or ""))
        yield smtp


@contextmanager
def _connected(server: SplitResult, settings: Settings) -> Iterator[smtplib.SMTP]:
    """A conversation with the server: encrypted from the start (`smtps`), or as soon as it offers to be."""
    context = ssl.create_default_context()
    # Its own name is what it says of itself; looked up, it could take as long as DNS does.
    ours, timeout = _host(settings), settings.delivery_timeout_s
    where = server.hostname or "", server.port or PORTS.get(server.scheme, 0)
    if server.scheme == "smtps":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(*where, local_hostname=ours, timeout=timeout, context=context)
    else:
        smtp = smtplib.SMTP(*where, local_hostname=ours, timeout=timeout)
    try:
        smtp.ehlo()
        if server.scheme == "smtp" and smtp.has_extn("starttls"):
            smtp.starttls(context=context)
        elif server.scheme == "smtp" and server.username:
            raise ConfigurationError("The mail server offers no STARTTLS: the password is not sent in the clear.")
        yield smtp
        with suppress(smtplib.SMTPException, OSError):  # the mail is taken, whatever becomes of the farewell
            smtp.quit()
    finally:
        smtp.close()


def _refused(code: int, said: bytes | str) -> Outcome:
    """Of this mail; 5xx is for good (RFC 5321, 4.2.1)."""
    return Outcome(_said(code, said), final=500 <= code < 600)


def _said(code: int, said: bytes | str) -> str:
    words = said.decode(errors="replace") if isinstance(said, bytes) else said
    return f"The mail server said {code}: {_line(words)}"
