"""Signing in: passwords, who is signed in where, and what they may do. Users are made in moderation/tenants.py.

It knows nothing of cookies or pages: whoever holds a token is the browser that signed in. Times are the database's.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from math import ceil
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlalchemy import ColumnElement, delete, func, select, text, update
from sqlalchemy.orm import Session

from moderation import events
from moderation.db import storable, transaction
from moderation.errors import Conflict, Forbidden, InvalidRequest, NotFound, TooManyAttempts, Unauthenticated
from moderation.tables import Membership, SignIn, SignInAttempt, Tenant, User
from moderation.tenants import MIN_PASSWORD_LENGTH, digest, end_sign_ins
from moderation.vocabulary import EventType, Role

# A working day; and a lunch.
LONGEST_SIGN_IN = timedelta(hours=12)
LONGEST_IDLE = timedelta(hours=2)
LAST_SEEN_GRAIN = timedelta(minutes=1)
# Of passwords tried without success: of one account from one address; from one address, which may be a whole office's;
# and of one account from wherever. That last one never closes an account, or anybody could close anybody's: beyond it
# each attempt waits twice as long for the one before, up to LONGEST_DELAY. (OWASP, Authentication Cheat Sheet.)
ATTEMPTS_WINDOW = timedelta(minutes=15)
ATTEMPTS_PER_ACCOUNT = 8
ATTEMPTS_PER_ADDRESS = 40
ATTEMPTS_AT_ONCE = 32
LONGEST_DELAY = timedelta(minutes=1)
# Any constant: whoever counts attempts holds this advisory lock, so that those sent at once are counted too.
ATTEMPTS_LOCK = 4_207_312
MAX_BROWSER_LENGTH = 300

# Each takes 64 MB: without a bound, a flood of sign-ins would take all there is.
_hashing = threading.BoundedSemaphore(4)


@dataclass(frozen=True)
class Member:
    """What a person may do for one platform."""

    tenant_id: UUID
    tenant: str
    role: Role


@dataclass(frozen=True)
class Person:
    """Who is signed in, in this browser, and what they may do for which tenants."""

    user_id: UUID
    email: str
    sign_in_id: UUID
    memberships: tuple[Member, ...]
    operator: bool = False

    @property
    def actor(self) -> str:
        """As events name them."""
        return f"user:{self.user_id}"

    @property
    def tenant_ids(self) -> frozenset[UUID]:
        """Every tenant they belong to."""
        return frozenset(member.tenant_id for member in self.memberships)

    def tenant_ids_as(self, role: Role) -> frozenset[UUID]:
        """The tenants for which they have this role, or one that covers it."""
        return frozenset(member.tenant_id for member in self.memberships if member.role.covers(role))

    def role_in(self, tenant_id: UUID) -> Role | None:
        """Their role for this tenant; None where they do not belong to it."""
        return next((member.role for member in self.memberships if member.tenant_id == tenant_id), None)

    def is_somewhere(self, role: Role) -> bool:
        """Whether they have this role, or one that covers it, for any tenant."""
        return any(member.role.covers(role) for member in self.memberships)

    def require(self, role: Role, tenant_id: UUID) -> None:
        """Raise NotFound for a tenant they do not belong to, Forbidden where their role there does not suffice."""
        own = self.role_in(tenant_id)
        if own is None:
            raise NotFound("There is nothing here, or nothing of a platform that you work for.")
        if not own.covers(role):
            raise Forbidden(f"Only a {role.value} may do this; for this platform you are a {own.value}.")

    def require_operator(self) -> None:
        """Raise Forbidden for whoever may not decide for every tenant at once."""
        if not self.operator:
            raise Forbidden(
                "This concerns every platform, so only an operator may do it. Whoever runs this deployment grants "
                f"it: telltale users operator {self.email}"
            )


def sign_in(email: str, password: str, *, address: str, browser: str) -> str:
    """Sign in and return the token of a new sign-in, which is stored only as a hash.

    Raises Unauthenticated, in the same words and after the same time whatever is wrong; TooManyAttempts, which is
    counted for addresses that belong to nobody too.
    """
    email = email.strip().lower()
    _admit(email, address)
    with transaction() as session:
        user = session.scalar(select(User).where(User.email == storable(email)))
    # Made before it is known whether it is needed, so that neither its making nor the check tells who has an account.
    nobodys_hash = _nobodys_hash()
    right = _matches(user.password_hash if user else nobodys_hash, password)
    if user is None or not right or user.disabled_at is not None:
        raise Unauthenticated("The e-mail address or the password is not right.")
    fresh_hash = _hash(password) if _hasher().check_needs_rehash(user.password_hash) else None
    with transaction() as session:
        _forget_attempts(session, email, address)
        if fresh_hash:
            session.execute(update(User).where(User.id == user.id).values(password_hash=fresh_hash))
        return _open(session, user.id, address, browser)


def _open(session: Session, user_id: UUID, address: str, browser: str) -> str:
    token = secrets.token_urlsafe(32)
    # Those that ended are of no more use to anybody.
    session.execute(delete(SignIn).where(~_alive()))
    opened = SignIn(
        user_id=user_id,
        token_sha256=digest(token),
        address=address,
        browser=storable(browser)[:MAX_BROWSER_LENGTH],
        expires_at=func.now() + LONGEST_SIGN_IN,
    )
    session.add(opened)
    events.record(
        session, EventType.USER_SIGNED_IN, tenant_id=None, actor=f"user:{user_id}", after={"address": address}
    )
    return token


def person_with(token: str, *, touch: bool = True) -> Person:
    """Who signed in with this token. Raises Unauthenticated where that has ended, or never was.

    `touch`: somebody is there; what a page does by itself does not keep a sign-in from ending when it is not used.
    """
    with transaction() as session:
        query = select(SignIn, User).join(User, User.id == SignIn.user_id)
        found = session.execute(
            query.where(SignIn.token_sha256 == digest(token), _alive(), User.disabled_at.is_(None))
        ).one_or_none()
        if found is None:
            raise Unauthenticated("You are not signed in, or no longer: sign in and try again.")
        opened, user = found
        if touch:
            _touch(session, opened.id)
        return Person(user.id, user.email, opened.id, _memberships(session, user.id), user.operator)


def _memberships(session: Session, user_id: UUID) -> tuple[Member, ...]:
    query = select(Membership, Tenant.name).join(Tenant, Tenant.id == Membership.tenant_id)
    rows = session.execute(query.where(Membership.user_id == user_id).order_by(Tenant.name))
    return tuple(Member(membership.tenant_id, name, membership.role) for membership, name in rows)


def _alive() -> ColumnElement[bool]:
    return (SignIn.expires_at > func.now()) & (SignIn.last_seen_at > func.now() - LONGEST_IDLE)


def _touch(session: Session, sign_in_id: UUID) -> None:
    session.execute(
        update(SignIn)
        .where(SignIn.id == sign_in_id, SignIn.last_seen_at < func.now() - LAST_SEEN_GRAIN)
        .values(last_seen_at=func.now())
        .execution_options(synchronize_session=False)
    )


def sign_ins(session: Session, person: Person) -> Sequence[SignIn]:
    """Where this person is signed in, the latest used first."""
    query = select(SignIn).where(SignIn.user_id == person.user_id, _alive())
    return session.scalars(query.order_by(SignIn.last_seen_at.desc(), SignIn.id)).all()


def sign_out(person: Person) -> None:
    """End this browser's sign-in; harmless where it has ended."""
    with transaction() as session:
        _end(session, person, SignIn.id == person.sign_in_id)


