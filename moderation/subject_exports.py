"""All that is kept of one person's images, as a zip: what was sent, what was said of it, why, and the images.

A platform names a person as it does itself: by `metadata.subject` of its submissions, or by their external ids. The
archive is written as it is read, so that it is nowhere but with whoever asked. Staff are named by what they are, not by
who they are. It does not know who may ask.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, literal_column, select
from sqlalchemy.orm import Session, selectinload

from moderation import descriptions, events, statements
from moderation.db import transaction
from moderation.errors import Conflict, InvalidRequest, NotFound
from moderation.images import SUFFIXES
from moderation.storage import Storage
from moderation.tables import MAX_SUBJECT, SUBJECT, Case, Event, Image, Review, Submission
from moderation.vocabulary import EventType

BATCH = 200
MAX_EXTERNAL_IDS = 1000
EPOCH = (1980, 1, 1, 0, 0, 0)  # of files in a zip, so that the same export is the same bytes
README = """What Telltale keeps of one person's images, as of the moment of this export.

cases.jsonl       a line for each case: what was sent, the verdict, the decision, and what moderators answered
events.jsonl      a line for each thing that happened with them
statements.jsonl  a line for each decision that restricted something: its statement of reasons
images/           the images as they were sent, but those that are erased or under legal hold

Lines are JSON. Times are UTC. People who work for the platform are not named.
"""

Line = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """Whose images: those whose `metadata.subject` is exactly this, or those with these external ids."""

    subject: str | None = None
    external_ids: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises InvalidRequest unless it is one of the two."""
        if (self.subject is None) == (not self.external_ids):
            raise InvalidRequest("Say either `subject` or `external_ids`.")
        if len(self.external_ids) > MAX_EXTERNAL_IDS:
            raise InvalidRequest(f"At most {MAX_EXTERNAL_IDS} external ids at once.", pointer="/external_ids")


def begin(session: Session, tenant_id: UUID, whose: Subject, *, actor: str) -> list[UUID]:
    """The cases of a person, oldest first; and it is written down that they were exported, but not whose they are.

    Raises InvalidRequest, NotFound where there is none.
    """
    whose.check()
    found = session.scalars(_wanted(tenant_id, whose)).all()
    if not found:
        raise NotFound("There is no case of this person: check how your submissions name them.")
    by = "subject" if whose.subject is not None else "external_ids"
    after = {"by": by, "cases": len(found)}
    events.record(session, EventType.SUBJECT_EXPORTED, tenant_id=tenant_id, actor=actor, after=after)
    return list(found)


def _wanted(tenant_id: UUID, whose: Subject) -> Select[UUID]:
    query = select(Case.id).join(Case.submission).where(Submission.tenant_id == tenant_id).order_by(Case.id)
    if whose.subject is not None:
        # The first is what the index understands; subjects of which no more than the beginning is the same are others.
        begins = literal_column(SUBJECT) == whose.subject[:MAX_SUBJECT]
        return query.where(begins, Submission.details["subject"].astext == whose.subject)
    return query.where(Submission.external_id.in_(whose.external_ids))


def archive(storage: Storage, tenant_id: UUID, case_ids: Sequence[UUID]) -> Iterator[bytes]:
    """The zip, in pieces. Raises StorageUnavailable where the store goes away meanwhile: then it is cut off."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as zipped:  # type: ignore[call-overload]
        zipped.writestr(_entry("README.txt"), README)
        for name, lines in _FILES.items():
            with zipped.open(_entry(name), "w") as file:
                for some in _batches(case_ids):
                    for line in lines(tenant_id, some):
                        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    yield sink.drain()
        for image in _images(case_ids):
            try:
                data = storage.get(image.s3_key, max_bytes=image.bytes)
            except NotFound:
                continue  # erased at this moment
            zipped.writestr(_entry(_name(image), zipfile.ZIP_STORED), data)
            yield sink.drain()
    yield sink.drain()


class _Sink:
    """A file that is read while it is written, and never from its beginning."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def drain(self) -> bytes:
        """What was written since."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _entry(name: str, compression: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.compress_type = compression
    return entry


def _batches(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _cases(tenant_id: UUID, ids: Sequence[UUID]) -> Iterator[Line]:
    with transaction() as session:
        query = select(Case).where(Case.id.in_(ids), Case.tenant_id == tenant_id).order_by(Case.id)
        found = session.scalars(query.options(selectinload(Case.submission), selectinload(Case.image))).all()
        given = select(Review).where(Review.case_id.in_(ids), Review.settled_at.is_not(None)).order_by(Review.id)
        reviews = session.scalars(given.options(selectinload(Review.sentences))).all()
        held = _held(session, [case.image_id for case in found if case.image_id is not None])
        lines = [_case(case, [review for review in reviews if review.case_id == case.id], held) for case in found]
    yield from lines


def _held(session: Session, image_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these images that are under legal hold, by whichever of their cases."""
    query = select(Case.image_id).where(Case.image_id.in_(image_ids), Case.restricted)
    return {image_id for image_id in session.scalars(query) if image_id is not None}


