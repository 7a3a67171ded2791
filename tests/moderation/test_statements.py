"""Statements of reasons: each way to a decision is told as it was, in fields that the DSA database takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from moderation import cases, statement_defaults, statements
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, NotFound
from moderation.statement_defaults import ILLEGAL, INCOMPATIBLE
from moderation.statements import Statement
from moderation.tables import Case, Tenant
from moderation.vocabulary import Answer, CaseStatus, EventType, ReviewReason
from tests.factories import make_case, make_tenant
from tests.learning import make_review
from tests.reviewing import make_person

DEFAULTS: dict[str, Any] = {
    "synthetic": {
        "decision_visibility": ["DECISION_VISIBILITY_CONTENT_LABELLED"],
        "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
        "incompatible_content_ground": "Section 4",
        "incompatible_content_explanation": "Synthetic images must be declared.",
        "category": "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
        "territorial_scope": ["DE", "FR"],
        "source_type": "SOURCE_VOLUNTARY",
        "source_identity": "nobody",
    },
    "illegal": {
        "decision_visibility": ["DECISION_VISIBILITY_CONTENT_REMOVED"],
        "decision_account": "DECISION_ACCOUNT_SUSPENDED",
        "illegal_content_legal_ground": "§ 184b StGB",
        "illegal_content_explanation": "It shows what this law forbids.",
        "incompatible_content_ground": "Section 1",
        "category": "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
        "source_type": "SOURCE_TYPE_OTHER_NOTIFICATION",
        "source_identity": "Hotline e.V.",
    },
    "content_date_is_submission": True,
}


@pytest.fixture
def tenant(db: Engine) -> Tenant:
    with transaction() as session:
        made = make_tenant(session, "pixelgram")
        made.blind_share = 0.0
        statement_defaults.change(session, made.id, statement_defaults.read(DEFAULTS))
        return made


@pytest.fixture
def anna(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant)


def statement(tenant: Tenant, case: Case) -> Statement:
    with transaction() as session:
        return statements.statement_of(session, tenant.id, case.id)


def refused_by_the_database(fields: Mapping[str, Any]) -> set[str]:
    """The fields that break a rule of the database's StatementStoreRequest, as docs/privacy.md cites it."""
    ground = fields.get("decision_ground")
    texts = {"decision_facts": 5000, "incompatible_content_explanation": 2000, "illegal_content_explanation": 2000}
    shorts = ("illegal_content_legal_ground", "incompatible_content_ground", "source_identity")
    texts |= dict.fromkeys((*shorts, "decision_visibility_other", "decision_monetary_other"), 500)
    words: dict[str, tuple[str, ...]] = {
        "decision_visibility": get_args(statement_defaults.Visibility),
        "decision_monetary": get_args(statement_defaults.Monetary),
        "decision_provision": get_args(statement_defaults.Provision),
        "decision_account": get_args(statement_defaults.Account),
        "decision_ground": (ILLEGAL, INCOMPATIBLE),
        "content_type": ("CONTENT_TYPE_IMAGE", "CONTENT_TYPE_SYNTHETIC_MEDIA"),
        "category": get_args(statement_defaults.Category),
        "source_type": get_args(statement_defaults.Source),
        "territorial_scope": get_args(statement_defaults.Country),
        "automated_detection": ("Yes", "No"),
        "automated_decision": tuple(f"AUTOMATED_DECISION_{how}" for how in ("FULLY", "PARTIALLY", "NOT_AUTOMATED")),
    }
    lists = {"decision_visibility", "content_type", "territorial_scope", "category_addition", "category_specification"}
    required = {"decision_ground", "content_type", "category", "content_date", "application_date", "decision_facts"}
    required |= {"source_type", "automated_detection", "automated_decision", "puid"}
    required |= set(statements.GROUNDS.get(str(ground), ()))
    wrong = {name for name in required if not fields.get(name)}
    if not any(fields.get(name) for name in statements.MEASURES):
        wrong |= set(statements.MEASURES)
    for name, value in fields.items():
        if isinstance(value, list) != (name in lists) or value in (None, "", []):
            wrong.add(name)
        if name in words and not set(value if isinstance(value, list) else [value]) <= set(words[name]):
            wrong.add(name)
        if name in texts and len(value) > texts[name]:
            wrong.add(name)
    for name, first in (("content_date", date(2000, 1, 1)), ("application_date", date(2020, 1, 1))):
        if name in fields and not first <= date.fromisoformat(fields[name]) <= date(2038, 1, 1):
            wrong.add(name)
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,500}", fields.get("puid", "")):
        wrong.add("puid")
    other = statements.GROUNDS[ILLEGAL if ground == INCOMPATIBLE else INCOMPATIBLE]
    return wrong | {name for name in other if name in fields}


