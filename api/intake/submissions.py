"""`POST /v1/submissions`: one image, as a file, a link or a finished upload; the answer is its case.

202 means that the case and its bytes (or its link) are durable. It does not know how the image is judged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from uuid import UUID

from flask import request
from flask_openapi3 import APIBlueprint, FileStorage, Tag
from flask_openapi3.utils import parse_body, parse_form
from pydantic import ConfigDict, Field, model_validator
from werkzeug.datastructures import FileStorage as FilePart

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, CaseShown, Sent, SubmissionFields, Url
from api.intake.cases import case_url, settled_within
from api.places import takes_images
from api.process import ApiProcess, current
from api.replay import Accepted, IdempotencyHeader, accept_once
from api.requests import request_id, strict_json
from moderation import capacity, images, logs, submissions
from moderation.errors import ImageTooLarge, InvalidRequest, TelltaleError, Undecodable, UnsupportedType
from moderation.images import ImageFacts
from moderation.sandbox import SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.submissions import Link, OnCommit
from moderation.tables import Case
from moderation.vocabulary import Scope

api = APIBlueprint("submissions", __name__, abp_tags=[Tag(name="Submissions")], abp_security=SECURITY)

MAX_WAIT_S = 30
# Boundaries, part headers and the other fields of a form.
FORM_OVERHEAD_BYTES = 128 * 1024


def _exactly_one(schema: dict[str, Any]) -> None:
    """What `_one_image` checks, in the document's words."""
    schema["oneOf"] = [
        {"required": [given], "properties": {given: {"type": "string"}, left_out: {"type": "null"}}}
        for given, left_out in (("image_url", "upload_id"), ("upload_id", "image_url"))
    ]


class SubmissionBody(SubmissionFields):
    """A submission without bytes: a link that a worker reads, or an upload that has arrived."""

    model_config = ConfigDict(json_schema_extra=_exactly_one)

    image_url: Url | None = Field(default=None, description="http(s), public", examples=["https://example.com/a.jpg"])
    upload_id: UUID | None = Field(default=None, description="from POST /v1/uploads")

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if (self.image_url is None) == (self.upload_id is None):
            raise ValueError("give either image_url or upload_id; to send a file, use multipart/form-data")
        return self


class SubmissionForm(SubmissionFields):
    """A submission with its image as a file."""

    image: FileStorage = Field(description="exactly one file part of this name")


class Wait(Sent):
    """How long to wait for the verdict."""

    wait: float = Field(default=0, ge=0, le=MAX_WAIT_S, description="seconds; 0 answers at once")


@dataclass(frozen=True)
class Submission:
    """A request taken apart: exactly one of the three is there."""

    said: submissions.Request
    data: bytes | None = None
    upload_id: UUID | None = None
    image_url: str | None = None

    def fingerprint(self) -> str:
        """Of what it is the same request again."""
        image = hashlib.sha256(self.data).hexdigest() if self.data is not None else None
        return submissions.fingerprint(self.said, f"{image}|{self.upload_id}|{self.image_url}")


_form, _form_schemas = parse_form(SubmissionForm)
_json, _json_schemas = parse_body(SubmissionBody)
api.components_schemas.update(_form_schemas | _json_schemas)


@api.post(
    "/v1/submissions",
    operation_id="submitImage",
    summary="Submit one image",
    responses={202: CaseShown, 200: CaseShown} | problems.declared(401, 403, 404, 409, 413, 415, 422, 429),
    openapi_extensions={"requestBody": {"required": True, "content": _form | _json}},
)
@requires(Scope.SUBMISSIONS_WRITE)
@takes_images
def submit(header: IdempotencyHeader, query: Wait) -> Answer:
    """Answers 202 with the case; with `wait`, 200 with the settled case if it settles in time."""
    submission = _read()
    accepted = accept_once(header.key, submission.fingerprint, lambda on_commit: _open_case(submission, on_commit))
    return _answer(accepted, query.wait)


def _answer(accepted: Accepted, wait_s: float) -> Answer:
    case = accepted.cases[0]
    logs.add(case_id=case["id"])
    headers = {"Location": case_url(case["id"]), **accepted.headers}
    settled = settled_within(UUID(case["id"]), wait_s) if wait_s else None
    if settled is not None:
        return settled, HTTPStatus.OK, headers
    return case, HTTPStatus.ACCEPTED, headers


