"""A snapshot: everything that may be learned from reviews at one moment, as a JSON document that never changes.

It names images by id and hash and holds no bytes, so that erasing an image stays true; what it says is enough to repeat
a run while the images exist. Only cases of tenants that allow training, never restricted ones (nor other cases of the
same image), never erased ones. It is stored under a digest of what it says. Where an image is erased afterwards, its
example becomes a tombstone, which holds nothing but the example's own digest, so that the whole still has the same one
and can still be checked. It does not know what becomes of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, contains_eager, selectinload

from moderation import model_versions
from moderation.db import FRESH, transaction
from moderation.errors import ConfigurationError, NotFound
from moderation.retraining import groups, runs
from moderation.retraining.groups import Sighting
from moderation.retraining.labels import LeftOut, Wording, agreed, answer
from moderation.storage import Storage, snapshot_key
from moderation.tables import (
    Case,
    Image,
    ImageHash,
    Membership,
    ModelVersion,
    Review,
    SimilarImage,
    Tenant,
    TrainingExample,
    TrainingRun,
)
from moderation.vocabulary import CaseStatus, DecidedBy, Label, ReviewReason, Role, Split

MAX_BYTES = 2 * 1024**3
MEDIA_TYPE = "application/json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Probabilities(_Frozen):
    """With what probability this case came to be reviewed so, where that was drawn; None where it was not."""

    blind: float | None
    second: float | None
    audit: float | None


class Example(_Frozen):
    """One reviewed case. `group` names all that are near it; `new`: the champion has not learned it.

    `pdq` is in hex, None where there is too little to see for it to be compared.
    """

    case: UUID
    image: UUID
    tenant: UUID
    sha256: str
    pdq: str | None
    width: int
    height: int
    media_type: str
    label: Label
    text: str
    artifacts: tuple[str, ...]
    category: str | None
    group: str
    reviews: tuple[UUID, ...]
    reason: ReviewReason
    blind: bool
    probabilities: Probabilities
    submitted_at: datetime
    reviewed_at: datetime
    new: bool


class Tombstone(_Frozen):
    """Where an example was whose image has been erased since: its place in the list, and the digest of what it said."""

    place: int
    case: UUID
    image: UUID
    digest: str


class Earlier(_Frozen):
    """An image that an earlier run had on one side, and that belongs to a group of this snapshot."""

    sha256: str
    group: str
    split: Split


class Snapshot(_Frozen):
    """The document. `fresh`: how many of its images no judged run has seen; `left_out` counts cases by reason.

    `examples` are those that may still be learned from, as far as it knows; whoever reads it meets no others.
    """

    format: Literal[2] = 2
    taken_at: datetime
    question: str
    burst_s: float
    examples: tuple[Example, ...]
    earlier: tuple[Earlier, ...]
    fresh: int
    left_out: dict[str, int]
    tombstones: tuple[Tombstone, ...] = ()

    def to_bytes(self) -> bytes:
        """The same snapshot is always the same bytes."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    def digest(self) -> str:
        """What it is stored under: the same whether an example is there or its tombstone."""
        head = self.model_dump_json(exclude={"examples", "tombstones"})
        return _sha256("\n".join([head, *(digest for _, digest in sorted(self._places()))]))

    def without(self, images: Collection[UUID]) -> Snapshot:
        """The same with tombstones for what it says of these images."""
        places = [place for place, _ in self._places() if place not in {stone.place for stone in self.tombstones}]
        placed = list(zip(places, self.examples, strict=True))
        stones = [
            Tombstone(place=place, case=each.case, image=each.image, digest=_digest_of(each))
            for place, each in placed
            if each.image in images
        ]
        left = tuple(each for each in self.examples if each.image not in images)
        return self.model_copy(update={"examples": left, "tombstones": (*self.tombstones, *stones)})

    def _places(self) -> list[tuple[int, str]]:
        """The place and the digest of every example there ever was: those that are left, then those that are gone."""
        gone = {stone.place: stone.digest for stone in self.tombstones}
        free = [place for place in range(len(self.examples) + len(gone)) if place not in gone]
        return [*zip(free, map(_digest_of, self.examples), strict=True), *gone.items()]


def _digest_of(example: Example) -> str:
    return _sha256(example.model_dump_json())


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Stored:
    """Where a snapshot is: the key names the digest, the sha256 of its bytes in hex."""

    key: str
    digest: str


@dataclass(frozen=True)
class _Candidate:
    case: Case
    image: Image
    reviews: Sequence[Review]
    label: Label


@dataclass(frozen=True)
class _Remembered:
    """An image that earlier runs had on one side."""

    image_id: UUID
    sha256: str
    tenant_id: UUID
    split: Split