def _case(case: Case, reviews: Sequence[Review], held: Collection[UUID]) -> Line:
    sent, left_out = case.submission, _left_out(case, held)
    return {
        **descriptions.describe(case),
        "sent": {"image_url": sent.image_url, "s3_bucket": sent.s3_bucket, "s3_object": sent.s3_object},
        "image_file": _name(case.image) if case.image is not None and left_out is None else None,
        "image_left_out": left_out,
        "provenance": case.image.provenance if case.image else None,
        "category": case.category,
        "appeal_message": case.appeal_message,
        "answers": [_answer(review) for review in reviews],
    }


def _left_out(case: Case, held: Collection[UUID]) -> str | None:
    """Why the archive has no file of the case's image; None where it has."""
    if case.image is None:
        return "never arrived"
    if case.image.erased_at is not None:
        return "erased"
    return "under legal hold" if case.image_id in held else None


def _answer(review: Review) -> Line:
    return {
        "at": review.settled_at.isoformat() if review.settled_at else None,
        "answer": review.answer.value,
        "artifacts": review.artifacts,
        "note": review.note,
        "message": review.message,
        "sentences": [
            {"said": each.said, "grade": each.grade.value if each.grade else None, "written": each.written}
            for each in review.sentences
        ],
    }


def _events(tenant_id: UUID, ids: Sequence[UUID]) -> Iterator[Line]:
    with transaction() as session:
        query = select(Event).where(Event.case_id.in_(ids), Event.tenant_id == tenant_id)
        found = session.scalars(query.order_by(Event.case_id, Event.sequence)).all()
    for event in found:
        yield {
            "case": str(event.case_id),
            "at": event.created_at.isoformat(),
            "type": event.type.value,
            "by": event.actor.partition(":")[0],
            "before": _unnamed(event.before),
            "after": _unnamed(event.after),
        }


def _unnamed(said: Mapping[str, Any] | None) -> Line | None:
    """What an event says, without who works for the platform."""
    if said is None:
        return None
    return {
        name: value.partition(":")[0] if isinstance(value, str) and value.startswith("user:") else value
        for name, value in said.items()
    }


def _statements(tenant_id: UUID, ids: Sequence[UUID]) -> Iterator[Line]:
    with transaction() as session:
        lines = []
        for case_id in ids:
            try:
                lines.append(statements.statement_of(session, tenant_id, case_id).describe())
            except Conflict:
                continue  # nothing was restricted
    yield from lines


_FILES: Mapping[str, Callable[[UUID, Sequence[UUID]], Iterator[Line]]] = {
    "cases.jsonl": _cases,
    "events.jsonl": _events,
    "statements.jsonl": _statements,
}


def _images(case_ids: Sequence[UUID]) -> Iterator[Image]:
    """Each image once, but those that are erased, or of which any case is under legal hold."""
    seen: set[UUID] = set()
    for some in _batches(case_ids):
        held = select(Case.id).where(Case.image_id == Image.id, Case.restricted).exists()
        theirs = Image.id.in_(select(Case.image_id).where(Case.id.in_(some)))
        query = select(Image).where(theirs, Image.erased_at.is_(None), ~held).order_by(Image.id)
        with transaction() as session:
            found = session.scalars(query).all()
        yield from (image for image in found if image.id not in seen)
        seen |= {image.id for image in found}


def _name(image: Image) -> str:
    return f"images/{image.id}{SUFFIXES.get(image.media_type, '')}"