def taken(told: Statement) -> Mapping[str, Any]:
    """The fields, which the database takes as they are."""
    assert told.missing == () and refused_by_the_database(told.fields) == set()
    assert set(told.fields) <= set(statements.FIELDS)
    return told.fields


def by_policy(session: Session, tenant: Tenant) -> Case:
    return make_case(session, tenant, CaseStatus.DECIDED, details={"subject": "anna meier"})


def automation(fields: Mapping[str, Any]) -> tuple[str, str]:
    return fields["automated_detection"], fields["automated_decision"].removeprefix("AUTOMATED_DECISION_")


def test_what_the_policy_decided_alone_was_fully_automated(tenant: Tenant) -> None:
    with transaction() as session:
        case = by_policy(session, tenant)
    told = statement(tenant, case)
    fields = taken(told)
    assert automation(fields) == ("Yes", "FULLY")
    assert "no person took part" in fields["decision_facts"] and "0.970 of 1" in fields["decision_facts"]
    assert "a demonstration model" in fields["decision_facts"]
    assert fields["content_type"] == ["CONTENT_TYPE_IMAGE", "CONTENT_TYPE_SYNTHETIC_MEDIA"]
    assert fields["decision_ground"] == INCOMPATIBLE
    assert fields["content_date"] == fields["application_date"] == told.decided_at.astimezone(UTC).date().isoformat()
    assert "source_identity" not in fields, "the database leaves it out where the source is the platform's own"
    assert "meier" not in str(fields)


@pytest.mark.parametrize(
    "reason, blind, expected",
    [
        (ReviewReason.UNCERTAIN, False, ("Yes", "PARTIALLY")),
        (ReviewReason.UNCERTAIN, True, ("Yes", "NOT_AUTOMATED")),
        (ReviewReason.UNPARSABLE, False, ("No", "PARTIALLY")),
        (ReviewReason.AUDIT, True, ("No", "NOT_AUTOMATED")),
        (ReviewReason.APPEAL, True, ("No", "NOT_AUTOMATED")),
    ],
)
def test_what_a_moderator_decided_says_what_they_had_in_view(
    tenant: Tenant, anna: Person, reason: ReviewReason, blind: bool, expected: tuple[str, str]
) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        case.blind = blind
        make_review(session, case, anna, artifacts=["edges", "missing_parts"], reason=reason)
    fields = taken(statement(tenant, case))
    assert automation(fields) == expected
    assert "Signs: edges, missing parts." in fields["decision_facts"]
    assert ("before the model's verdict was shown" in fields["decision_facts"]) == blind
    assert anna.email not in str(fields)


@pytest.mark.parametrize("first, detected", [(ReviewReason.UNCERTAIN, "Yes"), (ReviewReason.UNPARSABLE, "No")])
def test_a_second_opinion_was_detected_as_the_first_one_was(
    tenant: Tenant, anna: Person, first: ReviewReason, detected: str
) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        make_review(session, case, anna, Answer.REAL, reason=first)
        cases.reopen(session, case, ReviewReason.SECOND_OPINION)
        case.blind = True
        make_review(session, case, make_person(session, tenant))
    fields = taken(statement(tenant, case))
    assert automation(fields) == (detected, "NOT_AUTOMATED")
    assert "A second opinion was asked for." in fields["decision_facts"]


def test_an_appeal_that_upholds_the_policy_makes_it_partially_automated_and_moves_no_date(
    tenant: Tenant, anna: Person
) -> None:
    with transaction() as session:
        case = by_policy(session, tenant)
    before = statement(tenant, case)
    with transaction() as session:
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message="It is real, says Anna.")
        make_review(session, session.get_one(Case, case.id), anna)
    after = statement(tenant, case)
    assert automation(taken(after)) == ("Yes", "PARTIALLY")
    assert (after.decided_at, after.fields["puid"]) == (before.decided_at, before.fields["puid"])
    assert "appealed, and a moderator upheld it" in after.fields["decision_facts"]


def test_a_decision_that_was_reversed_has_another_statement_and_one_that_is_real_has_none(
    tenant: Tenant, anna: Person
) -> None:
    with transaction() as session:
        case = by_policy(session, tenant)
    first = statement(tenant, case)
    with transaction() as session:
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message=None)
        make_review(session, session.get_one(Case, case.id), anna, Answer.REAL)
    with pytest.raises(Conflict, match="real: nothing is restricted"):
        statement(tenant, case)
    with transaction() as session:
        cases.appeal(session, tenant.id, case.id, actor="api_key:x", message=None)
        make_review(session, session.get_one(Case, case.id), anna, Answer.FAKE)
    second = statement(tenant, case)
    assert second.fields["puid"] != first.fields["puid"] and second.decided_at > first.decided_at
    assert automation(taken(second)) == ("No", "NOT_AUTOMATED") or second.fields["automated_decision"].endswith("LLY")


