"""Signing in: with the right password only, not too often, and no longer than it lasts; and who may do what then."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from uuid import UUID

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine, func, select, update

from moderation import accounts, tenants
from moderation.accounts import (
    ATTEMPTS_AT_ONCE,
    ATTEMPTS_PER_ACCOUNT,
    ATTEMPTS_PER_ADDRESS,
    ATTEMPTS_WINDOW,
    LONGEST_DELAY,
    Person,
)
from moderation.db import new_id, transaction
from moderation.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    TelltaleError,
    TooManyAttempts,
    Unauthenticated,
)
from moderation.tables import Event, SignIn, SignInAttempt, User
from moderation.vocabulary import Role
from tests.factories import make_tenant

EMAIL, PASSWORD, OTHER = "mona@platform.example", "correct horse battery staple", "another staple for a horse"
HERE = "203.0.113.7"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed as in earnest, in a hundredth of the time and memory."""
    hasher = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    nobodys = hasher.hash("nobody's")
    monkeypatch.setattr(tenants, "PasswordHasher", lambda: hasher)
    monkeypatch.setattr(accounts, "_hasher", lambda: hasher)
    monkeypatch.setattr(accounts, "_nobodys_hash", lambda: nobodys)


@pytest.fixture
def user(db: Engine) -> User:
    """Somebody who can sign in, as EMAIL with PASSWORD."""
    with transaction() as session:
        return tenants.create_user(session, EMAIL, PASSWORD)


def sign_in(email: str = EMAIL, password: str = PASSWORD, address: str = HERE) -> str:
    return accounts.sign_in(email, password, address=address, browser="Firefox")


def outcome(attempt: Callable[[], object]) -> type[TelltaleError] | None:
    """What an attempt raised."""
    try:
        attempt()
    except TelltaleError as error:
        return type(error)
    return None


def later(by: timedelta) -> None:
    """As if so much time had gone by since every sign-in and attempt."""
    with transaction() as session:
        session.execute(update(SignIn).values(last_seen_at=SignIn.last_seen_at - by, expires_at=SignIn.expires_at - by))
        session.execute(update(SignInAttempt).values(created_at=SignInAttempt.created_at - by))


def event_types() -> list[str]:
    with transaction() as session:
        return [type_.value for type_ in session.scalars(select(Event.type).order_by(Event.id))]


def test_the_right_password_signs_in_and_only_its_hash_is_stored(user: User) -> None:
    token = sign_in(" MONA@Platform.example ")
    person = accounts.person_with(token)
    assert (person.user_id, person.email) == (user.id, EMAIL)
    assert len(token) >= 43  # 256 bits in base64
    with transaction() as session:
        row = session.scalars(select(SignIn)).one()
        assert token not in (row.token_sha256, str(row.id))
        assert row.expires_at - row.created_at == accounts.LONGEST_SIGN_IN
    assert event_types() == ["user.signed_in"]


@pytest.mark.parametrize(
    ("email", "password"),
    [(EMAIL, OTHER), (EMAIL, ""), ("nobody@platform.example", PASSWORD), ("", ""), ("\x00\ud800", "\x00\ud800")],
)
def test_whatever_is_wrong_the_words_and_the_work_are_the_same(
    user: User, monkeypatch: pytest.MonkeyPatch, email: str, password: str
) -> None:
    verified = []
    verify = accounts._matches
    monkeypatch.setattr(accounts, "_matches", lambda *given: verified.append(given) or verify(*given))
    with pytest.raises(Unauthenticated, match=r"^The e-mail address or the password is not right\.$"):
        sign_in(email, password)
    assert len(verified) == 1, "a password is checked once, whether or not there is an account"


def test_who_is_disabled_is_out_at_once_and_stays_out(user: User) -> None:
    token = sign_in()
    with transaction() as session:
        session.execute(update(User).values(disabled_at=func.now()))
    assert outcome(lambda: accounts.person_with(token)) is Unauthenticated
    assert outcome(sign_in) is Unauthenticated


