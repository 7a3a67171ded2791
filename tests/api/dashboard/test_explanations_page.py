"""Asking the model why, on the case page: who may, when, and what is shown meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import func, select

from moderation import erasure, explanations
from moderation.db import transaction
from moderation.explanations import Words
from moderation.settings import settings
from moderation.tables import Case, ExplanationRequest, Tenant
from moderation.vocabulary import Role
from tests.api.dashboard.conftest import Browser
from tests.factories import champion_or_new, events_of, make_tenant
from tests.reviewing import TEXT, make_review_case

Browsers = Callable[..., Browser]


def silent_case(tenant: Tenant, *, blind: bool = False) -> Case:
    """In review, its policy having skipped the words."""
    with transaction() as session:
        return make_review_case(session, tenant, blind=blind, text=None)


def path(case: Case) -> str:
    return f"/dashboard/cases/{case.id}/explanation"


def explain(case: Case) -> None:
    assert case.verdict_id is not None
    job = explanations.begin(case.verdict_id, settings())
    assert job is not None
    with transaction() as session:
        words = Words(TEXT, champion_or_new(session).id)
    explanations.finish(job, words)


def requests() -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(ExplanationRequest)) or 0


def test_why_is_asked_waited_for_and_shown(browser_of: Browsers, tenant: Tenant) -> None:
    anna, case = browser_of(Role.MODERATOR), silent_case(tenant)
    page = anna.get(f"/dashboard/cases/{case.id}").text
    assert f'hx-post="{path(case)}"' in page and 'data-key="w"' in page
    asked = anna.htmx(path(case), "POST")
    assert asked.status_code == 200
    assert 'hx-trigger="every 1s"' in asked.text and "The model was asked why" in asked.text
    assert 'hx-trigger="every 1s"' in anna.get(f"/dashboard/cases/{case.id}").text, "who comes later waits too"
    explain(case)
    shown = anna.htmx(path(case)).text
    assert "The left hand has six fingers." in shown and "hx-trigger" not in shown and "hx-swap-oob" not in shown
    with transaction() as session:
        assert anna.user is not None
        assert "explanation.requested" in events_of(session, case.id)
    page = anna.get(f"/dashboard/cases/{case.id}").text
    assert 'id="explain"' not in page and "The left hand has six fingers." in page


def test_in_the_midst_of_an_answer_the_sentences_come_into_its_form(browser_of: Browsers, tenant: Tenant) -> None:
    anna, case = browser_of(Role.MODERATOR), silent_case(tenant)
    anna.post(f"/dashboard/cases/{case.id}/claim")
    page = anna.get(f"/dashboard/cases/{case.id}").text
    assert f"{path(case)}?editing=1" in page
    anna.htmx(f"{path(case)}?editing=1", "POST")
    explain(case)
    shown = anna.htmx(f"{path(case)}?editing=1").text
    assert 'hx-swap-oob="afterbegin:#review"' in shown and 'name="grade-0"' in shown


def test_of_a_blind_case_why_is_not_to_be_had_before_the_answer(browser_of: Browsers, tenant: Tenant) -> None:
    anna, case = browser_of(Role.MODERATOR), silent_case(tenant, blind=True)
    assert "hx-post" not in anna.get(f"/dashboard/cases/{case.id}").text
    assert anna.htmx(path(case), "POST").status_code == 409
    assert requests() == 0
    with transaction() as session:
        explanations.ask(session, tenant.id, case.id, actor="test")
    explain(case)
    assert "six fingers" not in anna.htmx(path(case)).text


def test_a_failure_is_said_and_asking_again_offered(browser_of: Browsers, tenant: Tenant) -> None:
    anna, case = browser_of(Role.MODERATOR), silent_case(tenant)
    anna.htmx(path(case), "POST")
    assert case.verdict_id is not None
    job = explanations.begin(case.verdict_id, settings())
    assert job is not None
    explanations.give_up(job, "The image cannot be decoded.")
    shown = anna.htmx(path(case)).text
    assert "The image cannot be decoded." in shown and "Ask again" in shown
    assert "The model was asked why" in anna.htmx(path(case), "POST").text


def test_an_erased_image_is_said(browser_of: Browsers, tenant: Tenant) -> None:
    anna, case = browser_of(Role.MODERATOR), silent_case(tenant)
    assert case.image_id is not None
    with transaction() as session:
        erasure.erase(session, tenant.id, case.image_id, actor="test", request_id=None)
    page = anna.get(f"/dashboard/cases/{case.id}").text
    assert "its verdict cannot be explained any more" in page and "hx-post" not in page
    assert anna.htmx(path(case), "POST").status_code == 409


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_strangers_and_moderators_of_restricted_cases_find_nothing(
    browser_of: Browsers, tenant: Tenant, method: str
) -> None:
    case = silent_case(tenant)
    with transaction() as session:
        other = make_tenant(session)
    assert browser_of(Role.ADMIN, other).htmx(path(case), method).status_code == 404
    with transaction() as session:
        session.get_one(Case, case.id).restricted = True
    assert browser_of(Role.MODERATOR).htmx(path(case), method).status_code == 404
    assert browser_of(Role.LEAD).htmx(path(case), method).status_code == 200
