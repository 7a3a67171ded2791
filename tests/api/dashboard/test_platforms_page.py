"""The platforms' list, a new one, and settings: for whom, and what is written down."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from moderation import tenants
from moderation.db import new_id, transaction
from moderation.tables import Event, Tenant
from moderation.vocabulary import EventType, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_tenant

LIST = "/dashboard/platforms"
WANTED = {"blind_share": "12.5", "second_opinion_share": "0", "audit_share": "100"}


def row(tenant: Tenant) -> Tenant:
    with transaction() as session:
        return session.get_one(Tenant, tenant.id)


def test_each_sees_those_they_lead_with_the_pages_that_are_theirs(
    browser_of: Callable[..., Browser], tenant: Tenant
) -> None:
    with transaction() as session:
        make_tenant(session, "Fotoforum")
    lead, admin = browser_of(Role.LEAD).get(LIST).text, browser_of(Role.ADMIN).get(LIST).text
    assert "Pixelgram" in lead and "Pixelgram" in admin and "Fotoforum" not in lead + admin
    assert f'href="{LIST}/{tenant.id}/failures"' in lead and "A new platform" not in lead
    assert f'href="{LIST}/{tenant.id}"' in admin and "A new platform" in admin
    assert 'aria-current="page"' in admin


def test_who_makes_one_administers_it(ada: Browser, tenant: Tenant) -> None:
    answer = ada.post(LIST, {"name": " Bildermarkt "})
    with transaction() as session:
        made = tenants.tenant_named(session, "Bildermarkt")
        types = session.scalars(select(Event.type).where(Event.tenant_id == made.id).order_by(Event.id)).all()
        actors = set(session.scalars(select(Event.actor).where(Event.tenant_id == made.id)))
    assert answer.location == f"{LIST}/{made.id}?said=platform_created"
    assert types == [EventType.TENANT_CREATED, EventType.MEMBER_ADDED]
    assert ada.user is not None and actors == {f"user:{ada.user.id}"}
    assert made.allow_training is False
    assert "you are its administrator" in ada.get(answer.location).text


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [("", 400, "A name has 1 to 100"), ("x" * 101, 400, "A name has 1 to 100"), ("Pixelgram", 409, "already")],
)
def test_a_name_that_is_none_or_taken_is_said(ada: Browser, name: str, status: int, words: str) -> None:
    answer = ada.post(LIST, {"name": name})
    assert answer.status_code == status and words in answer.text
    with transaction() as session:
        assert session.scalar(select(func.count(Tenant.id))) == 1


def test_settings_are_in_per_cent_and_written_down(ada: Browser, tenant: Tenant) -> None:
    path = f"{LIST}/{tenant.id}"
    page = ada.get(path).text
    assert 'name="blind_share" type="number" min="0" max="100" step="any" required value="10"' in page
    answer = ada.post(path, {**WANTED, "allow_training": "1"})
    assert answer.location == f"{path}?said=platform_changed"
    now = row(tenant)
    assert (now.allow_training, now.blind_share, now.second_opinion_share, now.audit_share) == (True, 0.125, 0, 1)
    with transaction() as session:
        (event,) = session.scalars(select(Event).where(Event.type == EventType.TENANT_CHANGED))
    assert event.before == {"allow_training": False, "blind_share": 0.1, "audit_share": 0.0}
    assert event.after == {"allow_training": True, "blind_share": 0.125, "audit_share": 1.0}
    assert ada.post(path, {**WANTED, "allow_training": "1"}).location == f"{path}?said=platform_unchanged"
    ada.post(path, WANTED)
    assert row(tenant).allow_training is False


@pytest.mark.parametrize("share", ["", "x", "-1", "100.1", "nan", "inf", "1e400"])
def test_a_share_that_is_none_is_pointed_at_and_nothing_is_changed(ada: Browser, tenant: Tenant, share: str) -> None:
    answer = ada.post(f"{LIST}/{tenant.id}", {**WANTED, "blind_share": share})
    assert answer.status_code == 400
    assert 'class="field-error" id="blind_share-hint"' in answer.text and f'value="{share}"' in answer.text
    assert row(tenant).audit_share == 0


def test_another_platform_and_none_look_the_same(ada: Browser) -> None:
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
    for tenant_id in (other.id, new_id()):
        answer = ada.get(f"{LIST}/{tenant_id}")
        assert answer.status_code == 404 and "Fotoforum" not in answer.text
        assert ada.post(f"{LIST}/{tenant_id}", WANTED).status_code == 404
    assert row(other).audit_share == 0