def test_a_hash_of_older_parameters_is_renewed(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_hasher", PasswordHasher)
    with transaction() as session:
        old = PasswordHasher(time_cost=1, memory_cost=1024).hash(PASSWORD)
        session.execute(update(User).values(password_hash=old))
    sign_in()
    with transaction() as session:
        stored = session.scalars(select(User.password_hash)).one()
    assert stored != old and not PasswordHasher().check_needs_rehash(stored)
    sign_in()


def test_it_ends_when_unused_and_when_it_was_long_enough(user: User) -> None:
    token = sign_in()
    later(accounts.LONGEST_IDLE - timedelta(minutes=1))
    accounts.person_with(token)
    later(accounts.LONGEST_IDLE - timedelta(minutes=1))
    accounts.person_with(token)
    later(accounts.LONGEST_IDLE + timedelta(minutes=1))
    assert outcome(lambda: accounts.person_with(token)) is Unauthenticated
    token = sign_in()
    for _ in range(int(accounts.LONGEST_SIGN_IN / timedelta(hours=1))):
        accounts.person_with(token)
        later(timedelta(hours=1))
    assert outcome(lambda: accounts.person_with(token)) is Unauthenticated


def test_those_that_ended_are_removed_with_the_next(user: User) -> None:
    sign_in()
    later(accounts.LONGEST_SIGN_IN)
    sign_in()
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(SignIn)) == 1


def test_signing_out_ends_one_and_signing_out_elsewhere_the_others(user: User) -> None:
    here, there, elsewhere = (sign_in() for _ in range(3))
    accounts.sign_out(accounts.person_with(elsewhere))
    assert outcome(lambda: accounts.person_with(elsewhere)) is Unauthenticated
    assert accounts.sign_out_elsewhere(accounts.person_with(here)) == 1
    assert outcome(lambda: accounts.person_with(there)) is Unauthenticated
    assert accounts.sign_out_elsewhere(accounts.person_with(here)) == 0
    with transaction() as session:
        assert len(accounts.sign_ins(session, accounts.person_with(here))) == 1
    assert event_types() == ["user.signed_in"] * 3 + ["user.signed_out"] * 2


def test_nobody_signs_anybody_else_out(user: User) -> None:
    with transaction() as session:
        tenants.create_user(session, "other@platform.example", PASSWORD)
    theirs = sign_in("other@platform.example")
    accounts.sign_out_elsewhere(accounts.person_with(sign_in()))
    accounts.person_with(theirs)


def test_a_new_password_replaces_the_old_one_and_ends_the_other_sign_ins(user: User) -> None:
    here, there = sign_in(), sign_in()
    accounts.change_password(accounts.person_with(here), PASSWORD, OTHER, address=HERE)
    accounts.person_with(here)
    assert outcome(lambda: accounts.person_with(there)) is Unauthenticated
    assert outcome(sign_in) is Unauthenticated
    sign_in(password=OTHER)
    assert "user.password_changed" in event_types()


@pytest.mark.parametrize(
    ("old", "new", "pointer"),
    [
        ("wrong", OTHER, "/old_password"),
        (PASSWORD, "short", "/new_password"),
        (PASSWORD, PASSWORD, "/new_password"),
    ],
)
def test_a_password_that_cannot_be_changed_stays(user: User, old: str, new: str, pointer: str) -> None:
    person = accounts.person_with(sign_in())
    with pytest.raises(InvalidRequest) as refused:
        accounts.change_password(person, old, new, address=HERE)
    assert refused.value.pointer == pointer
    sign_in()


def test_an_open_page_does_not_serve_for_guessing_the_password(user: User) -> None:
    person = accounts.person_with(sign_in())
    change = partial(accounts.change_password, person, "wrong", OTHER, address=HERE)
    outcomes = [outcome(change) for _ in range(ATTEMPTS_PER_ACCOUNT + 1)]
    assert outcomes == [InvalidRequest] * ATTEMPTS_PER_ACCOUNT + [TooManyAttempts]


@pytest.mark.parametrize("email", [EMAIL, "nobody@platform.example"])
def test_an_account_is_closed_to_one_address_whether_or_not_there_is_one(user: User, email: str) -> None:
    tries = [outcome(lambda: sign_in(email, OTHER)) for _ in range(ATTEMPTS_PER_ACCOUNT)]
    assert tries == [Unauthenticated] * ATTEMPTS_PER_ACCOUNT
    with pytest.raises(TooManyAttempts, match=r"^Too many attempts\. Try again in 15 minutes\.$") as refused:
        sign_in(email, PASSWORD)
    assert 0 < refused.value.retry_after <= ATTEMPTS_WINDOW.total_seconds()


