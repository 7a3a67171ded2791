"""Reading cases: one, pages of many, filters; appealing and retrying; images by link, and erased."""

from __future__ import annotations

import urllib.error
import urllib.request
from uuid import UUID

import pytest

from moderation.db import new_id, transaction
from moderation.settings import settings
from moderation.storage import Storage, original_key
from moderation.tables import Case, Image, Submission
from moderation.vocabulary import CaseStatus
from tests.api.conftest import Client
from tests.api.test_submissions import use
from tests.factories import events_of, make_case
from tests.images import png


def test_pages_hold_every_case_once_newest_first_while_new_ones_come(client: Client) -> None:
    with transaction() as session:
        made = [str(make_case(session, client.tenant).id) for _ in range(7)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/v1/cases?limit=3" + (f"&cursor={cursor}" if cursor else "")).get_json()
        seen += [case["id"] for case in page["cases"]]
        cursor = page["next"]
        with transaction() as session:
            make_case(session, client.tenant)
    assert seen == made[::-1]


def test_filters(client: Client) -> None:
    with transaction() as session:
        decided = make_case(session, client.tenant, CaseStatus.DECIDED, external_id="a")
        make_case(session, client.tenant, CaseStatus.QUEUED, external_id="b")

    def ids(query: str) -> list[str]:
        return [case["id"] for case in client.get(f"/v1/cases?{query}").get_json()["cases"]]

    for query in ("status=decided", "label=fake", "external_id=a", "status=decided&label=fake&external_id=a"):
        assert ids(query) == [str(decided.id)]
    for query in ("status=failed", "label=real", "external_id=c", "status=queued&label=fake"):
        assert ids(query) == []


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("status=done", "/status"),
        ("label=maybe", "/label"),
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("limit=1e9", "/limit"),
        ("cursor=%00", "/cursor"),
        ("cursor=abc", "/cursor"),
        ("cursor=%C3%A9", "/cursor"),
        ("external_id=%00", "/external_id"),
        ("tenant=other", "/tenant"),
    ],
)
def test_a_wrong_filter_is_pointed_at(client: Client, query: str, pointer: str) -> None:
    answer = client.get(f"/v1/cases?{query}")
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, pointer)


@pytest.mark.parametrize("case_id", ["1", "not-an-id", "0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a5", "%00"])
def test_what_is_no_id_is_a_404(client: Client, case_id: str) -> None:
    answer = client.get(f"/v1/cases/{case_id}")
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


def test_a_decided_case_can_be_appealed_once(client: Client) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant, CaseStatus.DECIDED)
    answer = client.post(f"/v1/cases/{case.id}/appeal", json={"message": "Look at the raw file."})
    assert answer.status_code == 200
    assert (answer.get_json()["status"], answer.get_json()["review_reason"]) == ("in_review", "appeal")
    with transaction() as session:
        assert events_of(session, case.id)[-2:] == ["case.appealed", "case.in_review"]
    again = client.post(f"/v1/cases/{case.id}/appeal")
    assert (again.status_code, again.get_json()["type"]) == (409, "urn:telltale:problem:conflict")


def test_a_case_whose_image_is_erased_cannot_be_appealed(client: Client) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant, CaseStatus.DECIDED)
    assert client.delete(f"/v1/images/{case.image_id}").status_code == 204
    answer = client.post(f"/v1/cases/{case.id}/appeal")
    assert answer.status_code == 409 and "nobody could look at it again" in answer.get_json()["detail"]
    assert client.get(f"/v1/cases/{case.id}").get_json()["status"] == "decided"


@pytest.mark.parametrize(
    "body", [{"message": "\x00"}, {"message": "\ud800"}, {"message": "x" * 2001}, {"reason": "x"}, {"message": 1}]
)
def test_a_wrong_appeal_changes_nothing(client: Client, body: dict[str, object]) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant, CaseStatus.DECIDED)
    assert client.post(f"/v1/cases/{case.id}/appeal", json=body).status_code == 400
    with transaction() as session:
        assert session.get_one(Case, case.id).status is CaseStatus.DECIDED


def test_a_failed_case_can_be_retried(client: Client) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant, CaseStatus.FAILED)
    answer = client.post(f"/v1/cases/{case.id}/retry")
    assert (answer.status_code, answer.get_json()["status"], answer.get_json()["failure"]) == (202, "queued", None)
    assert client.post(f"/v1/cases/{case.id}/retry").status_code == 409


def test_the_original_is_readable_by_its_link_for_a_while(client: Client, bucket: str) -> None:
    data = png()
    image = client.send(data).get_json()["image"]
    link = client.get(f"/v1/images/{image['id']}/original")
    assert link.status_code == 200
    with urllib.request.urlopen(link.get_json()["url"], timeout=30) as answer:
        assert answer.read() == data
        assert answer.headers["Content-Type"] == "image/png"


def test_an_erased_image_is_gone_and_its_case_is_not(client: Client, bucket: str) -> None:
    case = client.send().get_json()
    image_id = case["image"]["id"]
    link = client.get(f"/v1/images/{image_id}/original").get_json()["url"]
    for _ in range(2):  # erasing twice is the same as once
        answer = client.delete(f"/v1/images/{image_id}")
        assert (answer.status_code, answer.data) == (204, b"")
    assert not Storage(settings()).exists(original_key(client.tenant.id, UUID(image_id)))
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(link, timeout=30)
    gone = client.get(f"/v1/images/{image_id}/original")
    assert gone.status_code == 404 and "was erased" in gone.get_json()["detail"]
    shown = client.get(f"/v1/cases/{case['id']}").get_json()
    assert shown["image"]["erased"] is True and shown["image"]["sha256"] == case["image"]["sha256"]
    again = client.send().get_json()["image"]
    assert again["id"] != image_id and again["erased"] is False


def test_erasing_forgets_the_link_it_came_from(client: Client) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant, image_url="https://example.com/secret.jpg")
    assert client.delete(f"/v1/images/{case.image_id}").status_code == 204
    with transaction() as session:
        assert session.get_one(Submission, case.submission_id).image_url is None


def test_erasing_while_the_store_is_away_is_done_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant)
    away = Storage(settings().model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"}))
    use(client, monkeypatch, storage=away)
    assert client.delete(f"/v1/images/{case.image_id}").status_code == 204
    with transaction() as session:
        image = session.get_one(Image, case.image_id)
        assert image.erased_at is not None and image.purged_at is None


def test_an_unknown_image_cannot_be_erased(client: Client) -> None:
    assert client.delete(f"/v1/images/{new_id()}").status_code == 404
