"""`POST /v1/hooks/{source_id}`: a platform's own webhook, verified before anything in it is read.

The same webhook id again gets the first one's answer and opens no second case, also where both arrive at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flask import request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api import problems
from api.auth import public
from api.bodies import Answer, Shown
from api.intake.cases import case_url
from api.places import takes_images
from api.process import current
from api.reference import SIGNATURE
from api.replay import REPLAYED_HEADER
from api.requests import request_id
from moderation import inbound, logs, sources, submissions
from moderation.inbound import Reference
from moderation.tables import Case, Source
from moderation.vocabulary import CaseStatus

api = APIBlueprint("hooks", __name__, abp_tags=[Tag(name="Webhooks in")], abp_security=[{SIGNATURE: []}])

MAX_BODY_BYTES = 1024 * 1024


class SourcePath(BaseModel):
    """Where a source is named in the path."""

    source_id: UUID = Field(description="the id that `telltale sources create` printed")


class OpenedShown(Shown):
    """A case that a webhook opened."""

    id: UUID = Field(description="the case's")
    url: str = Field(description="the case's path", examples=["/v1/cases/0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a55"])
    status: CaseStatus
    external_id: str | None = Field(description="what the source's pointer found")


class HookShown(Shown):
    """The cases that a webhook opened, one for each image it speaks of; none for S3's test event or a removal."""

    cases: list[OpenedShown] = Field(description="in the order of the body")


class CameTwice(Exception):
    """The same webhook was accepted in the same moment: undo this one."""


@api.post(
    "/v1/hooks/<uuid:source_id>",
    operation_id="takeWebhook",
    summary="Take a platform's webhook",
    responses={202: HookShown} | problems.declared(401, 404, 413, 429),
    openapi_extensions={
        "requestBody": {
            "required": True,
            "description": "what the platform sends anyway; the source says where in it the images are",
            "content": {"application/json": {"schema": {"type": "object"}, "example": {"data": {"url": "https://…"}}}},
        }
    },
)
@public
@takes_images
def take_webhook(path: SourcePath) -> Answer:
    """Signed as the source was set up. Anything but 202 means that nothing was accepted; send it again."""
    request.max_content_length = MAX_BODY_BYTES
    source = sources.source_with(path.source_id)
    logs.add(tenant_id=source.tenant_id)
    body = request.get_data(cache=False)
    headers = {name.lower(): value for name, value in request.headers.items()}
    webhook_id = inbound.verify(source, headers, body)
    known = inbound.answer_of(source.id, webhook_id)
    if known is not None:
        return _again(known)
    try:
        answer = _accept(source, webhook_id, inbound.references(source, body))
    except CameTwice:
        return _again(inbound.answer_of(source.id, webhook_id))
    return answer, HTTPStatus.ACCEPTED


def _again(answer: dict[str, Any] | None) -> Answer:
    return answer, HTTPStatus.ACCEPTED, {REPLAYED_HEADER: "true"}


def _accept(source: Source, webhook_id: str, references: list[Reference]) -> dict[str, Any]:
    answer: dict[str, Any] = {}

    def remember(session: Session, opened: Sequence[Case]) -> None:
        answer["cases"] = [_shown(case) for case in opened]
        if not inbound.remember(session, source.id, webhook_id, answer):
            raise CameTwice

    links = [(_said(source, reference), reference.link) for reference in references]
    if not links:
        return {"cases": []}
    submissions.submit_links(links, settings=current().settings, on_commit=remember)
    return answer


def _said(source: Source, reference: Reference) -> submissions.Request:
    return submissions.Request(
        tenant_id=source.tenant_id,
        actor=f"source:{source.id}",
        request_id=request_id(),
        external_id=reference.external_id,
        metadata=reference.metadata,
        source_id=source.id,
    )


def _shown(case: Case) -> dict[str, Any]:
    shown = OpenedShown(id=case.id, url=case_url(case.id), status=case.status, external_id=case.submission.external_id)
    return shown.model_dump(mode="json")
