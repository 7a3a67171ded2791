"""`POST /v1/submissions/batch`: up to 100 links in one request, all accepted or none."""

from __future__ import annotations

import hashlib
from http import HTTPStatus

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from api import problems
from api.auth import SECURITY, requires
from api.bodies import AcceptedShown, Answer, Sent, SubmissionFields, Url
from api.intake.submissions import said
from api.places import takes_images
from api.process import current
from api.replay import IdempotencyHeader, accept_once
from moderation import submissions
from moderation.errors import TelltaleError
from moderation.submissions import MAX_BATCH, Link, OnCommit
from moderation.tables import Case
from moderation.vocabulary import Scope

api = APIBlueprint("batch", __name__, abp_tags=[Tag(name="Submissions")], abp_security=SECURITY)


class LinkBody(SubmissionFields):
    """A submission by link."""

    image_url: Url = Field(description="http(s), public", examples=["https://example.com/a.jpg"])


class BatchBody(Sent):
    """Many submissions by link."""

    submissions: list[LinkBody] = Field(min_length=1, max_length=MAX_BATCH)


@api.post(
    "/v1/submissions/batch",
    operation_id="submitBatch",
    summary="Submit many links",
    responses={202: AcceptedShown} | problems.declared(401, 403, 409, 413, 415, 422, 429),
)
@requires(Scope.SUBMISSIONS_WRITE)
@takes_images
def submit_batch(header: IdempotencyHeader, body: BatchBody) -> Answer:
    """Workers read the links; one that cannot be read ends its case as `failed`, with the reason."""
    links = [(said(link), Link(url=link.image_url)) for link in body.submissions]
    accepted = accept_once(header.key, lambda: _fingerprint(links), lambda on_commit: _open_cases(links, on_commit))
    return {"cases": accepted.cases}, HTTPStatus.ACCEPTED, accepted.headers


def _fingerprint(links: list[tuple[submissions.Request, Link]]) -> str:
    each = [submissions.fingerprint(request, f"batch|{link.url}") for request, link in links]
    return hashlib.sha256("".join(each).encode()).hexdigest()


def _open_cases(links: list[tuple[submissions.Request, Link]], on_commit: OnCommit | None) -> list[Case]:
    try:
        return submissions.submit_links(links, settings=current().settings, on_commit=on_commit)
    except TelltaleError as error:
        error.pointer = f"/submissions{error.pointer}" if error.pointer else None
        raise
