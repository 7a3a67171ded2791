"""Insight, thresholds and models in real Chromium: what is drawn, what the sliders do, and what is saved."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from moderation import model_versions, screening, tenants
from moderation.db import transaction
from moderation.settings import settings
from moderation.tables import Case, User
from moderation.vocabulary import Role
from tests.browser.conftest import Dashboard, tenant_named
from tests.factories import make_case, make_reading, make_version
from tests.history import make_plausible_past
from tests.reviewing import make_person

LENA = "lena@pixelgram.example"
Look = Callable[[Page, str], None]


def furnish(dashboard: Dashboard, *, days: int = 90, audit_share: float = 0.15) -> UUID:
    """Pixelgram with a past of so many days and two model versions, and its lead; returns its id."""
    dashboard.person(LENA, Pixelgram=Role.LEAD)
    with transaction() as session:
        tenant = tenant_named(session, "Pixelgram")
        version = make_version(session, "fakevlm-7b-r4")
        version.manifest = {
            **version.manifest,
            "kind": "fakevlm",
            "base": "a vision-language model of 7 billion parameters",
            "calibration": {"method": "platt", "scale": 1.31, "bias": -0.12, "fitted_on": "holdout of 1 May"},
            "metrics": {"measured_on": "holdout of 1 May", "auc": 0.9712, "reals": {"accuracy": 0.944}},
        }
        older = make_version(session, "fakevlm-7b-r3", champion=False)
        older.manifest = {
            **older.manifest,
            "kind": "fakevlm",
            "metrics": {"measured_on": "holdout of 2 April", "auc": 0.9581},
        }
        people = [make_person(session, tenant) for _ in range(3)]
        users = [session.get_one(User, person.user_id) for person in people]
        make_plausible_past(session, tenant, version, users, datetime.now(UTC), days=days, audit_share=audit_share)
        return tenant.id


def test_insight_shows_what_there_is(dashboard: Dashboard, look: Look) -> None:
    furnish(dashboard)
    page = dashboard.sign_in(LENA, "/dashboard/insight?days=90")
    expect(page.get_by_role("heading", name="How often automatic decisions are right")).to_be_visible()
    expect(page.get_by_role("img", name="Cases by day of arrival")).to_be_visible()
    expect(page.get_by_role("paragraph").filter(has_text="Cohen’s kappa 0.")).to_be_visible()
    look(page, "insight")
    page.get_by_role("combobox", name="Category").select_option("portrait")
    page.wait_for_url("**category=portrait**")
    expect(page.get_by_role("combobox", name="Category")).to_have_value("portrait")


def test_models_are_side_by_side(dashboard: Dashboard, look: Look) -> None:
    furnish(dashboard, days=0)
    page = dashboard.sign_in(LENA, "/dashboard/models")
    expect(page.get_by_role("row", name="auc")).to_contain_text("0.9712")
    expect(page.get_by_role("row", name="reals: accuracy")).to_contain_text("not measured")
    look(page, "models")


def test_thresholds_are_moved_by_keyboard_saved_and_decide_the_next_case(dashboard: Dashboard, look: Look) -> None:
    tenant_id = furnish(dashboard)
    path = f"/dashboard/platforms/{tenant_id}/thresholds"
    page = dashboard.sign_in(LENA, path)
    look(page, "thresholds")
    share, load = page.locator("[data-effect=automatic]"), page.locator("[data-effect=load]")
    before = share.inner_text(), load.inner_text()
    fake = page.get_by_label("Fake from")
    fake.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    expect(fake).to_have_attribute("aria-valuetext", "0.75")
    assert (share.inner_text(), load.inner_text()) != before
    real = page.get_by_label("Real up to")
    real.focus()
    page.keyboard.press("ArrowRight")
    expect(real).to_have_attribute("aria-valuetext", "0.16")
    page.keyboard.press("End")
    expect(real).to_have_attribute("aria-valuetext", "0.99")
    expect(fake).to_have_attribute("aria-valuetext", "1")
    page.keyboard.press("Home")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(real).to_have_attribute("aria-valuetext", "0.2")
    fake.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    expect(fake).to_have_attribute("aria-valuetext", "0.7")
    look(page, "thresholds-moved")
    page.get_by_role("button", name="Save as version 2").press("Enter")
    expect(page.get_by_role("status").filter(has_text="Saved")).to_be_visible()
    expect(page.get_by_text("Version 2 is in force")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile(rf"^2 .+ {re.escape(LENA)}"))).to_be_visible()
    assert decided_under(tenant_id, 0.72) == (2, "fake"), "which version 1 would have sent to people"
    page.get_by_role("button", name="Go back to this: version 1").press("Enter")
    expect(page.get_by_text("Version 3 is in force: real up to 0.15, fake from 0.85.")).to_be_visible()
    assert decided_under(tenant_id, 0.72) == (3, None)


def decided_under(tenant_id: UUID, p_fake: float) -> tuple[int, str | None]:
    """Which version of the policy the next case is decided under, and as what."""
    with transaction() as session:
        tenant = next(one for one in tenants.tenants_with(session, [tenant_id]))
        champion = model_versions.champion(session)
        assert champion is not None
        case_id, version_id = make_case(session, tenant).id, champion.id
    job = screening.begin(case_id, version_id, settings())
    assert job is not None
    screening.finish(job, make_reading(p_fake), version_id)
    with transaction() as session:
        case = session.scalars(select(Case).where(Case.id == case_id)).one()
        assert case.policy is not None
        return case.policy.version, case.label.value if case.label else None


def test_without_audits_the_page_says_what_it_cannot_know(dashboard: Dashboard, look: Look) -> None:
    tenant_id = furnish(dashboard, days=10, audit_share=0)
    page = dashboard.sign_in(LENA, f"/dashboard/platforms/{tenant_id}/thresholds")
    expect(page.get_by_text("Nothing is known of the automatic zones.")).to_be_visible()
    expect(page.locator("[data-effect=fakes]")).to_have_text("not known: no audit has looked at what was decided here")
    look(page, "thresholds-unknown")


@pytest.mark.parametrize("path", ["/dashboard/insight", "/dashboard/models"])
def test_a_platform_without_a_past_says_so_everywhere(dashboard: Dashboard, path: str) -> None:
    dashboard.person(LENA, Pixelgram=Role.LEAD)
    page = dashboard.sign_in(LENA, path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert "nan" not in page.locator("main").inner_text().lower().replace("finance", "")
    if path.endswith("insight"):
        expect(page.get_by_role("paragraph").filter(has_text="Nobody can tell yet: no audits.")).to_be_visible()
        expect(page.get_by_role("paragraph").filter(has_text="Nothing waits.")).to_be_visible()
    else:
        expect(page.get_by_text("There is no model version yet")).to_be_visible()
