"""Retention on the platform's page, and a decision's statement of reasons as a download for leads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moderation import cases, retention
from moderation.db import transaction
from moderation.retention import Periods
from moderation.tables import Case, Tenant
from moderation.vocabulary import CaseStatus, ReviewReason, Role
from tests.api.dashboard.conftest import Browser
from tests.factories import make_case, make_tenant


def periods(tenant: Tenant) -> Periods:
    with transaction() as session:
        return retention.periods_of(session.get_one(Tenant, tenant.id))


def test_an_administrator_sets_how_long_data_is_kept(ada: Browser, tenant: Tenant) -> None:
    path = f"/dashboard/platforms/{tenant.id}"
    assert 'name="images" type="number" min="1"' in ada.get(path).text
    answer = ada.post(f"{path}/retention", {"images": "190", "appeals": "183", "events": " "})
    assert answer.location == f"{path}?said=retention_changed"
    assert periods(tenant) == Periods(images=190, appeals=183)
    assert 'value="190"' in ada.get(path).text
    assert ada.post(f"{path}/retention", {"images": "190", "appeals": "183"}).location.endswith("platform_unchanged")


@pytest.mark.parametrize("days", ["soon", "0", "30"])
def test_wrong_days_stay_in_the_form_beside_what_is_wrong(ada: Browser, tenant: Tenant, days: str) -> None:
    answer = ada.post(f"/dashboard/platforms/{tenant.id}/retention", {"images": days, "appeals": "183"})
    assert answer.status_code == 400
    assert 'id="images-hint"' in answer.text and f'value="{days}"' in answer.text and "field-error" in answer.text
    assert periods(tenant) == Periods()


def decided(tenant: Tenant) -> Case:
    with transaction() as session:
        return make_case(session, tenant, CaseStatus.DECIDED)


def test_leads_download_a_statement_of_reasons_and_moderators_do_not(
    browser_of: Callable[..., Browser], tenant: Tenant
) -> None:
    case = decided(tenant)
    page, path = f"/dashboard/cases/{case.id}", f"/dashboard/cases/{case.id}/statement-of-reasons"
    lead, anna = browser_of(Role.LEAD), browser_of(Role.MODERATOR)
    assert path in lead.get(page).text and path not in anna.get(page).text
    answer = lead.get(path)
    assert answer.status_code == 200 and answer.get_json()["case_id"] == str(case.id)
    assert f'filename="statement-of-reasons-{case.id}.json"' in answer.headers["Content-Disposition"]
    assert anna.get(path).status_code == 403
    with transaction() as session:
        other = make_tenant(session, "Fotoforum")
    assert browser_of(Role.LEAD, other).get(path).status_code == 404


def test_who_is_to_look_without_knowing_is_not_told_by_a_statement(
    browser_of: Callable[..., Browser], tenant: Tenant
) -> None:
    case = decided(tenant)
    with transaction() as session:
        cases.reopen(session, session.get_one(Case, case.id), ReviewReason.AUDIT)
    lead = browser_of(Role.LEAD)
    assert "statement-of-reasons" not in lead.get(f"/dashboard/cases/{case.id}").text
    assert lead.get(f"/dashboard/cases/{case.id}/statement-of-reasons").status_code == 409
