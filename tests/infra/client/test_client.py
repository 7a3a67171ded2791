"""The client against the real api: every method does what it says, and every refusal is the exception it should be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID
from zipfile import ZipFile

import pytest
import urllib3
from sqlalchemy import func, select

from api.app import create_app
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
    wire,
)
from moderation import cases, tenants
from moderation.db import transaction
from moderation.settings import settings
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


def test_an_endpoint_is_told_and_told_again(platform: Platform) -> None:
    client, begun = platform.client, datetime.now(UTC)
    made = client.create_endpoint("https://example.com/hooks", ["endpoint.ping", "submission.accepted"])
    assert made["secret"].startswith("whsec_")
    assert client.rotate_secret(made["id"])["secret"] != made["secret"]
    assert [found["id"] for found in client.endpoints()] == [made["id"]]
    client.ping(made["id"])
    client.submit_bytes(png())
    sent = list(client.deliveries(endpoint_id=made["id"], status="pending"))
    assert [delivery["type"] for delivery in sent] == ["submission.accepted", "endpoint.ping"]
    assert client.replay_delivery(sent[0]["id"])["webhook_id"] == sent[0]["webhook_id"]
    assert (
        client.replay(made["id"], begun) == 2
        and client.replay(made["id"], datetime(2020, 1, 1, tzinfo=UTC), begun) == 0
    )
    client.disable_endpoint(made["id"])
    assert client.endpoint(made["id"])["disabled_at"] is not None
    assert client.enable_endpoint(made["id"])["disabled_at"] is None


def test_what_is_kept_and_said_of_a_platform(platform: Platform) -> None:
    kept = platform.client.set_retention({"images": 190, "appeals": 183})
    assert kept == platform.client.retention()
    assert (kept["images"], kept["appeals"], kept["events"]) == (190, 183, None)
    said = platform.client.statement_defaults()
    said["content_date_is_submission"] = True
    assert platform.client.set_statement_defaults(said) == platform.client.statement_defaults() == said


def test_one_persons_data_is_a_file(platform: Platform, tmp_path: Path) -> None:
    sent = platform.client.submit_bytes(png(), external_id="1", metadata={"subject": "u-17"})
    for number, asked in enumerate(({"subject": "u-17"}, {"external_ids": ["1"]})):
        platform.client.export_subject(tmp_path / f"{number}.zip", **asked)  # type: ignore[arg-type]
        with ZipFile(tmp_path / f"{number}.zip") as archive:
            assert sent["id"] in archive.read("cases.jsonl").decode()
    with pytest.raises(NotFound):
        platform.client.export_subject(tmp_path / "none.zip", subject="nobody")
    assert not (tmp_path / "none.zip").exists()
    with pytest.raises(FileExistsError):
        platform.client.export_subject(tmp_path / "0.zip", subject="u-17")


def test_whatever_is_new_can_be_called(platform: Platform) -> None:
    assert platform.client.request("GET", "/v1/retention") == platform.client.retention()


def test_every_operation_has_a_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, picture: Path) -> None:
    """Ids are the names that the document has for them, so that what is called reads as its paths do."""
    called: set[tuple[str, str]] = set()
    lists = {"cases": [], "deliveries": [], "endpoints": [], "next": None}
    answer = {"id": "{case_id}", "status": "decided", "url": "http://store", "fields": {}, "queued": 0, **lists}

    def call(_: object, method: str, url: str, *rest: object, **options: object) -> dict[str, Any]:
        called.add((method, url.partition("?")[0].removeprefix("http://api")))
        return answer

    monkeypatch.setattr(wire, "call", call)
    monkeypatch.setattr(wire, "download", call)
    calls(Client("http://api", "tt_k"), picture, tmp_path / "export.zip")
    document = create_app(settings()).api_doc["paths"]
    theirs = {(method.upper(), path) for path, item in document.items() for method in item}
    # A platform's webhooks are its own, and probes are for whoever runs the service.
    others = {(method, path) for method, path in theirs if path.startswith(("/health/", "/v1/hooks/"))}
    assert called - {("POST", "http://store")} == theirs - others


def calls(client: Client, picture: Path, export: Path) -> None:
    """Every method that asks the api something."""
    client.submit_file(picture), client.submit_upload(picture), client.submit_batch([])
    client.case("{case_id}"), list(client.cases()), client.appeal("{case_id}"), client.retry("{case_id}")
    client.explain("{case_id}"), client.explanation("{case_id}"), client.statement_of_reasons("{case_id}")
    client.original("{image_id}"), client.erase("{image_id}")
    client.create_endpoint("https://example.com"), client.endpoints(), client.endpoint("{endpoint_id}")
    client.disable_endpoint("{endpoint_id}"), client.enable_endpoint("{endpoint_id}")
    client.rotate_secret("{endpoint_id}"), client.ping("{endpoint_id}")
    client.replay("{endpoint_id}", datetime.now(UTC)), client.replay_delivery("{delivery_id}")
    list(client.deliveries()), client.retention(), client.set_retention({}), client.statement_defaults()
    client.set_statement_defaults({"synthetic": {}, "illegal": {}, "content_date_is_submission": False})
    client.export_subject(export, subject="u-17")


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