def tried_from_all_over(email: str, attempts: int, ahead: timedelta = timedelta()) -> None:
    """As if somebody had just failed so often, each time from another address; or would, so much later."""
    account, at = accounts.digest(email), func.now() + ahead
    with transaction() as session:
        session.add_all(
            SignInAttempt(account_sha256=account, address=f"198.51.100.{n}/32", created_at=at) for n in range(attempts)
        )


def test_one_address_closes_an_account_to_nobody_else(user: User) -> None:
    for _ in range(ATTEMPTS_PER_ACCOUNT + 1):
        outcome(lambda: sign_in(password=OTHER))
    sign_in(address="198.51.100.1")
    assert outcome(sign_in) is TooManyAttempts, "what was tried here is not forgotten by a success elsewhere"


@pytest.mark.parametrize("email", [EMAIL, "nobody@platform.example"])
@pytest.mark.parametrize(("beyond", "wait_s"), [(0, 1), (3, 8), (50, LONGEST_DELAY.total_seconds())])
def test_from_all_over_an_account_is_slowed_down_and_never_closed(
    user: User, email: str, beyond: int, wait_s: float
) -> None:
    ahead, began = timedelta(minutes=5), time.monotonic()  # or a second's wait might be over before it is asked for
    tried_from_all_over(email, ATTEMPTS_AT_ONCE + beyond, ahead)
    with pytest.raises(TooManyAttempts) as refused:
        sign_in(email)
    whole = ahead.total_seconds() + wait_s
    assert whole - (time.monotonic() - began) <= refused.value.retry_after <= whole
    later(timedelta(seconds=whole))
    assert outcome(lambda: sign_in(email)) is (None if email == EMAIL else Unauthenticated)


def test_below_that_nobody_waits(user: User) -> None:
    tried_from_all_over(EMAIL, ATTEMPTS_AT_ONCE - 1)
    sign_in()


def test_who_is_signed_in_at_an_address_is_not_held_up_there(user: User) -> None:
    token = sign_in()
    tried_from_all_over(EMAIL, ATTEMPTS_AT_ONCE + 50, timedelta(minutes=5))
    accounts.person_with(token)
    sign_in()
    accounts.change_password(accounts.person_with(token), PASSWORD, OTHER, address=HERE)
    assert outcome(lambda: sign_in(password=OTHER, address="192.0.2.1")) is TooManyAttempts


def test_a_page_by_itself_does_not_keep_a_sign_in_alive(user: User) -> None:
    token = sign_in()
    later(accounts.LONGEST_IDLE - timedelta(minutes=1))
    accounts.person_with(token, touch=False)
    later(timedelta(minutes=2))
    assert outcome(lambda: accounts.person_with(token)) is Unauthenticated


def test_a_closed_account_is_out_at_once_and_can_be_opened_again(user: User) -> None:
    token = sign_in()
    with transaction() as session:
        assert accounts.disable(session, session.get_one(User, user.id), actor="operator") == 1
    assert outcome(lambda: accounts.person_with(token)) is outcome(sign_in) is Unauthenticated
    with transaction() as session:
        again = session.get_one(User, user.id)
        assert outcome(lambda: accounts.disable(session, again, actor="operator")) is Conflict
        accounts.enable(session, again, actor="operator")
        assert outcome(lambda: accounts.enable(session, again, actor="operator")) is Conflict
    assert outcome(lambda: accounts.person_with(token)) is Unauthenticated, "what has ended stays so"
    sign_in()
    assert event_types()[1:4] == ["user.disabled", "user.signed_out", "user.enabled"]


def test_a_password_that_was_set_replaces_the_old_one_and_ends_every_sign_in(user: User) -> None:
    token = sign_in()
    with transaction() as session:
        row = session.get_one(User, user.id)
        assert outcome(lambda: accounts.set_password(session, row, "short", actor="operator")) is InvalidRequest
        assert accounts.set_password(session, row, OTHER, actor="operator") == 1
    assert outcome(lambda: accounts.person_with(token)) is outcome(sign_in) is Unauthenticated
    sign_in(password=OTHER)


