"""Each line of the table of bad inputs, and that docs/api.md says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import func, select

from moderation.db import transaction
from moderation.tables import Case, IdempotencyKey
from moderation.vocabulary import FailureReason
from tests.api.bad_input import ACCEPTED, REFUSED, Accepted, Refused, make_source, webhook
from tests.api.conftest import Client

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"


def documented() -> dict[str, tuple[str, str]]:
    """From a line's name to its status and its type or outcome, as docs/api.md has them."""
    rows = re.findall(r"^\| ([^|]+?) \| (\d{3}) \| `([^`]+)`", DOCUMENT.read_text(), re.MULTILINE)
    return {name: (status, outcome) for name, status, outcome in rows}


@pytest.mark.parametrize("wrong", REFUSED, ids=lambda wrong: wrong.line)
def test_a_bad_input_is_refused_with_advice(client: Client, wrong: Refused) -> None:
    answer = wrong.send(client)
    assert (answer.status_code, answer.mimetype) == (wrong.status, "application/problem+json"), answer.text
    problem = answer.get_json()
    assert problem["type"] == f"urn:telltale:problem:{wrong.kind}"
    assert problem["status"] == wrong.status
    assert wrong.says in problem["detail"]
    assert problem.get("pointer") == wrong.pointer
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert documented()[wrong.line] == (str(wrong.status), wrong.kind)


@pytest.mark.parametrize("wrong", REFUSED, ids=lambda wrong: wrong.line)
def test_nothing_of_a_bad_input_is_kept(client: Client, wrong: Refused) -> None:
    wrong.send(client)
    accepted_before = 1 if wrong.kind == "idempotency-mismatch" else 0
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Case)) == accepted_before
        assert session.scalar(select(func.count()).select_from(IdempotencyKey)) == accepted_before


@pytest.mark.parametrize("odd", ACCEPTED, ids=lambda odd: odd.line)
def test_an_odd_image_is_accepted_as_it_is(client: Client, odd: Accepted) -> None:
    answer = client.send(odd.data())
    assert answer.status_code == 202, answer.text
    image = answer.get_json()["image"]
    assert image["media_type"] == odd.media_type
    assert (image["width"], image["height"]) == odd.size
    assert image["frames"] == odd.frames
    assert image["judged_frame"] == ("first of several" if odd.frames > 1 else "only")
    assert documented()[odd.line] == ("202", "accepted")


def test_a_replayed_webhook_id_gets_the_same_answer_and_no_second_case(client: Client) -> None:
    source = make_source(client)
    first, second = webhook(client, source), webhook(client, source)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.get_json() == second.get_json()
    assert second.headers["Idempotent-Replayed"] == "true"
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Case)) == 1
    assert documented()["Replayed webhook id"] == ("202", "accepted")


def test_every_link_failure_is_documented_with_its_reason() -> None:
    lines = documented()
    for line, reason in {
        "Link that is private": FailureReason.LINK_REFUSED,
        "Link that redirects to a private address": FailureReason.LINK_REFUSED,
        "Link that answers 404": FailureReason.LINK_STATUS,
        "Link that hangs": FailureReason.LINK_UNREACHABLE,
        "Link that returns HTML": FailureReason.LINK_NOT_IMAGE,
    }.items():
        assert lines[line] == ("202", reason.value)
    for line in ("200 MB upload, by Content-Length", "200 MB upload, while streaming"):
        assert lines[line] == ("413", "request-entity-too-large")
