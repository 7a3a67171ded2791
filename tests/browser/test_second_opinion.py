"""Second opinions, audits and illegal content in real Chromium: who is asked, what they see, and whose word is last."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from moderation import cases, restrictions, tenants
from moderation.db import transaction
from moderation.tables import Case
from moderation.vocabulary import CaseStatus, DecidedBy, Label, ReviewReason, Role
from tests.browser.conftest import Dashboard, tenant_named
from tests.browser.moderating import (
    ANNA,
    BERT,
    QUEUE,
    Look,
    at_work,
    give_picture,
    heading,
    person,
    review_case,
    row,
    settle,
    typed,
)
from tests.factories import make_case
from tests.reviewing import make_person

LEAD = "lea@pixelgram.example"


@pytest.fixture
def everybody(dashboard: Dashboard) -> None:
    """Anna and Bert, who review, and Lea, who leads; every answer of theirs is asked of somebody else too."""
    for email, role in ((ANNA, Role.MODERATOR), (BERT, Role.MODERATOR), (LEAD, Role.LEAD)):
        person(dashboard, email, role)
    with transaction() as session:
        tenants.change_tenant(session, tenant_named(session, "Pixelgram").id, {"second_opinion_share": 1.0})


def first_by_anna(dashboard: Dashboard) -> Case:
    """Anna answers fake, which decides the case."""
    case_id = review_case("post", picture=2)
    page = at_work(dashboard, ANNA, "post")
    typed(page, "n", "annas own words")
    page.keyboard.press("f")
    heading(page, "Queue")
    case = settle(case_id)
    assert (case.status, case.label) == (CaseStatus.IN_REVIEW, Label.FAKE)
    page.goto(f"/dashboard/cases/{case_id}")
    expect(page.get_by_text("now it is somebody else's turn")).to_be_visible()
    page.goto(QUEUE)
    heading(page, "Queue")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing more waits for you here.")).to_be_visible()
    return case


def second_by_bert(dashboard: Dashboard, key: str, look: Look | None = None) -> Page:
    """Bert answers without sight of the first."""
    page = at_work(dashboard, BERT, "post")
    expect(page.get_by_text("Second opinion.")).to_be_visible()
    for secret in (ANNA, "annas own words", "decided it"):
        assert secret not in page.content(), secret
    if look:
        look(page, "case-second-opinion")
    page.keyboard.press(key)
    heading(page, "Queue")
    return page


@pytest.mark.usefixtures("everybody", "bucket")
def test_two_who_agree(dashboard: Dashboard, look: Look) -> None:
    case = first_by_anna(dashboard)
    page = second_by_bert(dashboard, "f", look)
    after = settle(case.id)
    assert (after.status, after.label, after.decided_by) == (CaseStatus.DECIDED, Label.FAKE, DecidedBy.MODERATOR)
    page.goto(f"/dashboard/cases/{case.id}")
    expect(page.get_by_text("annas own words")).to_be_visible()


@pytest.mark.usefixtures("everybody", "bucket")
def test_two_who_differ_and_the_lead_who_decides(dashboard: Dashboard, look: Look) -> None:
    case = first_by_anna(dashboard)
    second_by_bert(dashboard, "r")
    assert settle(case.id).status is CaseStatus.IN_REVIEW
    page = at_work(dashboard, LEAD, "post")
    expect(page.get_by_text("Two moderators did not agree")).to_be_visible()
    answered = page.get_by_role("region", name="What was answered")
    expect(answered).to_contain_text("annas own words")
    expect(answered).to_contain_text(BERT)
    look(page, "case-two-answers")
    page.keyboard.press("r")
    heading(page, "Queue")
    after = settle(case.id)
    assert (after.status, after.label) == (CaseStatus.DECIDED, Label.REAL)


@pytest.mark.usefixtures("everybody", "bucket")
def test_an_audit_shows_neither_verdict_nor_decision(dashboard: Dashboard, look: Look) -> None:
    with transaction() as session:
        tenant = tenant_named(session, "Pixelgram")
        case = make_case(session, tenant, CaseStatus.DECIDED, external_id="post")
        cases.reopen(session, case, ReviewReason.AUDIT)
    give_picture(case.id, 3)
    page = at_work(dashboard, ANNA, "post")
    expect(page.get_by_text("Audit.")).to_be_visible()
    for secret in ("0.97", "decided it", "fake from"):
        assert secret not in page.content(), secret
    look(page, "case-audit")
    page.keyboard.press("f")
    heading(page, "Queue")
    after = settle(case.id)
    assert (after.status, after.decided_by) == (CaseStatus.DECIDED, DecidedBy.POLICY)


@pytest.mark.usefixtures("everybody")
def test_what_is_illegal_goes_to_the_leads(dashboard: Dashboard, look: Look) -> None:
    case_id = review_case("post", score=0.5)
    review_case("next")
    page = at_work(dashboard, ANNA, "post")
    page.keyboard.press("i")
    dialog = page.get_by_role("dialog", name="Report as illegal?")
    expect(dialog).to_be_visible()
    look(page, "case-report")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert not row(case_id).restricted
    page.keyboard.press("i")
    dialog.get_by_label("What is it?").fill("a weapon for sale")
    dialog.get_by_role("button", name="Report as illegal").click()
    heading(page, "next")
    expect(page.get_by_text("only leads see it now")).to_be_visible()
    assert row(case_id).restricted
    answer = page.goto(f"/dashboard/cases/{case_id}")
    assert answer is not None and answer.status == 404
    lead = dashboard.sign_in(LEAD, f"/dashboard/cases/{case_id}")
    heading(lead, "post")
    expect(lead.get_by_text("restricted").first).to_be_visible()
    look(lead, "case-restricted")
    lead.get_by_role("button", name="Lift").click()
    lead.get_by_role("button", name="Lift the restriction").click()
    expect(lead.get_by_text("The case is everybody's again.")).to_be_visible()
    assert not row(case_id).restricted


@pytest.mark.usefixtures("everybody")
def test_whoever_has_it_open_is_told_that_it_was_reported(dashboard: Dashboard) -> None:
    case_id = review_case("post")
    page = at_work(dashboard, ANNA, "post")
    with transaction() as session:
        lead = make_person(session, tenant_named(session, "Pixelgram"), role=Role.LEAD)
        restrictions.report(session, lead, case_id)
    typed(page, "n", "my long thoughts")
    # Told by one of the next beats.
    expect(page.get_by_role("alert")).to_contain_text("it was reported as illegal")
    expect(page.get_by_label("Note")).to_have_value("my long thoughts")