def sign_out_elsewhere(person: Person) -> int:
    """End all of this person's sign-ins but this one. Returns how many there were."""
    with transaction() as session:
        return _end(session, person, SignIn.id != person.sign_in_id)


def _end(session: Session, person: Person, which: ColumnElement[bool]) -> int:
    query = delete(SignIn).where(SignIn.user_id == person.user_id, which).returning(SignIn.id)
    ended = session.scalars(query).all()
    if ended:
        events.record(
            session, EventType.USER_SIGNED_OUT, tenant_id=None, actor=person.actor, before={"sign_ins": len(ended)}
        )
    return len(ended)


def change_password(person: Person, old: str, new: str, *, address: str) -> None:
    """Set a new password and sign this person out everywhere else.

    Raises InvalidRequest where the old one is wrong or the new one is too short or the same; TooManyAttempts.
    """
    if len(new) < MIN_PASSWORD_LENGTH:
        raise InvalidRequest(f"A password has at least {MIN_PASSWORD_LENGTH} characters.", pointer="/new_password")
    if new == old:
        raise InvalidRequest("The new password is the old one: choose another.", pointer="/new_password")
    _admit(person.email, address)
    with transaction() as session:
        stored = session.scalars(select(User.password_hash).where(User.id == person.user_id)).one()
    if not _matches(stored, old):
        raise InvalidRequest("The present password is not right.", pointer="/old_password")
    fresh_hash = _hash(new)
    with transaction() as session:
        _forget_attempts(session, person.email, address)
        session.execute(update(User).where(User.id == person.user_id).values(password_hash=fresh_hash))
        events.record(session, EventType.USER_PASSWORD_CHANGED, tenant_id=None, actor=person.actor)
        _end(session, person, SignIn.id != person.sign_in_id)


