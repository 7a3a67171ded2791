"""Privacy through the api: what erasing really reaches, retention, one person's data, statements of reasons."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import Engine, select, text

from moderation import cases, screening, subject_exports
from moderation.db import transaction
from moderation.retraining import dataset, examples, runs, snapshot
from moderation.reviews import Sentence
from moderation.settings import settings
from moderation.storage import Storage, rendition_key, view_key
from moderation.subject_exports import Subject
from moderation.tables import Case, Event, Image, Source, Tenant, Upload
from moderation.vocabulary import CaseStatus, EventType, Grade, SourceScheme, View
from tests.api.bad_input import LINK, make_source
from tests.api.conftest import Client
from tests.api.test_hooks import bearer, post
from tests.factories import make_case, make_endpoint, make_image, make_reading, make_tenant, make_version
from tests.images import png
from tests.learning import make_hash, make_review
from tests.moderation.retraining.test_snapshot import judged, taken
from tests.moderation.test_erasure import everything
from tests.reading import copy, reading_few
from tests.reviewing import make_person
from workers import housekeeping

# Nobody else in the bucket or in any table is called so.
WHO = "annameier7731"
PDQ = bytes(range(100, 132))
PERIODS = {"images": 190, "verdicts": 365, "events": 730, "restricted": None, "appeals": 183}


def bucket_objects(store: Storage) -> Iterator[tuple[str, bytes]]:
    """Everything that the bucket holds."""
    pages = store._client.get_paginator("list_objects_v2").paginate(Bucket=settings().s3_bucket)
    for entry in (entry for page in pages for entry in page.get("Contents", [])):
        yield entry["Key"], store.get(entry["Key"], max_bytes=entry["Size"])


def redis_values(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        found = [(key, client.dump(key)) for key in client.scan_iter()]
    return str(found)


def submitted(client: Client, store: Storage, data: bytes) -> dict[str, Any]:
    """By upload, with everything that a platform can say."""
    upload = client.post("/v1/uploads").get_json()
    with transaction() as session:
        key = session.get_one(Upload, UUID(upload["id"])).s3_key
    store.put(key, data, "image/png")
    said = {"upload_id": upload["id"], "external_id": f"post-{WHO}", "metadata": {"subject": WHO, "category": WHO}}
    answer = client.post("/v1/submissions", json=said, headers={"Idempotency-Key": "k1", "X-Request-Id": f"r-{WHO}"})
    assert answer.status_code == 202
    case: dict[str, Any] = answer.get_json()
    return case


def judged_and_reviewed(client: Client, store: Storage, case_id: UUID, image_id: UUID) -> None:
    """A verdict that describes a person, pictures for browsers, and an answer in a moderator's words."""
    with transaction() as session:
        version = make_version(session)
        session.get_one(Tenant, client.tenant.id).allow_training = True
    job = screening.begin(case_id, version.id, settings())
    assert job is not None
    for key in (rendition_key(client.tenant.id, image_id), view_key(client.tenant.id, image_id, View.NOISE)):
        store.put(key, f"picture of {WHO}".encode(), "image/webp")
    with transaction() as session:
        image = session.get_one(Image, image_id)
        image.provenance = {"software": f"{WHO}'s camera"}
        make_hash(session, image, PDQ)
    screening.finish(job, make_reading(0.5, explanation=f"{WHO} has six fingers."), version.id)
    with transaction() as session:
        person = make_person(session, client.tenant)
        said = [Sentence(f"{WHO} has six fingers.", Grade.WRONG, f"{WHO} has five.")]
        make_review(session, session.get_one(Case, case_id), person, sentences=said).note = f"I know {WHO}."


