"""Explanations on demand, as a platform asks for them."""

from __future__ import annotations

from moderation import explanations
from moderation.db import transaction
from moderation.explanations import Words
from moderation.settings import settings
from moderation.tables import Case
from moderation.vocabulary import CaseStatus
from tests.api.conftest import Client
from tests.factories import champion_or_new, make_case


def case_of(client: Client, status: CaseStatus = CaseStatus.DECIDED) -> Case:
    with transaction() as session:
        return make_case(session, client.tenant, status)


def test_a_verdict_without_words_gets_them_on_demand(client: Client) -> None:
    case = case_of(client)
    path = f"/v1/cases/{case.id}"
    assert client.get(f"{path}/explanation").get_json() == {"state": "none", "text": None, "detail": None}
    answer = client.post(f"{path}/explanation")
    assert (answer.status_code, answer.get_json()) == (202, {"state": "waiting", "text": None, "detail": None})
    assert client.post(f"{path}/explanation").status_code == 202
    assert case.verdict_id is not None
    job = explanations.begin(case.verdict_id, settings())
    with transaction() as session:
        words = Words("This is a fake image. Seams.", champion_or_new(session).id)
    assert job is not None
    explanations.finish(job, words)
    assert client.get(f"{path}/explanation").get_json()["state"] == "ready"
    assert client.get(path).get_json()["verdict"]["explanation"] == words.text
    assert client.post(f"{path}/explanation").get_json()["text"] == words.text


def test_a_failure_is_said_and_asking_again_starts_anew(client: Client) -> None:
    case = case_of(client)
    path = f"/v1/cases/{case.id}/explanation"
    client.post(path)
    assert case.verdict_id is not None
    job = explanations.begin(case.verdict_id, settings())
    assert job is not None
    explanations.give_up(job, "It is broken.")
    assert client.get(path).get_json() == {"state": "failed", "text": None, "detail": "It is broken."}
    assert client.post(path).get_json()["state"] == "waiting"


def test_what_has_no_verdict_is_a_conflict_and_another_tenants_case_is_not_there(
    client: Client, stranger: Client
) -> None:
    waiting, decided = case_of(client, CaseStatus.QUEUED), case_of(client)
    answer = client.post(f"/v1/cases/{waiting.id}/explanation")
    assert answer.status_code == 409
    assert "has not been judged" in answer.get_json()["detail"]
    assert stranger.post(f"/v1/cases/{decided.id}/explanation").status_code == 404
    assert stranger.get(f"/v1/cases/{decided.id}/explanation").status_code == 404
