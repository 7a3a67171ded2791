"""The platforms' list and settings: for whom, and what is written down."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

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
    assert f'href="{LIST}/{tenant.id}/failures"' in lead and f'href="{LIST}/{tenant.id}"' not in lead
    assert f'href="{LIST}/{tenant.id}"' in admin
    assert 'aria-current="page"' in admin


def test_none_is_made_here_where_a_taken_name_would_tell_of_others(ada: Browser, tenant: Tenant) -> None:
    with transaction() as session:
        make_tenant(session, "Fotoforum")
    assert [ada.post(LIST, {"name": name}).status_code for name in ("Fotoforum", "Bildermarkt")] == [405, 405]
    with transaction() as session:
        assert session.scalar(select(func.count(Tenant.id))) == 2
    assert "telltale tenants create" in ada.get(LIST).text


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