def test_what_was_reported_as_illegal_has_that_ground_and_a_person_found_it(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        case = by_policy(session, tenant)
        case.restricted = True
        was, now = {"restricted": False}, {"restricted": True, "message": "It is Anna."}
        cases.note(session, case, EventType.CASE_RESTRICTED, actor=anna.actor, was=was, now=now)
    fields = taken(statement(tenant, case))
    assert (fields["decision_ground"], fields["illegal_content_legal_ground"]) == (ILLEGAL, "§ 184b StGB")
    assert automation(fields) == ("No", "NOT_AUTOMATED")
    assert fields["source_identity"] == "Hotline e.V.", "beside the kind of source that the defaults name"
    assert fields["decision_account"] == "DECISION_ACCOUNT_SUSPENDED" and "Anna" not in str(fields)


def test_what_was_reported_before_it_was_decided_has_one_in_the_time_of_the_report(
    tenant: Tenant, anna: Person
) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        case.restricted = True
        cases.note(session, case, EventType.CASE_RESTRICTED, actor=anna.actor, was={}, now={"restricted": True})
    reported = statement(tenant, case)
    assert automation(taken(reported)) == ("No", "NOT_AUTOMATED")
    assert reported.fields["content_type"] == ["CONTENT_TYPE_IMAGE"], "nobody has said that it is synthetic"
    with transaction() as session:
        make_review(session, session.get_one(Case, case.id), anna, Answer.REAL)
    then, hour = reported.decided_at, timedelta(hours=1)
    exports = [list(statements.between(tenant.id, *span)) for span in ((then, then + hour), (then - hour, then))]
    assert [[each.fields["puid"] for each in found] for found in exports] == [[reported.fields["puid"]], []]


def test_what_nobody_has_said_is_named_and_not_made_up(tenant: Tenant) -> None:
    with transaction() as session:
        statement_defaults.change(session, tenant.id, statement_defaults.Defaults())
        case = by_policy(session, tenant)
    told = statement(tenant, case)
    named = {name for each in told.missing for name in each.field.split(" or ")}
    assert named == refused_by_the_database(told.fields)
    assert named == {*statements.MEASURES, "decision_ground", "category", "source_type", "content_date"}
    assert told.describe()["complete"] is False
    with transaction() as session:
        said = {"synthetic": {"decision_ground": INCOMPATIBLE}}
        statement_defaults.change(session, tenant.id, statement_defaults.read(said))
    assert set(statements.GROUNDS[INCOMPATIBLE]) <= {each.field for each in statement(tenant, case).missing}


def test_the_platform_says_with_the_image_when_it_was_posted_and_what_led_to_it(tenant: Tenant) -> None:
    details = {"content_date": "2025-12-24", "source_type": "SOURCE_TRUSTED_FLAGGER"}
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.DECIDED, details=details)
        odd = make_case(session, tenant, CaseStatus.DECIDED, details={"content_date": "Christmas", "source_type": [1]})
    fields = taken(statement(tenant, case))
    assert {name: fields[name] for name in details} == details
    assert "source_identity" not in fields, "the defaults name somebody of another kind"
    assert [each.field for each in statement(tenant, odd).missing] == ["content_date"]


def test_undecided_and_other_tenants_cases_have_none(tenant: Tenant) -> None:
    with transaction() as session:
        waiting = make_case(session, tenant)
        theirs = make_case(session, make_tenant(session), CaseStatus.DECIDED)
    with pytest.raises(Conflict, match="not decided"):
        statement(tenant, waiting)
    with pytest.raises(NotFound):
        statement(tenant, theirs)


def test_a_time_has_the_statements_of_its_decisions_in_force(
    tenant: Tenant, anna: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "BATCH", 2)
    with transaction() as session:
        first, reversed_, last = (by_policy(session, tenant) for _ in range(3))
        make_case(session, make_tenant(session), CaseStatus.DECIDED)
        make_case(session, tenant, CaseStatus.IN_REVIEW)
    with transaction() as session:
        cases.appeal(session, tenant.id, reversed_.id, actor="api_key:x", message=None)
        make_review(session, session.get_one(Case, reversed_.id), anna, Answer.REAL)
    now = datetime.now(UTC)
    found = list(statements.between(tenant.id, now - timedelta(hours=1), now + timedelta(hours=1)))
    assert [each.case_id for each in found] == [first.id, last.id]
    assert list(statements.between(tenant.id, now - timedelta(hours=2), now - timedelta(hours=1))) == []