def taken(until: datetime, wording: Wording, burst: timedelta, run_id: UUID) -> Snapshot:
    """Everything that may be learned from the reviews that had taken effect by `until`.

    `run_id` is the run it is taken for, whose own examples are no history.
    """
    with transaction() as session:
        candidates, left_out = _candidates(session, until)
        history = _history(session, run_id)
        sightings = _sightings(session, candidates, history)
        alike = _alike(session, sightings)
        learned, judged = _learned(session), _judged(session)
    named = groups.grouped(sightings, alike, burst)
    group_of = {sighting.image_id: group for sighting, group in zip(sightings, named, strict=True)}
    pdqs = {sighting.image_id: sighting.comparable for sighting in sightings}
    examples = [
        _example(each, wording, group_of[each.image.id], pdqs[each.image.id], each.image.sha256 not in learned)
        for each in candidates
    ]
    present = {example.group for example in examples}
    earlier = {
        Earlier(sha256=row.sha256, group=group_of[row.image_id], split=row.split)
        for row in history
        if group_of[row.image_id] in present
    }
    return Snapshot(
        taken_at=until,
        question=wording.question,
        burst_s=burst.total_seconds(),
        examples=tuple(examples),
        earlier=tuple(sorted(earlier, key=lambda row: (row.group, row.sha256, row.split))),
        fresh=sum(example.sha256 not in judged for example in examples),
        left_out={reason.value: left_out[reason] for reason in LeftOut if left_out[reason]},
    )


def _candidates(session: Session, until: datetime) -> tuple[list[_Candidate], Counter[LeftOut]]:
    """The cases to learn from, one for each sha256, oldest first; and how many are left out, by reason."""
    left_out: Counter[LeftOut] = Counter({LeftOut.NO_CONSENT: _without_consent(session, until)})
    leads = _leads(session)
    forbidden = set(session.scalars(select(Image.sha256).join(Case, Case.image_id == Image.id).where(Case.restricted)))
    found: dict[str, list[_Candidate]] = defaultdict(list)
    for case, reviews in _reviewed(session, until).items():
        image = case.image
        assert image is not None
        outcome = _outcome(case, image, reviews, leads[case.tenant_id], forbidden)
        if isinstance(outcome, LeftOut):
            left_out[outcome] += 1
        else:
            found[image.sha256].append(_Candidate(case, image, reviews, outcome))
    kept = []
    for same in found.values():
        if len({each.label for each in same}) > 1:
            left_out[LeftOut.CONTRADICTED] += len(same)
        else:
            left_out[LeftOut.DUPLICATE] += len(same) - 1
            kept.append(max(same, key=lambda each: (each.reviews[-1].settled_at, each.case.id)))
    return sorted(kept, key=lambda each: each.case.id), left_out


def _outcome(
    case: Case, image: Image, reviews: Sequence[Review], leads: Collection[UUID], forbidden: Collection[str]
) -> Label | LeftOut:
    if case.restricted or image.sha256 in forbidden:
        return LeftOut.RESTRICTED
    if image.erased_at is not None:
        return LeftOut.ERASED
    if case.verdict_forgotten_at is not None:
        return LeftOut.FORGOTTEN
    outcome = agreed(reviews, leads)
    if case.status is not CaseStatus.DECIDED:
        return outcome if outcome is LeftOut.CANNOT_TELL else LeftOut.OPEN
    if isinstance(outcome, Label) and (case.decided_by is not DecidedBy.MODERATOR or case.label is not outcome):
        return LeftOut.DISAGREEMENT
    return outcome


def _settled(until: datetime) -> tuple[ColumnElement[bool], ...]:
    """Of reviews that had taken effect by then."""
    return Review.settled_at <= until, Review.undone_at.is_(None)


def _reviewed(session: Session, until: datetime) -> dict[Case, list[Review]]:
    """Cases of tenants that allow training, each with its reviews in the order in which they took effect."""
    query = select(Review, Case).join(Case, Case.id == Review.case_id).join(Tenant, Tenant.id == Case.tenant_id)
    query = query.join(Case.image).join(Case.submission).where(Tenant.allow_training)
    query = query.options(
        selectinload(Review.sentences), contains_eager(Case.image), contains_eager(Case.submission)
    ).order_by(Review.settled_at, Review.id)
    found: dict[Case, list[Review]] = defaultdict(list)
    for review, case in session.execute(query.where(*_settled(until)), execution_options=FRESH):
        found[case].append(review)
    return found


def _without_consent(session: Session, until: datetime) -> int:
    query = select(func.count(Review.case_id.distinct())).join(Tenant, Tenant.id == Review.tenant_id)
    return int(session.execute(query.where(~Tenant.allow_training, *_settled(until))).scalar_one())


def _leads(session: Session) -> Mapping[UUID, set[UUID]]:
    """Of each tenant, the users who are its leads."""
    roles = [role for role in Role if role.covers(Role.LEAD)]
    found: dict[UUID, set[UUID]] = defaultdict(set)
    for member in session.scalars(select(Membership).where(Membership.role.in_(roles))):
        found[member.tenant_id].add(member.user_id)
    return found


def _history(session: Session, run_id: UUID) -> Sequence[_Remembered]:
    """What earlier runs have had on a side, each once, however many nights it was there."""
    columns = TrainingExample.image_id, TrainingExample.sha256, TrainingExample.tenant_id, TrainingExample.split
    query = select(*columns).where(TrainingExample.run_id != run_id, TrainingExample.split != Split.LEFT_OUT)
    return [_Remembered(*row) for row in session.execute(query.distinct().order_by(*columns))]


