"""What was promised of the API and of webhooks is kept, and what would break it is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.compatibility.recorded import of_this_code, read
from tests.compatibility.schemas import broken

RECORD = "Record it: `.venv/bin/python -m tests.compatibility` (docs/upgrades.md), and say so in CHANGELOG.md."
Document = dict[str, Any]


@pytest.fixture(scope="module")
def promised() -> Document:
    return read()


@pytest.fixture(scope="module")
def now() -> Document:
    return of_this_code()


def test_nothing_breaks_for_programs_that_use_the_api(promised: Document, now: Document) -> None:
    assert broken(promised, now) == [], "docs/upgrades.md says what to do instead: a new member, or a /v2 beside /v1"


def test_what_is_promised_is_what_there_is(promised: Document, now: Document) -> None:
    assert promised == now, RECORD


def schema(document: Document, name: str) -> Document:
    found: Document = document["components"]["schemas"][name]
    return found


def without(members: Document, name: str) -> None:
    del members[name]


def operation(document: Document, path: str, method: str = "get") -> Document:
    found: Document = document["paths"][path][method]
    return found


BREAKS: dict[str, tuple[Callable[[Document], object], str]] = {
    "an operation is gone": (lambda d: without(d["paths"], "/v1/cases"), "GET /v1/cases: it is gone"),
    "a parameter is gone": (lambda d: operation(d, "/v1/cases")["parameters"].pop(0), "is gone"),
    "a parameter becomes required": (
        lambda d: operation(d, "/v1/submissions", "post")["parameters"][0].update(required=True),
        "is required",
    ),
    "a request needs another member": (
        lambda d: schema(d, "SubmissionBody").setdefault("required", []).append("external_id"),
        "/external_id: it was not required, and is",
    ),
    "a request's member is gone": (
        lambda d: without(schema(d, "SubmissionBody")["properties"], "priority"),
        "/priority: it is not taken any more",
    ),
    "a request takes fewer words": (lambda d: schema(d, "Priority")["enum"].remove("low"), "['low'], of which only"),
    "a request takes less": (
        lambda d: schema(d, "SubmissionBody")["properties"]["external_id"]["anyOf"][0].update(maxLength=20),
        "maxLength 255 instead of 20",
    ),
    "an answer's member is gone": (lambda d: without(schema(d, "CaseShown")["properties"], "decision"), "it is gone"),
    "an answer's member may be missing": (
        lambda d: schema(d, "CaseShown")["required"].remove("sequence"),
        "/sequence: it may be missing",
    ),
    "an answer's member is of another type": (
        lambda d: schema(d, "CaseShown")["properties"]["sequence"].update(type="string"),
        "/sequence: string instead of integer",
    ),
    "an answer's member may be null": (
        lambda d: schema(d, "CaseShown")["properties"].update(
            sequence={"anyOf": [{"type": "integer"}, {"type": "null"}]}
        ),
        "/sequence: null instead of integer",
    ),
    "an event is gone": (lambda d: without(d["webhooks"], "verdict.failed"), "POST verdict.failed: it is gone"),
    "an event's member is gone": (
        lambda d: without(schema(d, "DisabledShown")["properties"], "reason"),
        "POST endpoint.disabled/data/reason: it is gone",
    ),
    "an event is called otherwise": (
        lambda d: d["webhooks"].update({"verdict.completed": d["webhooks"]["verdict.failed"]}),
        "POST verdict.completed/type: ['verdict.failed'], of which only ['verdict.completed'] are known",
    ),
    "a status is gone": (lambda d: without(operation(d, "/v1/cases")["responses"], "200"), "with 200 any more"),
}


@pytest.mark.parametrize("change", BREAKS)
def test_what_would_break_them_is_found(promised: Document, change: str) -> None:
    document = copy.deepcopy(promised)
    alter, said = BREAKS[change]
    alter(document)
    assert any(said in line for line in broken(promised, document)), broken(promised, document)


ALLOWED: dict[str, Callable[[Document], object]] = {
    "another operation": lambda d: d["paths"].update({"/v1/more": d["paths"]["/v1/cases"]}),
    "another event": lambda d: d["webhooks"].update({"case.more": d["webhooks"]["verdict.failed"]}),
    "a request may say more": lambda d: schema(d, "SubmissionBody")["properties"].update(more={"type": "string"}),
    "a request takes more": lambda d: schema(d, "Priority")["enum"].append("lowest"),
    "an answer says more": lambda d: schema(d, "CaseShown")["properties"].update(more={"type": "string"}),
    "an answer has another word": lambda d: schema(d, "FailureReason")["enum"].append("other"),
    "a parameter that may be left out": lambda d: operation(d, "/v1/cases")["parameters"].append(
        {"in": "query", "name": "more", "schema": {"type": "string"}}
    ),
    "other words of explanation": lambda d: operation(d, "/v1/cases").update(description="…"),
}


@pytest.mark.parametrize("change", ALLOWED)
def test_what_breaks_nothing_is_allowed(promised: Document, change: str) -> None:
    document = copy.deepcopy(promised)
    ALLOWED[change](document)
    assert document != promised and broken(promised, document) == []