def set_password(session: Session, user: User, new: str, *, actor: str) -> int:
    """Give somebody a new password, whatever the old one was. Returns how many sign-ins of theirs have ended with it.

    Raises InvalidRequest for a short one.
    """
    if len(new) < MIN_PASSWORD_LENGTH:
        raise InvalidRequest(f"A password has at least {MIN_PASSWORD_LENGTH} characters.")
    user.password_hash = _hash(new)
    session.execute(delete(SignInAttempt).where(SignInAttempt.account_sha256 == digest(user.email)))
    events.record(
        session, EventType.USER_PASSWORD_CHANGED, tenant_id=None, actor=actor, after={"user": f"user:{user.id}"}
    )
    return end_sign_ins(session, user, actor=actor)


def disable(session: Session, user: User, *, actor: str) -> int:
    """Close an account, at once. Returns how many sign-ins of theirs have ended. Raises Conflict where it is closed."""
    if user.disabled_at is not None:
        raise Conflict(f"The account of {user.email} is disabled already.")
    user.disabled_at = datetime.now(UTC)
    events.record(session, EventType.USER_DISABLED, tenant_id=None, actor=actor, after={"user": f"user:{user.id}"})
    return end_sign_ins(session, user, actor=actor)


def enable(session: Session, user: User, *, actor: str) -> None:
    """Open an account again, with the password and the roles it had. Raises Conflict where it is open."""
    if user.disabled_at is None:
        raise Conflict(f"The account of {user.email} is not disabled.")
    user.disabled_at = None
    events.record(session, EventType.USER_ENABLED, tenant_id=None, actor=actor, after={"user": f"user:{user.id}"})


def set_operator(session: Session, user: User, operator: bool, *, actor: str) -> None:
    """Let a person decide for the whole deployment (which version judges, training runs), or no longer.

    Who may do more signs in anew, as with a higher role.
    """
    if user.operator == operator:
        return
    user.operator = operator
    if operator:
        end_sign_ins(session, user, actor=actor)
    type_ = EventType.OPERATOR_GRANTED if operator else EventType.OPERATOR_REVOKED
    events.record(session, type_, tenant_id=None, actor=actor, after={"user": f"user:{user.id}"})


def make_first_operator(session: Session, user: User, *, actor: str) -> bool:
    """Make this person an operator where there is none, for else nobody could act on runs; whether it did."""
    if session.scalar(select(User.id).where(User.operator, User.disabled_at.is_(None)).limit(1)) is not None:
        return False
    set_operator(session, user, True, actor=actor)
    return True