def _learned(session: Session) -> set[str]:
    """The sha256 of every image that the champion, or one of those it came after, had as an example.

    What was rolled back has been learned by nobody; a version that was promoted against the gate has learned; and one
    of another kind, as FakeVLM is after the demo model, has learned nothing of what those before it did.
    """
    names = model_versions.line(session)
    if not names:
        return set()
    line = names[: names.index(names[-1]) + 1]  # promoted again by hand, it knows no more than it did
    kind = model_versions.version_named(session, names[-1]).manifest["kind"]
    query = select(TrainingExample.sha256).join(TrainingRun, TrainingRun.id == TrainingExample.run_id)
    query = query.join(ModelVersion, ModelVersion.id == TrainingRun.model_version_id)
    of_line = ModelVersion.name.in_(line), ModelVersion.manifest["kind"].astext == kind
    return set(session.scalars(query.where(*of_line).distinct()))


def _judged(session: Session) -> set[str]:
    """The sha256 of every image that was an example of a run which came to its gate."""
    query = select(TrainingExample.sha256).join(TrainingRun, TrainingRun.id == TrainingExample.run_id)
    return set(session.scalars(query.where(TrainingRun.status.in_(runs.JUDGED)).distinct()))


def _sightings(session: Session, candidates: Sequence[_Candidate], history: Sequence[_Remembered]) -> list[Sighting]:
    """Every candidate's image, and those that are only remembered."""
    known: dict[UUID, tuple[str, UUID, datetime | None]] = {
        each.image.id: (each.image.sha256, each.case.tenant_id, each.case.submission.created_at) for each in candidates
    }
    for row in history:
        known.setdefault(row.image_id, (row.sha256, row.tenant_id, None))
    query = select(ImageHash).join(Image, Image.id == ImageHash.image_id)
    hashes = {row.image_id: row for row in session.scalars(query) if row.image_id in known}
    return [
        Sighting(image_id, sha256, tenant_id, sent_at, found.pdq if found else None, found.quality if found else 0)
        for image_id, (sha256, tenant_id, sent_at) in known.items()
        for found in (hashes.get(image_id),)
    ]


def _alike(session: Session, sightings: Sequence[Sighting]) -> list[tuple[UUID, UUID]]:
    ids = {sighting.image_id for sighting in sightings}
    rows = session.execute(select(SimilarImage.image_id, SimilarImage.other_id))
    return [(one, other) for one, other in rows if one in ids and other in ids]


def _example(each: _Candidate, wording: Wording, group: str, pdq: bytes | None, new: bool) -> Example:
    case, image, reviews = each.case, each.image, each.reviews
    agreeing = [review for review in reviews if review.answer.value == each.label.value]
    deciding = agreeing[-1]
    assert deciding.settled_at is not None
    return Example(
        case=case.id,
        image=image.id,
        tenant=case.tenant_id,
        sha256=image.sha256,
        pdq=pdq.hex() if pdq else None,
        width=image.width,
        height=image.height,
        media_type=image.media_type,
        label=each.label,
        text=answer(reviews, each.label, wording),
        artifacts=tuple(sorted({artifact for review in agreeing for artifact in review.artifacts})),
        category=case.category,
        group=group,
        reviews=tuple(review.id for review in reviews),
        reason=reviews[0].reason,
        blind=reviews[0].blind,
        probabilities=Probabilities(
            blind=case.blind_probability, second=case.second_probability, audit=case.audit_probability
        ),
        submitted_at=case.submission.created_at,
        reviewed_at=deciding.settled_at,
        new=new,
    )


def kept(storage: Storage, snapshot: Snapshot) -> Stored:
    """Store a snapshot; the same again is the same object, with tombstones or without. Raises StorageUnavailable."""
    digest = snapshot.digest()
    key = snapshot_key(digest)
    if not storage.exists(key):
        storage.put(key, snapshot.to_bytes(), MEDIA_TYPE)
    return Stored(key, digest)


def redact(storage: Storage, snapshot: Snapshot, images: Collection[UUID]) -> None:
    """Put tombstones into a stored snapshot for what it says of these images. Raises StorageUnavailable."""
    redacted = snapshot.without(images)
    storage.put(snapshot_key(redacted.digest()), redacted.to_bytes(), MEDIA_TYPE)


def read(storage: Storage, digest: str) -> Snapshot:
    """A snapshot by its digest, checked. Raises NotFound, ConfigurationError where it was tampered with."""
    try:
        data = storage.get(snapshot_key(digest), max_bytes=MAX_BYTES)
    except NotFound:
        raise NotFound(
            f"There is no snapshot {digest}: give a run's id, or the digest that `telltale retrain` says."
        ) from None
    try:
        snapshot = Snapshot.model_validate_json(data)
    except ValidationError as error:
        raise ConfigurationError(f"Snapshot {digest} is broken, or of another version of Telltale: {error}") from error
    if snapshot.digest() != digest:
        raise ConfigurationError(f"Snapshot {digest} is not what was stored: its bytes have been changed.")
    return snapshot
