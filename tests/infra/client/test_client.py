"""The client against the real api: every method does what it says, and every refusal is the exception it should be."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
import urllib3
from sqlalchemy import func, select

from infra.client import (
    Client,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotSettled,
    Unauthenticated,
    Unprocessable,
    UnsupportedType,
    client,
)
from moderation import cases, tenants
from moderation.db import transaction
from moderation.tables import Case, Tenant
from moderation.vocabulary import DecidedBy, FailureReason, Label, Scope
from tests.factories import champion_or_new, make_key, make_verdict, take_case
from tests.images import png
from tests.infra.client.conftest import Platform

LINK = "https://93.184.215.14/picture.png"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    file.write_bytes(png())
    return file


def decide(case_id: str, label: Label = Label.FAKE) -> None:
    """What a screening worker would do."""
    with transaction() as session:
        case = session.get_one(Case, UUID(case_id))
        take_case(session, case)
        policy = tenants.policy_of(session, case.tenant_id)
        cases.record_verdict(session, case, make_verdict(session, case, champion_or_new(session), 0.97), policy)
        cases.decide(session, case, label, DecidedBy.POLICY)


def test_a_file_with_all_that_can_be_said_of_it(platform: Platform, picture: Path) -> None:
    case = platform.client.submit_file(
        picture, external_id="post-1", metadata={"uploader": "ü-17"}, priority="high", idempotency_key="k"
    )
    assert (case["status"], case["external_id"], case["priority"]) == ("queued", "post-1", "high")
    assert case["metadata"] == {"uploader": "ü-17"}
    assert case["image"] is not None and case["image"]["bytes"] == picture.stat().st_size
    assert platform.client.case(case["id"]) == case


def test_each_call_is_a_submission_of_its_own_unless_a_key_says_otherwise(platform: Platform) -> None:
    first, second = (platform.client.submit_bytes(png())["id"] for _ in range(2))
    assert first != second
    third, fourth = (platform.client.submit_bytes(png(), idempotency_key="mine")["id"] for _ in range(2))
    assert third == fourth


def test_links_are_left_to_a_worker(platform: Platform) -> None:
    assert platform.client.submit_link(LINK, metadata={"a": 1})["status"] == "fetching"
    batch = platform.client.submit_batch([{"image_url": LINK, "external_id": "1"}, {"image_url": LINK}])
    assert [case["external_id"] for case in batch] == ["1", None]


def test_a_large_file_goes_by_way_of_the_store(platform: Platform, picture: Path) -> None:
    case = platform.client.submit_upload(picture, external_id="large")
    assert case["image"] is not None and case["image"]["bytes"] == picture.stat().st_size
    link = platform.client.original(case["image"]["id"])
    assert urllib3.request("GET", link["url"]).data == picture.read_bytes()


def test_a_list_is_followed_over_its_pages(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    sent = [platform.client.submit_link(LINK, external_id=str(n))["id"] for n in range(5)]
    assert [case["id"] for case in platform.client.cases(status="fetching")] == sent[::-1]
    assert [case["id"] for case in platform.client.cases(external_id="3")] == [sent[3]]
    assert list(platform.client.cases(label="real")) == []


def test_waiting_ends_with_the_verdict_or_with_the_time(platform: Platform) -> None:
    case = platform.client.submit_bytes(png())
    with pytest.raises(NotSettled, match="still queued after 0 s") as unsettled:
        platform.client.wait(case["id"], timeout_s=0)
    assert unsettled.value.case["id"] == case["id"]
    decide(case["id"])
    settled = platform.client.wait(case["id"], timeout_s=0)
    assert settled["verdict"] is not None and settled["verdict"]["p_fake"] == 0.97
    assert settled["decision"] == {"label": "fake", "by": "policy", "policy_version": 1}


def test_the_service_may_be_asked_to_wait(platform: Platform) -> None:
    assert platform.client.submit_bytes(png(), wait_s=0.1)["status"] == "queued"


def test_a_decision_is_appealed_once(platform: Platform) -> None:
    case = platform.client.submit_bytes(png())
    decide(case["id"])
    assert platform.client.statement_of_reasons(case["id"])["case_id"] == case["id"]
    assert platform.client.appeal(case["id"], "The uploader sent the raw file.")["review_reason"] == "appeal"
    with pytest.raises(Conflict) as refused:
        platform.client.appeal(case["id"])
    assert (refused.value.status, refused.value.kind) == (409, "conflict")


def test_an_explanation_is_asked_for_and_read(platform: Platform) -> None:
    case = platform.client.submit_bytes(png())
    with pytest.raises(Conflict):
        platform.client.explain(case["id"])
    decide(case["id"])
    assert platform.client.explain(case["id"]) == platform.client.explanation(case["id"])


def test_a_failed_case_is_tried_again(platform: Platform) -> None:
    case = platform.client.submit_bytes(png())
    with transaction() as session:
        row = session.get_one(Case, UUID(case["id"]))
        take_case(session, row)
        cases.fail(session, row, FailureReason.INTERNAL, "…")
    assert platform.client.retry(case["id"])["status"] == "queued"


def test_an_image_is_erased_for_good_and_twice_is_as_once(platform: Platform) -> None:
    image = platform.client.submit_bytes(png())["image"]
    assert image is not None
    for _ in range(2):
        platform.client.erase(image["id"])
    with pytest.raises(NotFound):
        platform.client.original(image["id"])


def test_anything_else_can_be_called(platform: Platform) -> None:
    made = platform.client.request("POST", "/v1/endpoints", {"url": "https://example.com/hooks"})
    assert made["secret"].startswith("whsec_")
    assert [found["id"] for found in platform.client.request("GET", "/v1/endpoints")["endpoints"]] == [made["id"]]
    assert platform.client.request("DELETE", f"/v1/endpoints/{made['id']}") == {}


def test_a_refusal_says_what_is_wrong_and_where(platform: Platform) -> None:
    with pytest.raises(UnsupportedType, match="415") as text:
        platform.client.submit_bytes(b"I am no image.")
    assert text.value.kind == "unsupported-type" and text.value.request_id and text.value.detail in str(text.value)
    with pytest.raises(Unprocessable):
        platform.client.submit_bytes(png()[:60])
    with pytest.raises(InvalidRequest) as link:
        platform.client.submit_batch([{"image_url": LINK}, {"image_url": "ftp://example.com"}])
    assert link.value.pointer == "/submissions/1/image_url"
    with pytest.raises(InvalidRequest) as several:
        platform.client.request("POST", "/v1/submissions/batch", {"submissions": [{"a": 1, "b": 2}]})
    assert len(several.value.errors) == 3


def test_a_key_may_do_what_its_scopes_say(platform: Platform, url: str) -> None:
    with transaction() as session:
        reader = make_key(session, session.get_one(Tenant, platform.tenant_id), (Scope.CASES_READ,))
    with pytest.raises(Forbidden, match="submissions:write"):
        Client(url, reader).submit_link(LINK)
    with pytest.raises(Unauthenticated):
        Client(url, "tt_000000000000_x").submit_link(LINK)
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Case)) == 0


def test_a_key_may_have_its_files_line_end(url: str, platform: Platform) -> None:
    with Client(url, f"{platform.key}\n") as client:
        assert list(client.cases()) == []
