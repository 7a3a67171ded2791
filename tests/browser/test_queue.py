"""The queue in real Chromium: filters, the list by keyboard, and what leads do with many cases at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from playwright.sync_api import Page, expect
from sqlalchemy import select

from moderation import claims
from moderation.db import transaction
from moderation.tables import Case, Review
from moderation.vocabulary import Answer, Priority, ReviewReason, Role
from tests.browser.conftest import Dashboard, tenant_named
from tests.reviewing import make_person, make_review_case

LENA, MONA = "lena@pixelgram.example", "mona@pixelgram.example"
QUEUE = "/dashboard/queue"
Look = Callable[[Page, str], None]


def cases(count: int, **columns: object) -> list[UUID]:
    """Cases of Pixelgram's in review, named post-0 and so on, in this order in the queue."""
    with transaction() as session:
        made = []
        for number in range(count):
            name = f"post-{number}"
            case = make_review_case(
                session, tenant_named(session, "Pixelgram"), external_id=name, score=0.5 + number / 100
            )
            for column, value in columns.items():
                setattr(case, column, value)
            made.append(case.id)
        return made


def row(case_id: UUID) -> Case:
    with transaction() as session:
        return session.get_one(Case, case_id)


def queue_of(dashboard: Dashboard, email: str = LENA, role: Role = Role.LEAD, query: str = "") -> Page:
    dashboard.person(email, Pixelgram=role)
    page = dashboard.sign_in(email, QUEUE + query)
    expect(page.locator("body[data-keys=ready]")).to_be_attached()
    return page


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.textContent"))


def test_a_busy_queue(dashboard: Dashboard, look: Look) -> None:
    draw, now = random.Random(4), datetime.now(UTC)
    names = [
        "holiday-4711",
        "ad_2291_b.jpg",
        "profile/99812",
        "f3b0c442-98fc",
        "press-photo-2026-11-22-0007",
        "listing-5",
    ]
    lead = dashboard.person(LENA, Pixelgram=Role.LEAD, Fotoforum=Role.LEAD, Marktplatz=Role.MODERATOR)
    with transaction() as session:
        bert = make_person(session, tenant_named(session, "Pixelgram"), email="bert@pixelgram.example")
        for number in range(64):
            tenant = tenant_named(session, draw.choice(["Pixelgram", "Pixelgram", "Fotoforum", "Marktplatz"]))
            case = make_review_case(
                session,
                tenant,
                external_id=f"{draw.choice(names)}-{number}",
                score=draw.uniform(0.25, 0.8),
                blind=draw.random() < 0.1,
                details={"category": draw.choice(["people", "news", "products", "animals in the wild"])},
                priority=draw.choice([*[Priority.NORMAL] * 6, Priority.LOW, Priority.HIGH, Priority.URGENT]),
            )
            case.settled_at = now - timedelta(minutes=draw.expovariate(1 / 900))
            case.review_reason = draw.choice([*[ReviewReason.UNCERTAIN] * 6, *ReviewReason])
            if draw.random() < 0.08:
                case.escalated_at = now
            if number in (3, 9, 27):
                case.assigned_to = lead.id
            if number % 13 == 5 and tenant.name == "Pixelgram" and case.escalated_at is None:
                claims.claim(session, bert, case.id)
    page = dashboard.sign_in(LENA, QUEUE)
    expect(page.locator("[data-totals]")).to_contain_text("cases wait, the oldest came")
    look(page, "queue")
    page.get_by_role("checkbox", name="Select ").nth(1).check()
    page.get_by_role("button", name="Answer").click()
    look(page, "queue-bulk")


def test_filters_are_sent_when_they_are_chosen(dashboard: Dashboard) -> None:
    with transaction() as session:
        tenant = tenant_named(session, "Pixelgram")
        for name, category, age in (("a", "people", 1), ("b", "news", 30), ("c", "people", 80)):
            case = make_review_case(session, tenant, external_id=name, details={"category": category})
            case.settled_at = datetime.now(UTC) - timedelta(hours=age)
    page = queue_of(dashboard, MONA, Role.MODERATOR)
    shown = page.locator(".case-link")
    expect(shown).to_have_count(3)
    page.get_by_label("Category").select_option("people")
    expect(shown).to_have_text(["c", "a"])
    page.get_by_label("Older than").select_option("1 day")
    expect(shown).to_have_text(["c"])
    expect(page.locator("[data-totals]")).to_contain_text("1 case waits")
    page.get_by_label("Score from").fill("0.9")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("heading", name="Nothing fits this filter")).to_be_visible()
    page.get_by_role("link", name="Clear", exact=True).click()
    expect(shown).to_have_count(3)