def test_erasing_leaves_nothing_but_the_tombstone_in_any_table_in_the_bucket_and_in_redis(
    client: Client, db: Engine, bucket: str, redis_url: str, tmp_path: Any
) -> None:
    # Nobody else's picture: the bucket is not emptied between tests.
    store, data = Storage(settings()), png(seed=20_477)
    with transaction() as session:
        make_endpoint(session, client.tenant)
    case = submitted(client, store, data)
    case_id, image_id, sha256 = UUID(case["id"]), UUID(case["image"]["id"]), case["image"]["sha256"]
    judged_and_reviewed(client, store, case_id, image_id)
    found = taken()
    run_id = judged(client.tenant, found, examples.divided(found, 0.2), runs.RunStatus.REJECTED)
    stored = snapshot.kept(store, found)
    with transaction() as session:
        run = runs.run_of(session, run_id, lock=True)
        run.snapshot_key, run.snapshot_digest = stored.key, stored.digest
    assert WHO in everything(db) and any(WHO.encode() in content for _, content in bucket_objects(store))
    assert any(data == content for _, content in bucket_objects(store))

    assert client.delete(f"/v1/images/{image_id}").status_code == 204
    housekeeping.clean_up()

    assert WHO not in everything(db)
    telling = [data, WHO.encode(), sha256.encode(), PDQ.hex().encode(), bytes(PDQ)]
    for key, content in bucket_objects(store):
        assert not any(words in content for words in telling), key
    assert not any(words in redis_values(redis_url) for words in (WHO, sha256))
    with db.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        speaking = {
            table
            for table in tables
            if connection.scalar(
                text(f'SELECT count(*) FROM "{table}" AS t WHERE strpos(t::text, :sha256) > 0'), {"sha256": sha256}
            )
        }
    assert speaking == {"images", "training_examples"}, "the tombstone, and that a run has seen it"
    left = snapshot.read(store, stored.digest)
    assert left.examples == () and [stone.image for stone in left.tombstones] == [image_id]
    assert dataset.export(store, str(run_id), tmp_path / "export", actor="test").files == {}
    shown = client.get(f"/v1/cases/{case_id}").get_json()
    assert (shown["status"], shown["external_id"], shown["metadata"]) == ("decided", None, {})
    repeated = client.post(
        "/v1/submissions",
        json={"upload_id": case["id"], "external_id": f"post-{WHO}", "metadata": {}},
        headers={"Idempotency-Key": "k2"},
    )
    assert repeated.status_code == 404, "the upload went too"


# --- Retention ---


def test_retention_is_set_and_shown(client: Client) -> None:
    assert client.get("/v1/retention").get_json() == dict.fromkeys(PERIODS)
    answer = client._call("PUT", "/v1/retention", {"json": PERIODS})
    assert (answer.status_code, answer.get_json()) == (200, PERIODS)
    assert client.get("/v1/retention").get_json() == PERIODS
    client._call("PUT", "/v1/retention", {"json": {"events": 200}})
    assert client.get("/v1/retention").get_json() == {**dict.fromkeys(PERIODS), "events": 200}


@pytest.mark.parametrize(
    "body, pointer",
    [
        ({"images": 0}, "/images"),
        ({"images": "30 days"}, "/images"),
        ({"picture": 3}, "/picture"),
        ({"images": 30, "appeals": 183}, "/images"),
        ({"images": 30}, "/images"),
        ({"restricted": 6}, "/restricted"),
    ],
)
def test_wrong_retention_is_pointed_at_and_changes_nothing(client: Client, body: dict[str, Any], pointer: str) -> None:
    answer = client._call("PUT", "/v1/retention", {"json": body})
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, pointer)
    assert client.get("/v1/retention").get_json() == dict.fromkeys(PERIODS)


# --- Legal hold ---


def test_an_image_under_legal_hold_is_a_conflict_that_says_what_to_do(client: Client) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant, CaseStatus.DECIDED)
        case.restricted = True
    answer = client.delete(f"/v1/images/{case.image_id}")
    assert answer.status_code == 409
    assert "legal hold" in answer.get_json()["detail"] and "/v1/retention" in answer.get_json()["detail"]


# --- One person's data ---


def exported(client: Client, **whose: object) -> dict[str, bytes]:
    answer = client.post("/v1/subject-exports", json=whose)
    assert (answer.status_code, answer.mimetype) == (200, "application/zip")
    assert answer.headers["Cache-Control"] == "no-store"
    with zipfile.ZipFile(io.BytesIO(answer.get_data())) as zipped:
        assert zipped.testzip() is None
        return {name: zipped.read(name) for name in zipped.namelist()}


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().splitlines()]


def test_one_persons_data_is_a_zip_of_cases_events_reasons_and_images(
    client: Client, stranger: Client, bucket: str
) -> None:
    data = png()
    case = client.send(data, fields={"external_id": "post-1", "metadata": '{"subject": "u-17"}'}).get_json()
    with transaction() as session:
        decided = make_case(session, client.tenant, CaseStatus.DECIDED, details={"subject": "u-17"})
        held = make_case(session, client.tenant, CaseStatus.DECIDED, details={"subject": "u-17"})
        held.restricted = True
        cases.note(session, held, EventType.CASE_RESTRICTED, actor="user:x", was={}, now={"restricted": True})
        make_case(session, client.tenant, CaseStatus.DECIDED, details={"subject": "u-170"})
        make_case(session, stranger.tenant, CaseStatus.DECIDED, details={"subject": "u-17"})
    files = exported(client, subject="u-17")
    told = lines(files["cases.jsonl"])
    assert [line["id"] for line in told] == [case["id"], str(decided.id), str(held.id)]
    assert files[told[0]["image_file"]] == data
    assert (told[2]["image_file"], told[2]["image_left_out"]) == (None, "under legal hold")
    assert {line["case"] for line in lines(files["events.jsonl"])} == {line["id"] for line in told}
    assert [line["case_id"] for line in lines(files["statements.jsonl"])] == [str(decided.id), str(held.id)]
    with transaction() as session:
        event = session.scalars(select(Event).where(Event.type == EventType.SUBJECT_EXPORTED)).one()
    assert event.after == {"by": "subject", "cases": 3}, "not whose they are"
    by_id = exported(client, external_ids=["post-1", "post-2"])
    assert [line["external_id"] for line in lines(by_id["cases.jsonl"])] == ["post-1"]


