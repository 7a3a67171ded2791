"""Snapshots: what may be learned and what never is, in a document that is the same whenever it is taken again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from moderation import cases, erasure, model_versions
from moderation.accounts import Person
from moderation.db import new_id, transaction
from moderation.errors import ConfigurationError, NotFound
from moderation.retraining import examples, groups, runs, snapshot
from moderation.retraining.snapshot import Snapshot
from moderation.reviews import Sentence
from moderation.settings import settings
from moderation.storage import Storage, snapshot_key
from moderation.tables import Case, Image, Review, SimilarImage, Submission, Tenant
from moderation.vocabulary import Answer, CaseStatus, Grade, Label, ReviewReason, Role, RunStatus, Split
from tests.factories import make_case, make_image, make_tenant, make_version
from tests.learning import WORDING, allow, make_consenting, make_hash, make_review, make_reviewed
from tests.reviewing import make_person

NOTHING = timedelta(0)
REAL, FAKE, CANNOT_TELL = Answer
Change = Callable[[Session, Case, Person, Person], object]


@pytest.fixture
def lead(tenant: Tenant) -> Person:
    with transaction() as session:
        return make_person(session, tenant, role=Role.LEAD)


def taken(run_id: UUID | None = None, *, burst: timedelta = NOTHING, until: datetime | None = None) -> Snapshot:
    return snapshot.taken(until or datetime.now(UTC) + timedelta(minutes=1), WORDING, burst, run_id or new_id())


def reviewed(tenant: Tenant, person: Person, answer: Answer = FAKE) -> Case:
    with transaction() as session:
        return make_reviewed(session, tenant, person, answer)


def judged(
    tenant: Tenant, found: Snapshot, sides: dict[UUID, Split], status: RunStatus, *, makes: str | None = None
) -> UUID:
    """A run that had these examples, its end, and the name of the version that it made."""
    with transaction() as session:
        run = runs.ask(session, actor="test")
        lease = runs.take(session, timedelta(seconds=60))
        assert lease is not None
        examples.record(session, run.id, found, sides)
        run.model_version_id = make_version(session, makes, champion=False).id if makes else None
        runs.end(session, lease, status)
        return run.id


def test_an_example_says_everything_a_run_needs(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.IN_REVIEW, details={"category": "animal"})
        case.audit_probability = 0.25
        make_hash(session, case.image, bytes(range(32)))
        review = make_review(
            session,
            case,
            anna,
            sentences=[Sentence("Seams.", Grade.RIGHT), Sentence("Blur.", Grade.WRONG)],
            artifacts=["edges"],
        )
    (example,) = taken().examples
    assert case.image is not None
    assert (example.case, example.image, example.tenant) == (case.id, case.image.id, tenant.id)
    assert (example.sha256, example.group, example.pdq) == (
        case.image.sha256,
        case.image.sha256,
        bytes(range(32)).hex(),
    )
    assert (example.label, example.text) == (Label.FAKE, "This is a fake image. Seams.")
    assert (example.artifacts, example.category, example.reviews) == (("edges",), "animal", (review.id,))
    assert (example.reason, example.probabilities.audit) == (ReviewReason.UNCERTAIN, 0.25)
    assert example.new


def test_it_holds_no_bytes_and_is_stored_once_under_its_digest(tenant: Tenant, anna: Person, bucket: str) -> None:
    store = Storage(settings())
    reviewed(tenant, anna)
    until = datetime.now(UTC) + timedelta(minutes=1)
    found = taken(until=until)
    stored = snapshot.kept(store, found)
    assert snapshot.kept(store, taken(until=until)) == stored
    assert stored.key == snapshot_key(stored.digest)
    assert snapshot.read(store, stored.digest) == found
    assert set(json.loads(found.to_bytes())["examples"][0]) == set(snapshot.Example.model_fields)


def test_a_snapshot_that_was_tampered_with_or_is_not_there_is_refused(
    tenant: Tenant, anna: Person, bucket: str
) -> None:
    store = Storage(settings())
    reviewed(tenant, anna)
    stored = snapshot.kept(store, taken())
    store.put(stored.key, store.get(stored.key, max_bytes=10**6).replace(b"fake", b"real"), "application/json")
    with pytest.raises(ConfigurationError, match="have been changed"):
        snapshot.read(store, stored.digest)
    with pytest.raises(NotFound, match="no snapshot 0123"):
        snapshot.read(store, "0123")


def test_consent_that_was_never_given_or_was_withdrawn(tenant: Tenant, anna: Person, db: Engine) -> None:
    with transaction() as session:
        silent = make_tenant(session)
        make_reviewed(session, silent, make_person(session, silent))
    reviewed(tenant, anna)
    found = taken()
    assert ([each.tenant for each in found.examples], found.left_out) == ([tenant.id], {"no_consent": 1})
    with transaction() as session:
        allow(session, tenant, False)
    found = taken()
    assert (found.examples, found.left_out) == ((), {"no_consent": 2})


def _restrict(session: Session, case: Case, anna: Person, lead: Person) -> None:
    session.get_one(Case, case.id).restricted = True


def _same_bytes_elsewhere(session: Session, case: Case) -> tuple[Tenant, Person, Image]:
    """Another platform that sent the same bytes, and somebody who reviews for it."""
    elsewhere = make_consenting(session)
    assert case.image is not None
    same = make_image(session, elsewhere)
    same.sha256 = case.image.sha256
    return elsewhere, make_person(session, elsewhere), same


def _restrict_elsewhere(session: Session, case: Case, anna: Person, lead: Person) -> None:
    """Another platform sent the same bytes, and there they are illegal content."""
    elsewhere, _, same = _same_bytes_elsewhere(session, case)
    make_case(session, elsewhere, CaseStatus.IN_REVIEW, image=same).restricted = True


def _erase(session: Session, case: Case, anna: Person, lead: Person) -> None:
    assert case.image_id is not None
    erasure.erase(session, case.tenant_id, case.image_id, actor="test", request_id=None)


def _forget(session: Session, case: Case, anna: Person, lead: Person) -> None:
    """Its verdict was kept for its time. Without its sentences, the answer to learn would be an opening alone."""
    erasure.forget_verdicts(session, [case.image_id], [case.id])  # type: ignore[list-item]


def _appeal(session: Session, case: Case, anna: Person, lead: Person) -> Case:
    return cases.appeal(session, case.tenant_id, case.id, actor="test", message=None)


def _appeal_cannot_tell(session: Session, case: Case, anna: Person, lead: Person) -> None:
    make_review(session, _appeal(session, case, anna, lead), anna, CANNOT_TELL)


def _answer_again_otherwise(session: Session, case: Case, anna: Person, lead: Person) -> None:
    """Another platform sent the same bytes, and its moderator says otherwise."""
    tenant, person, image = _same_bytes_elsewhere(session, case)
    make_reviewed(session, tenant, person, REAL, image=image)


def _answer_again_the_same(session: Session, case: Case, anna: Person, lead: Person) -> None:
    tenant, person, image = _same_bytes_elsewhere(session, case)
    make_reviewed(session, tenant, person, FAKE, image=image)


@pytest.mark.parametrize(
    ("change", "left", "left_out"),
    [
        (_restrict, 0, {"restricted": 1}),
        (_restrict_elsewhere, 0, {"restricted": 1}),
        (_erase, 0, {"erased": 1}),
        (_forget, 0, {"forgotten": 1}),
        (_appeal, 0, {"open": 1}),
        (_appeal_cannot_tell, 0, {"cannot_tell": 1}),
        (_answer_again_otherwise, 0, {"contradicted": 2}),
        (_answer_again_the_same, 1, {"duplicate": 1}),
    ],
)
def test_what_is_left_out_and_counted(
    tenant: Tenant, anna: Person, lead: Person, change: Change, left: int, left_out: dict[str, int]
) -> None:
    case = reviewed(tenant, anna)
    assert len(taken().examples) == 1
    with transaction() as session:
        change(session, case, anna, lead)
    found = taken()
    assert (len(found.examples), found.left_out) == (left, left_out)


def test_cannot_tell_is_left_out(tenant: Tenant, anna: Person) -> None:
    with transaction() as session:
        make_review(session, make_case(session, tenant, CaseStatus.IN_REVIEW), anna, CANNOT_TELL)
    found = taken()
    assert (found.examples, found.left_out) == ((), {"cannot_tell": 1})


def test_an_appeals_outcome_wins_over_what_came_before(tenant: Tenant, anna: Person, lead: Person) -> None:
    case = reviewed(tenant, anna, FAKE)
    with transaction() as session:
        make_review(session, _appeal(session, case, anna, lead), lead, REAL)
    (example,) = taken().examples
    assert (example.label, example.text, len(example.reviews)) == (Label.REAL, "This is a real image.", 2)


def test_two_who_disagree_are_left_out_until_a_lead_settles_it(tenant: Tenant, anna: Person, lead: Person) -> None:
    with transaction() as session:
        ben = make_person(session, tenant)
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        make_review(session, case, anna, FAKE, decides=False)
        make_review(session, case, ben, REAL, reason=ReviewReason.SECOND_OPINION, decides=False)
    found = taken()
    assert (found.examples, found.left_out) == ((), {"open": 1})
    with transaction() as session:
        make_review(session, session.get_one(Case, case.id), lead, REAL, reason=ReviewReason.SECOND_OPINION)
    assert [each.label for each in taken().examples] == [Label.REAL]


def test_two_who_agree_are_one_example(tenant: Tenant, anna: Person, lead: Person) -> None:
    with transaction() as session:
        case = make_case(session, tenant, CaseStatus.IN_REVIEW)
        make_review(session, case, anna, FAKE, decides=False)
        make_review(session, case, lead, FAKE, reason=ReviewReason.SECOND_OPINION)
    assert [(each.label, len(each.reviews)) for each in taken().examples] == [(Label.FAKE, 2)]


def test_only_answers_that_have_taken_effect_by_then_and_were_not_undone(tenant: Tenant, anna: Person) -> None:
    case = reviewed(tenant, anna)
    until = datetime.now(UTC)
    reviewed(tenant, anna)
    assert [each.case for each in taken(until=until).examples] == [case.id]
    with transaction() as session:
        for review in session.query(Review):
            review.undone_at = datetime.now(UTC)
    assert taken().examples == ()


def test_near_copies_and_bursts_share_a_group(tenant: Tenant, anna: Person) -> None:
    early = datetime.now(UTC) - timedelta(hours=1)
    with transaction() as session:
        made = [make_reviewed(session, tenant, anna) for _ in range(5)]
        for case, minutes in zip(made, (0, 0, 5, 10, 15), strict=True):
            session.get_one(Submission, case.submission_id).created_at = early + timedelta(minutes=minutes)
        make_hash(session, made[2].image, bytes(32))
        make_hash(session, made[3].image, bytes(31) + b"\x0f")
        session.add(SimilarImage(image_id=made[3].image_id, other_id=made[4].image_id, distance=40))
    found = {each.case: each.group for each in taken(burst=timedelta(seconds=2)).examples}
    burst, alike = {found[case.id] for case in made[:2]}, {found[case.id] for case in made[2:]}
    assert len(burst) == len(alike) == 1
    assert burst != alike


def test_what_was_judged_is_not_fresh_and_what_the_champion_learned_is_not_new(tenant: Tenant, anna: Person) -> None:
    """Whatever the gate said of it; and what was rolled back, nobody has learned."""
    promote("base")
    case = reviewed(tenant, anna)
    first = taken()
    judged(tenant, first, {case.id: Split.TRAIN}, RunStatus.REJECTED, makes="better")
    assert (news(taken()), taken().fresh) == ({case.id: True}, 0)
    promote("better")
    later = reviewed(tenant, anna)
    assert (news(taken()), taken().fresh) == ({case.id: False, later.id: True}, 1)
    judged(tenant, taken(), {case.id: Split.TRAIN, later.id: Split.TRAIN}, RunStatus.PROMOTED, makes="best")
    promote("best")
    assert news(taken()) == {case.id: False, later.id: False}
    promote("better")
    assert news(taken()) == {case.id: False, later.id: True}, "by hand, an earlier version came back"
    promote("best")
    with transaction() as session:
        model_versions.rollback(session, actor="test")
    assert news(taken()) == {case.id: False, later.id: True}
    with transaction() as session:
        for _ in range(3):
            model_versions.rollback(session, actor="test")
    assert news(taken()) == {case.id: True, later.id: True}


def test_a_champion_of_another_kind_has_learned_nothing_of_what_came_before(tenant: Tenant, anna: Person) -> None:
    promote("demo")
    case = reviewed(tenant, anna)
    judged(tenant, taken(), {case.id: Split.TRAIN}, RunStatus.PROMOTED, makes="demo, retrained")
    promote("demo, retrained")
    promote("merged by hand")
    assert news(taken()) == {case.id: False}, "as far as anybody knows"
    with transaction() as session:
        version = model_versions.version_named(session, "merged by hand")
        version.manifest = {**version.manifest, "kind": "fakevlm"}
    assert news(taken()) == {case.id: True}


def promote(name: str) -> None:
    with transaction() as session:
        make_version(session, name)


def news(found: Snapshot) -> dict[UUID, bool]:
    return {each.case: each.new for each in found.examples}


def test_hashes_of_images_with_little_to_see_are_not_compared_here_nor_by_the_gate(
    tenant: Tenant, anna: Person
) -> None:
    """Two blank pages have one hash: on both sides, they would have every run rejected as a leak."""
    with transaction() as session:
        for _ in range(2):
            make_hash(session, make_reviewed(session, tenant, anna).image, bytes(32), quality=groups.MIN_QUALITY - 1)
    one, other = taken().examples
    assert one.group != other.group
    assert (one.pdq, other.pdq) == (None, None)


def test_the_history_of_a_group_comes_with_it_also_of_images_that_may_not_be_learned_from_any_more(
    tenant: Tenant, anna: Person
) -> None:
    """The restricted image was measured on: what is near it must not be trained on, as it must not be were it free."""
    old, unrelated = reviewed(tenant, anna), reviewed(tenant, anna)
    with transaction() as session:
        make_hash(session, old.image, bytes(32))
    sides = {old.id: Split.HOLDOUT, unrelated.id: Split.TRAIN}
    judged(tenant, taken(), sides, RunStatus.FAILED)
    with transaction() as session:
        for case in (old, unrelated):
            session.get_one(Case, case.id).restricted = True
        copy = make_reviewed(session, tenant, anna)
        make_hash(session, copy.image, b"\x01" + bytes(31))
    found = taken()
    assert old.image is not None
    assert [(row.sha256, row.split) for row in found.earlier] == [(old.image.sha256, Split.HOLDOUT)]
    assert examples.divided(found, 0.0) == {copy.id: Split.HOLDOUT}


def test_of_an_erased_image_its_bytes_are_known_again_and_what_it_was_like_is_not(
    tenant: Tenant, anna: Person, lead: Person
) -> None:
    """Its hash went with it, and so did its place among what is measured on: a near copy leaks nothing."""
    old = reviewed(tenant, anna)
    with transaction() as session:
        make_hash(session, old.image, bytes(32))
    judged(tenant, taken(), {old.id: Split.HOLDOUT}, RunStatus.PROMOTED)
    with transaction() as session:
        _erase(session, old, anna, lead)
        near = make_reviewed(session, tenant, anna)
        make_hash(session, near.image, b"\x01" + bytes(31))
        again = make_reviewed(session, tenant, anna, image=make_same(session, old))
    assert examples.divided(taken(), 0.0) == {near.id: Split.TRAIN, again.id: Split.HOLDOUT}


def make_same(session: Session, case: Case) -> Image:
    """The same bytes, sent once more."""
    assert case.image is not None
    image = make_image(session, session.get_one(Tenant, case.tenant_id))
    image.sha256 = case.image.sha256
    session.flush()
    return image


def test_a_growing_group_never_moves_what_was_learned_into_the_holdout(tenant: Tenant, anna: Person) -> None:
    learned, held = reviewed(tenant, anna), reviewed(tenant, anna)
    with transaction() as session:
        make_hash(session, learned.image, bytes(32))
        make_hash(session, held.image, b"\xff" * 5 + bytes(27))
    judged(tenant, taken(), {learned.id: Split.TRAIN, held.id: Split.HOLDOUT}, RunStatus.PROMOTED)
    with transaction() as session:
        beside = make_reviewed(session, tenant, anna)
        make_hash(session, beside.image, b"\x01" + bytes(31))
    assert examples.divided(taken(), 0.999) == {
        learned.id: Split.TRAIN,
        held.id: Split.HOLDOUT,
        beside.id: Split.TRAIN,
    }
    with transaction() as session:
        between = make_reviewed(session, tenant, anna)
        make_hash(session, between.image, b"\xff\xff\xf0" + bytes(29))
    assert set(examples.divided(taken(), 0.5).values()) == {Split.LEFT_OUT}


def test_a_runs_own_examples_are_no_history_and_other_runs_are_one(tenant: Tenant, anna: Person) -> None:
    case = reviewed(tenant, anna)
    run_id = judged(tenant, taken(), {case.id: Split.HOLDOUT}, RunStatus.FAILED)
    assert taken(run_id).earlier == ()
    judged(tenant, taken(), {case.id: Split.HOLDOUT}, RunStatus.FAILED)
    with transaction() as session:
        assert len(snapshot._history(session, new_id())) == 1, "however many nights it was there"
    assert len(taken().earlier) == 1


def test_recording_again_replaces(tenant: Tenant, anna: Person) -> None:
    case = reviewed(tenant, anna)
    run_id = judged(tenant, taken(), {case.id: Split.HOLDOUT}, RunStatus.FAILED)
    for side in (Split.TRAIN, Split.HOLDOUT):
        with transaction() as session:
            examples.record(session, run_id, taken(), {case.id: side})
        with transaction() as session:
            assert examples.sides_of(session, run_id) == {case.id: side}