def _read() -> Submission:
    if request.mimetype == "multipart/form-data":
        data, fields = _from_form(current())
        return Submission(said(fields), data=data)
    if request.mimetype == "application/json":
        body = SubmissionBody.model_validate(request.get_json())
        return Submission(said(body), upload_id=body.upload_id, image_url=body.image_url)
    raise UnsupportedType(
        "Send multipart/form-data with the image as the file part 'image', or application/json with image_url or "
        f"upload_id; not {request.mimetype or 'a body without a Content-Type'}."
    )


def said(fields: SubmissionFields) -> submissions.Request:
    """What the caller said, and who the caller is."""
    return submissions.Request(
        tenant_id=caller().tenant_id,
        actor=caller().actor,
        request_id=request_id(),
        external_id=fields.external_id,
        metadata=fields.metadata,
        priority=fields.priority,
    )


def _from_form(process: ApiProcess) -> tuple[bytes, SubmissionFields]:
    """Read the form, never more of it than an image may have; large parts go to a temporary file, not to memory."""
    limit = process.settings.max_image_bytes
    request.max_content_length = limit + FORM_OVERHEAD_BYTES
    data = _image_part().read(limit + 1)
    if len(data) > limit:
        raise ImageTooLarge(
            f"The image has more than {limit} bytes, which is the limit here; use POST /v1/uploads for up to "
            f"{process.settings.max_upload_bytes}.",
            pointer="/image",
        )
    return data, SubmissionFields.model_validate(_form_fields())


def _image_part() -> FilePart:
    for name in request.files:
        if name != "image":
            raise InvalidRequest(
                f"There is no file part {name!r} here; send the image as the part 'image'.", pointer=f"/{name}"
            )
    parts = request.files.getlist("image")
    if len(parts) > 1:
        raise InvalidRequest(f"There are {len(parts)} parts named 'image'; send one image a request.", pointer="/image")
    if not parts:
        came_as_text = " It came as text: give it a filename." if "image" in request.form else ""
        raise InvalidRequest(f"The file part 'image' is missing.{came_as_text}", pointer="/image")
    return parts[0]


def _form_fields() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, values in request.form.lists():
        if len(values) > 1:
            raise InvalidRequest(f"The field {name!r} is there {len(values)} times; send it once.", pointer=f"/{name}")
        fields[name] = strict_json(values[0], "/metadata") if name == "metadata" else values[0]
    return fields


def _open_case(submission: Submission, on_commit: OnCommit | None) -> list[Case]:
    process = current()
    if submission.image_url is not None:
        return _open_link(submission.said, submission.image_url, on_commit)
    # Before anything is read from the store or decoded for nothing.
    capacity.refuse_if_full(submission.said.tenant_id, process.settings)
    data = submission.data if submission.data is not None else _uploaded(submission, process)
    case = submissions.submit_image(
        submission.said,
        data,
        _inspected(data, process),
        storage=process.storage,
        settings=process.settings,
        on_commit=on_commit,
        upload_id=submission.upload_id,
    )
    return [case]


def _open_link(said: submissions.Request, url: str, on_commit: OnCommit | None) -> list[Case]:
    try:
        return submissions.submit_links([(said, Link(url=url))], settings=current().settings, on_commit=on_commit)
    except TelltaleError as error:
        # There is no list here for the pointer to go into.
        error.pointer = error.pointer.removeprefix("/0") if error.pointer else None
        raise


def _uploaded(submission: Submission, process: ApiProcess) -> bytes:
    assert submission.upload_id is not None
    return submissions.read_upload(
        submission.said.tenant_id, submission.upload_id, storage=process.storage, settings=process.settings
    )


def _inspected(data: bytes, process: ApiProcess) -> ImageFacts:
    """What the bytes are, found out in a process that may be killed. Raises BadImage's kinds."""
    try:
        return process.sandbox.call(images.inspect, data, process.settings.max_image_pixels)
    except (SandboxTimeout, SandboxMemory, SandboxCrash) as error:
        raise Undecodable(
            "Decoding this image takes too much time or memory, or breaks the decoder. Save it anew and send that."
        ) from error
