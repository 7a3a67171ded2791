"""`POST /v1/subject-exports`: all that is kept of one person's images, as a zip."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Response
from flask_openapi3 import APIBlueprint, Tag
from pydantic import ConfigDict, Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, ExternalId, Sent, Text
from api.process import current
from moderation import subject_exports
from moderation.db import transaction
from moderation.subject_exports import MAX_EXTERNAL_IDS, Subject
from moderation.vocabulary import Scope

api = APIBlueprint("subjects", __name__, abp_tags=[Tag(name="Privacy")], abp_security=SECURITY)

ZIP = "application/zip"


def _exactly_one(schema: dict[str, Any]) -> None:
    """What `Subject.check` holds to, in the document's words."""
    by_subject = {"subject": {"type": "string"}, "external_ids": {"maxItems": 0}}
    by_ids = {"subject": {"type": "null"}, "external_ids": {"minItems": 1}}
    schema["oneOf"] = [
        {"required": ["subject"], "properties": by_subject},
        {"required": ["external_ids"], "properties": by_ids},
    ]


class SubjectBody(Sent):
    """Whose data: one of the two."""

    model_config = ConfigDict(json_schema_extra=_exactly_one)

    subject: Text | None = Field(
        default=None, min_length=1, description="exactly the `subject` of your submissions' metadata", examples=["u-17"]
    )
    external_ids: list[ExternalId] = Field(default_factory=list, max_length=MAX_EXTERNAL_IDS)


@api.post(
    "/v1/subject-exports",
    operation_id="exportSubject",
    summary="Export one person's data",
    responses={200: {"content": {ZIP: {"schema": {"type": "string", "format": "binary"}}}}}
    | problems.declared(400, 401, 403, 404, 503),
)
@requires(Scope.CASES_READ)
def export(body: SubjectBody) -> Answer:
    """Streamed as it is read, and kept nowhere. In a body, so that nobody's name is in an address that is logged."""
    process, tenant_id = current(), caller().tenant_id
    process.storage.ping()
    with transaction() as session:
        whose = Subject(body.subject, tuple(body.external_ids))
        found = subject_exports.begin(session, tenant_id, whose, actor=caller().actor)
    response = Response(subject_exports.archive(process.storage, tenant_id, found), mimetype=ZIP)
    name = f"telltale-subject-{datetime.now(UTC):%Y-%m-%d}.zip"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
