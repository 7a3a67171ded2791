"""`POST /v1/uploads`: where to send a large file, straight to the object store and not through the api."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, Shown
from api.process import current
from moderation import submissions
from moderation.vocabulary import Scope

api = APIBlueprint("uploads", __name__, abp_tags=[Tag(name="Submissions")], abp_security=SECURITY)


class UploadShown(Shown):
    """A form to send to the object store: every field of `fields`, then the file as `file`, as multipart/form-data."""

    id: UUID = Field(description="for `upload_id` of POST /v1/submissions, once the file has arrived")
    url: str = Field(description="where to send the form", examples=["https://store.example.com/telltale"])
    fields: dict[str, str] = Field(description="the form's fields, as they are")
    max_bytes: int = Field(description="the store refuses more")
    expires_at: datetime = Field(description="an hour from now")


@api.post(
    "/v1/uploads",
    operation_id="beginUpload",
    summary="Begin a large upload",
    responses={201: UploadShown} | problems.declared(401, 403, 429),
)
@requires(Scope.SUBMISSIONS_WRITE)
def begin_upload() -> Answer:
    """The file may arrive until `expires_at`, and be submitted until then; submitting it keeps a copy of its own."""
    process = current()
    upload, form = submissions.offer_upload(caller().tenant_id, storage=process.storage, settings=process.settings)
    shown = UploadShown(
        id=upload.id,
        url=form["url"],
        fields=form["fields"],
        max_bytes=process.settings.max_upload_bytes,
        expires_at=upload.expires_at,
    )
    return shown.model_dump(mode="json"), HTTPStatus.CREATED