def test_the_list_by_keyboard(dashboard: Dashboard) -> None:
    cases(3)
    page = queue_of(dashboard)
    for key, name in (("j", "post-0"), ("ArrowDown", "post-1"), ("j", "post-2"), ("j", "post-2"), ("k", "post-1")):
        page.keyboard.press(key)
        assert focused(page) == name
    page.keyboard.press("x")
    expect(page.get_by_role("checkbox", name="Select post-1")).to_be_checked()
    expect(page.locator("[data-picked]")).to_have_text("1 selected")
    page.keyboard.press("x")
    expect(page.get_by_role("button", name="Hand on")).to_be_disabled()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("post-1")


def test_single_keys_can_be_switched_off(dashboard: Dashboard) -> None:
    cases(2)
    page = queue_of(dashboard)
    page.keyboard.press("?")
    page.get_by_role("checkbox", name="Single keys do something").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    assert focused(page) != "post-0"


def test_ranges_and_whole_pages_are_selected(dashboard: Dashboard) -> None:
    cases(5)
    page = queue_of(dashboard)
    said = page.locator("[data-picked]")
    page.get_by_role("checkbox", name="Select post-1").click()
    page.get_by_role("checkbox", name="Select post-3").click(modifiers=["Shift"])
    expect(said).to_have_text("3 selected")
    everything = page.get_by_role("checkbox", name="Select all on this page")
    expect(everything).to_have_js_property("indeterminate", True)
    everything.check()
    expect(said).to_have_text("5 selected")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(said).to_have_text("Tick cases to act on them together")


def test_many_are_answered_but_not_what_somebody_is_at_work_on(dashboard: Dashboard, look: Look) -> None:
    ids = cases(4)
    with transaction() as session:
        bert = make_person(session, tenant_named(session, "Pixelgram"), email="bert@pixelgram.example")
        claims.claim(session, bert, ids[2])
    page = queue_of(dashboard)
    page.get_by_role("checkbox", name="Select all on this page").check()
    page.get_by_role("button", name="Answer").click()
    page.get_by_role("radio", name="fake").check()
    page.get_by_label("Note").fill("one campaign")
    page.get_by_role("dialog").get_by_role("button", name="Answer").click()
    outcome = page.locator("[data-outcome]")
    expect(outcome).to_contain_text("3 done, 1 left as it was.")
    expect(outcome.get_by_role("listitem")).to_have_text("post-2: bert@pixelgram.example is at work on this case.")
    expect(page.locator(".case-link")).to_have_text(["post-2"])
    look(page, "queue-bulk-done")
    with transaction() as session:
        given = session.scalars(select(Review)).all()
        assert {(review.case_id, review.answer, review.note) for review in given} == {
            (case_id, Answer.FAKE, "one campaign") for case_id in ids if case_id != ids[2]
        }
    page.reload()
    expect(page.locator("[data-outcome]")).to_have_count(0)
    with transaction() as session:
        assert len(session.scalars(select(Review)).all()) == 3, "loading it again does nothing twice"


def test_many_are_handed_on_put_aside_and_made_urgent_by_keyboard(dashboard: Dashboard) -> None:
    ids = cases(2)
    mona = dashboard.person(MONA, Pixelgram=Role.MODERATOR)
    page = queue_of(dashboard)
    for button, dialog, done in (
        ("Priority", "Change", "urgent"),
        ("Hand on", "Hand on", MONA),
        ("Put aside", "Put aside", "1 hour"),
    ):
        page.keyboard.press("j")
        page.keyboard.press("x")
        page.get_by_role("button", name=button).press("Enter")
        page.get_by_role("dialog").get_by_role("combobox").select_option(done)
        page.get_by_role("dialog").get_by_role("button", name=dialog).press("Enter")
        expect(page.locator("[data-outcome]")).to_contain_text("1 done.")
        expect(page.locator("body[data-keys=ready]")).to_be_attached()
    assert [row(id_).priority for id_ in ids] == [3, 1]
    assert row(ids[0]).assigned_to == mona.id or row(ids[0]).held_until is not None


def test_a_moderator_selects_nothing_and_is_told_that_a_lead_is_missing(dashboard: Dashboard, look: Look) -> None:
    cases(2, escalated_at=datetime.now(UTC))
    page = queue_of(dashboard, MONA, Role.MODERATOR)
    expect(page.get_by_text("2 cases wait for a lead, and there is none.")).to_be_visible()
    expect(page.get_by_role("checkbox", name="Select")).to_have_count(0)
    look(page, "queue-no-lead")
