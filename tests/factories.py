"""Rows for tests, each in a line: a tenant, its key, an image, a submission, a case, an endpoint, a model version.

Every function takes an open session and flushes what it makes; the test decides when to commit. Cases are opened and
moved by moderation/cases.py itself, so they come with the events and deliveries they would have in earnest. Nothing
here touches the object store: `make_image` makes a row and no bytes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from moderation import cases, model_versions, screening, sealing, signing, tenants
from moderation.db import new_id
from moderation.leases import Lease
from moderation.policy import Thresholds
from moderation.screening import Reading
from moderation.tables import Case, Endpoint, Event, Image, ImageHash, ModelVersion, Submission, Tenant, Verdict
from moderation.vocabulary import CaseStatus, DecidedBy, FailureReason, Label, Priority, ReviewReason, Scope

_numbers = itertools.count(1)
LEASE = timedelta(seconds=30)


def make_tenant(session: Session, name: str | None = None, thresholds: Thresholds | None = None) -> Tenant:
    """A tenant with the default policy, or with `thresholds` as its second version."""
    tenant = tenants.create_tenant(session, name or f"tenant {next(_numbers)}")
    if thresholds is not None:
        tenants.set_policy(session, tenant.id, thresholds)
    return tenant


def make_key(session: Session, tenant: Tenant, scopes: Sequence[Scope] = tuple(Scope)) -> str:
    """A new key's token, by default with every scope."""
    return tenants.create_key(session, tenant.id, "test", scopes)[1]


def make_image(
    session: Session, tenant: Tenant, content: bytes | None = None, *, frames: int = 1, exhibited: bool = False
) -> Image:
    """An image's row; `content` only names it (by its sha256), nothing is stored.

    `exhibited`: as if it had been screened, with a rendition, a provenance that says nothing, and a poor hash.
    """
    content = content if content is not None else f"image {next(_numbers)}".encode()
    image_id = new_id()
    image = Image(
        id=image_id,
        tenant_id=tenant.id,
        sha256=hashlib.sha256(content).hexdigest(),
        s3_key=f"originals/{tenant.id}/{image_id}",
        media_type="image/png",
        width=64,
        height=48,
        frames=frames,
        bytes=len(content),
    )
    session.add(image)
    session.flush()
    if exhibited:
        image.rendition_key, image.provenance = f"renditions/{tenant.id}/{image_id}", {}
        session.add(ImageHash(image_id=image_id, tenant_id=tenant.id, pdq=bytes(32), quality=0, bands=[]))
        session.flush()
    return image


def make_submission(tenant: Tenant, **fields: Any) -> Submission:
    """A submission that is not stored yet; `fields` are columns of the row, such as `image_url` or `external_id`."""
    return Submission(id=new_id(), tenant_id=tenant.id, **{"details": {}, "request_id": "req_test", **fields})


def make_case(
    session: Session,
    tenant: Tenant,
    status: CaseStatus = CaseStatus.QUEUED,
    *,
    image: Image | None = None,
    priority: Priority = Priority.NORMAL,
    **submission: Any,
) -> Case:
    """A case in any status, brought there step by step; `submission` are columns of its submission.

    A fetching case has a link and no image; every other one has an image (a new one unless given).
    """
    if status is CaseStatus.FETCHING:
        sent = make_submission(tenant, **{"image_url": "http://93.184.215.14/picture.png", **submission})
        return cases.open_case(session, sent, None, priority, actor="test")
    sent = make_submission(tenant, **submission)
    case = cases.open_case(session, sent, image or make_image(session, tenant), priority, actor="test")
    if status is not CaseStatus.QUEUED:
        take_case(session, case)
        _end(session, case, status)
    session.flush()
    return case


def _end(session: Session, case: Case, status: CaseStatus) -> None:
    """From screening to where the case should be."""
    if status is CaseStatus.FAILED:
        cases.fail(session, case, FailureReason.UNDECODABLE, "It was broken.")
    elif status in (CaseStatus.DECIDED, CaseStatus.IN_REVIEW):
        version = champion_or_new(session)
        fake = status is CaseStatus.DECIDED
        verdict = make_verdict(session, case, version, 0.97 if fake else 0.5)
        cases.record_verdict(session, case, verdict, tenants.policy_of(session, case.tenant_id))
        if fake:
            cases.decide(session, case, Label.FAKE, DecidedBy.POLICY)
        else:
            cases.send_to_review(session, case, ReviewReason.UNCERTAIN)


def take_case(session: Session, case: Case, lease: timedelta = LEASE) -> Lease:
    """A worker's lease on a case that waits."""
    waits_for = (CaseStatus.FETCHING,) if case.status is CaseStatus.FETCHING else screening.SCREENING
    session.flush()
    taken = cases.take(session, case.id, statuses=waits_for, lease=lease)
    assert taken is not None, f"case {case.id} is {case.status} and could not be taken"
    if case in session:
        session.refresh(case)
    return taken


def make_verdict(session: Session, case: Case, version: ModelVersion, p_fake: float) -> Verdict:
    """What `version` says of the case's image."""
    assert case.image_id is not None
    verdict = Verdict(
        image_id=case.image_id,
        model_version_id=version.id,
        label=Label.FAKE if p_fake >= 0.5 else Label.REAL,
        p_fake=p_fake,
        logit=4 * (p_fake - 0.5),
        pair_mass=0.99,
        engine="transformers",
        dtype="float32",
    )
    session.add(verdict)
    session.flush()
    return verdict


def make_reading(p_fake: float = 0.97, *, pair_mass: float = 0.99, explanation: str | None = "Seams.") -> Reading:
    """What a worker hands to screening.finish."""
    label = Label.FAKE if p_fake >= 0.5 else Label.REAL
    return Reading(label, p_fake, 4 * (p_fake - 0.5), pair_mass, "transformers", "float32", explanation)


def make_endpoint(
    session: Session,
    tenant: Tenant,
    url: str = "http://127.0.0.1:9/hook",
    event_types: Sequence[str] = (),
    secrets: Sequence[str] | None = None,
) -> Endpoint:
    """An endpoint, unchecked, so that it may be on loopback; one secret unless given."""
    endpoint = Endpoint(id=new_id(), tenant_id=tenant.id, url=url, event_types=list(event_types))
    plain = [signing.new_secret()] if secrets is None else secrets
    endpoint.secrets = [sealing.seal(secret, endpoint.id) for secret in plain]
    session.add(endpoint)
    session.flush()
    return endpoint


def make_version(session: Session, name: str | None = None, *, champion: bool = True) -> ModelVersion:
    """A model version with the parts of a manifest that are shown; there is no checkpoint behind it."""
    name = name or f"version {next(_numbers)}"
    manifest = {
        "name": name,
        "kind": "demo",
        "prompt": {"text": "<image>Does the image looks real/fake?"},
        "calibration": {"method": "none"},
    }
    digest = hashlib.sha256(name.encode()).hexdigest()
    version = model_versions.register(session, checkpoint=f"/nowhere/{name}", manifest=manifest, digest=digest)
    return model_versions.promote(session, version.id, actor="test") if champion else version


def champion_or_new(session: Session) -> ModelVersion:
    """The champion, made where there is none."""
    return model_versions.champion(session) or make_version(session)


def events_of(session: Session, case_id: UUID) -> list[str]:
    """The types of a case's events, in their order."""
    query = select(Event.type).where(Event.case_id == case_id).order_by(Event.sequence)
    return [type_.value for type_ in session.scalars(query)]