def test_an_image_that_another_case_holds_is_left_out_and_the_case_says_so(client: Client, bucket: str) -> None:
    with transaction() as session:
        image = make_image(session, client.tenant)
        make_case(session, client.tenant, CaseStatus.DECIDED, image=image, external_id="mine")
        make_case(session, client.tenant, image=image, external_id="another's").restricted = True
    files = exported(client, external_ids=["mine"])
    (line,) = lines(files["cases.jsonl"])
    assert (line["image_file"], line["image_left_out"]) == (None, "under legal hold")
    assert not any(name.startswith("images/") for name in files)


def test_a_webhook_with_a_long_subject_is_taken_whole_and_exported(client: Client) -> None:
    """Its sender cannot mend what it sends: refusing it would lose the image."""
    source = make_source(client, SourceScheme.BEARER)
    with transaction() as session:
        session.get_one(Source, source.id).metadata_pointer = "/about"
    named = ["".join(f"{n:x}" for n in range(2000)) + end for end in ("a", "b")]
    opened = []
    for subject in named:
        body = json.dumps({"image": {"url": LINK}, "about": {"subject": subject}}).encode()
        answer = post(client, source, body, **bearer(source))
        assert answer.status_code == 202, answer.text
        opened += [case["id"] for case in answer.get_json()["cases"]]
    for subject, case_id in zip(named, opened, strict=True):
        told = lines(exported(client, subject=subject)["cases.jsonl"])
        assert [(line["id"], line["metadata"]) for line in told] == [(case_id, {"subject": subject})]
    assert client.post("/v1/subject-exports", json={"subject": named[0][:255]}).status_code == 404


def test_a_person_is_found_by_an_index(client: Client) -> None:
    with transaction() as session:
        theirs = make_case(session, client.tenant, details={"subject": "u-17"}).id
        another = make_case(session, client.tenant, details={"subject": "u-18"})
        copy(session, "submissions", another.submission_id)
        copy(session, "cases", another.id, "submission_id")
        with reading_few(session, "submissions"), reading_few(session, "cases"):
            assert session.scalars(subject_exports._wanted(client.tenant.id, Subject("u-17"))).all() == [theirs]


@pytest.mark.parametrize(
    "body, status",
    [({}, 400), ({"subject": "a", "external_ids": ["b"]}, 400), ({"subject": ""}, 400), ({"subject": "nobody"}, 404)],
)
def test_an_export_of_nobody_says_so(client: Client, body: dict[str, Any], status: int) -> None:
    assert client.post("/v1/subject-exports", json=body).status_code == status


# --- Statements of reasons ---


def test_a_statement_says_what_is_missing_until_the_platform_has_said_it(client: Client) -> None:
    with transaction() as session:
        case = make_case(session, client.tenant, CaseStatus.DECIDED)
        waiting = make_case(session, client.tenant)
        theirs = make_case(session, make_tenant(session), CaseStatus.DECIDED)
    path = f"/v1/cases/{case.id}/statement-of-reasons"
    told = client.get(path).get_json()
    assert not told["complete"] and "category" in [each["field"] for each in told["missing"]]
    assert told["statement"]["automated_decision"] == "AUTOMATED_DECISION_FULLY"
    defaults = {
        "synthetic": {
            "decision_visibility": ["DECISION_VISIBILITY_CONTENT_LABELLED"],
            "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
            "incompatible_content_ground": "Section 4",
            "incompatible_content_explanation": "It was not declared.",
            "category": "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
            "source_type": "SOURCE_VOLUNTARY",
        },
        "illegal": {},
        "content_date_is_submission": True,
    }
    answer = client._call("PUT", "/v1/statement-defaults", {"json": defaults})
    assert (answer.status_code, answer.get_json()) == (200, defaults)
    assert client.get("/v1/statement-defaults").get_json() == defaults
    assert client.get(path).get_json()["complete"]
    assert client.get(f"/v1/cases/{waiting.id}/statement-of-reasons").status_code == 409
    assert client.get(f"/v1/cases/{theirs.id}/statement-of-reasons").status_code == 404


def test_defaults_that_the_database_does_not_know_are_pointed_at(client: Client) -> None:
    answer = client._call("PUT", "/v1/statement-defaults", {"json": {"synthetic": {"category": "CATS"}}})
    assert (answer.status_code, answer.get_json()["pointer"]) == (400, "/synthetic/category")