def test_the_time_left_is_true(user: User) -> None:
    began = time.monotonic()
    for _ in range(ATTEMPTS_PER_ACCOUNT):
        outcome(lambda: sign_in(password=OTHER))
    later(ATTEMPTS_WINDOW - timedelta(seconds=40))
    with pytest.raises(TooManyAttempts, match=r"in \d+ seconds?\.$") as refused:
        sign_in()
    assert 40 - (time.monotonic() - began) <= refused.value.retry_after <= 40
    later(timedelta(seconds=40))
    sign_in()


def test_an_address_is_closed_too_but_not_for_others(user: User) -> None:
    with transaction() as session:
        for n in range(ATTEMPTS_PER_ADDRESS):
            session.add(SignInAttempt(account_sha256=str(n), address=accounts._neighbourhood("2001:db8::1")))
    assert outcome(lambda: sign_in(address="2001:db8::ffff:1")) is TooManyAttempts, "one network"
    assert outcome(lambda: sign_in(address="2001:db8:0:1::1")) is None


def test_succeeding_forgets_the_failures_of_this_account_only(user: User) -> None:
    outcome(lambda: sign_in("nobody@platform.example"))
    for _ in range(2):
        for _ in range(ATTEMPTS_PER_ACCOUNT // 2):
            assert outcome(lambda: sign_in(password=OTHER)) is Unauthenticated
        sign_in()
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(SignInAttempt)) == 1


def test_attempts_at_the_same_moment_are_counted(user: User) -> None:
    with ThreadPoolExecutor(12) as pool:
        tries = list(pool.map(lambda _: outcome(lambda: sign_in(password=OTHER)), range(24)))
    assert tries.count(Unauthenticated) == ATTEMPTS_PER_ACCOUNT
    assert tries.count(TooManyAttempts) == 24 - ATTEMPTS_PER_ACCOUNT


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1:2%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("::ffff:cb00:7107", "203.0.113.7/32"),
        ("", "unknown"),
    ],
)
def test_addresses_are_counted_by_whoever_holds_them(address: str, counted_as: str) -> None:
    assert accounts._neighbourhood(address) == counted_as


def person_of(session_tenants: dict[UUID, Role]) -> Person:
    members = tuple(accounts.Member(tenant_id, "name", role) for tenant_id, role in session_tenants.items())
    return Person(new_id(), EMAIL, new_id(), members)


def test_a_role_covers_those_below_it_in_its_own_tenant_only() -> None:
    here, there = new_id(), new_id()
    person = person_of({here: Role.LEAD, there: Role.MODERATOR})
    person.require(Role.LEAD, here)
    person.require(Role.MODERATOR, here)
    person.require(Role.MODERATOR, there)
    with pytest.raises(Forbidden, match="Only a lead"):
        person.require(Role.LEAD, there)
    with pytest.raises(Forbidden):
        person.require(Role.ADMIN, here)
    with pytest.raises(NotFound):
        person.require(Role.MODERATOR, new_id())
    assert person.tenant_ids_as(Role.LEAD) == {here}
    assert person.tenant_ids_as(Role.MODERATOR) == person.tenant_ids == {here, there}
    assert person.is_somewhere(Role.LEAD) and not person.is_somewhere(Role.ADMIN)


def test_memberships_are_as_they_are_now(user: User) -> None:
    token = sign_in()
    assert accounts.person_with(token).memberships == ()
    with transaction() as session:
        tenant = make_tenant(session, "Pixelgram")
        tenants.add_member(session, user, tenant, Role.MODERATOR)
    assert accounts.person_with(token).memberships == (accounts.Member(tenant.id, "Pixelgram", Role.MODERATOR),)
    assert accounts.person_with(token).actor == f"user:{user.id}"


def test_looking_in_again_is_written_down_once_a_minute(user: User) -> None:
    token = sign_in()
    later(timedelta(minutes=5))
    with transaction() as session:
        before = session.scalars(select(func.now())).one()
    accounts.person_with(token)
    with transaction() as session:
        seen = session.scalars(select(SignIn.last_seen_at)).one()
    assert seen > before
    accounts.person_with(token)
    with transaction() as session:
        assert session.scalars(select(SignIn.last_seen_at)).one() == seen