def _admit(email: str, address: str) -> None:
    """Count an attempt before it is made, as one that fails. Raises TooManyAttempts, and then counts nothing."""
    account, nearby = digest(email), _neighbourhood(address)
    of_account, from_address = SignInAttempt.account_sha256 == account, SignInAttempt.address == nearby
    with transaction() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ATTEMPTS_LOCK})
        session.execute(delete(SignInAttempt).where(SignInAttempt.created_at <= func.now() - ATTEMPTS_WINDOW))
        wait = max(
            _wait_s(session, of_account & from_address, ATTEMPTS_PER_ACCOUNT),
            _wait_s(session, from_address, ATTEMPTS_PER_ADDRESS),
            0 if _is_at_home(session, email, nearby) else _delay_s(session, of_account),
        )
        if wait == 0:
            session.add(SignInAttempt(account_sha256=account, address=nearby))
    if wait:
        raise TooManyAttempts(f"Too many attempts. Try again in {_in_words(wait)}.", retry_after=wait)


def _is_at_home(session: Session, email: str, nearby: str) -> bool:
    """Whether this account is signed in at this address now: what others try elsewhere does not hold its owner up."""
    query = select(SignIn.address).join(User, User.id == SignIn.user_id).where(User.email == storable(email), _alive())
    return nearby in {_neighbourhood(address) for address in session.scalars(query)}


def _delay_s(session: Session, of_account: ColumnElement[bool]) -> int:
    """Seconds until an account's next attempt, from whatever address; 0 where it may be made now."""
    age = func.extract("epoch", func.now() - func.max(SignInAttempt.created_at))
    count, since_s = session.execute(select(func.count(), age).where(of_account)).one()
    if count < ATTEMPTS_AT_ONCE:
        return 0
    delay_s = min(2.0 ** (count - ATTEMPTS_AT_ONCE), LONGEST_DELAY.total_seconds())
    return max(0, ceil(delay_s - float(since_s)))


def _wait_s(session: Session, whose: ColumnElement[bool], limit: int) -> int:
    """Seconds until fewer than `limit` attempts lie in the window; 0 where it is so now."""
    query = select(func.extract("epoch", SignInAttempt.created_at + ATTEMPTS_WINDOW - func.now())).where(whose)
    left = session.scalar(query.order_by(SignInAttempt.created_at.desc()).offset(limit - 1).limit(1))
    return 0 if left is None else max(1, ceil(left))


def _in_words(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} second{'s' if seconds > 1 else ''}"
    minutes = ceil(seconds / 60)
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


def _forget_attempts(session: Session, email: str, address: str) -> None:
    """Those of who has just shown that they know the password; not what somebody tries elsewhere."""
    mine = (SignInAttempt.account_sha256 == digest(email)) & (SignInAttempt.address == _neighbourhood(address))
    session.execute(delete(SignInAttempt).where(mine))


def _neighbourhood(address: str) -> str:
    """An address as attempts are counted by: of IPv6 the /64, for whoever has one address has all of those."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"  # who comes through a unix socket has none
    if isinstance(ip, ipaddress.IPv6Address):
        # A socket that takes both kinds says ::ffff:203.0.113.7: one /64 would be everybody.
        ip = ip.ipv4_mapped or ip
    return str(ipaddress.ip_network((ip.packed, 64 if ip.version == 6 else 32), strict=False))


@cache
def _hasher() -> PasswordHasher:
    return PasswordHasher()


@cache
def _nobodys_hash() -> str:
    return _hasher().hash(secrets.token_urlsafe(32))


def _matches(stored: str, password: str) -> bool:
    with _hashing:
        try:
            return _hasher().verify(stored, password.encode("utf-8", "surrogatepass"))
        except VerifyMismatchError:
            return False


def _hash(password: str) -> str:
    with _hashing:
        return _hasher().hash(password.encode("utf-8", "surrogatepass"))
