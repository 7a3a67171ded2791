"""`DELETE /v1/images/{id}` erases an image; `GET /v1/images/{id}/original` gives a short-lived link to its bytes."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from uuid import UUID

from flask_openapi3 import APIBlueprint, Tag
from pydantic import BaseModel, Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, Shown
from api.process import current
from api.requests import request_id
from moderation import erasure, originals
from moderation.db import transaction
from moderation.errors import StorageUnavailable
from moderation.tables import Image
from moderation.vocabulary import Scope

log = logging.getLogger(__name__)

api = APIBlueprint("images", __name__, abp_tags=[Tag(name="Images")], abp_security=SECURITY)

LINK_TTL = timedelta(minutes=5)


class ImagePath(BaseModel):
    """Where an image is named in the path."""

    image_id: UUID = Field(description="`image.id` of its case")


class LinkShown(Shown):
    """A link to the bytes as they were sent, straight from the object store; whoever has it can read them."""

    url: str = Field(description="at the object store, signed")
    expires_at: datetime = Field(description="five minutes from now")


@api.get(
    "/v1/images/<uuid:image_id>/original",
    operation_id="getOriginal",
    summary="Link to the original",
    responses={200: LinkShown} | problems.declared(401, 403, 404),
)
@requires(Scope.CASES_READ)
def original(path: ImagePath) -> Answer:
    """Fetch it at once and do not pass it on; it works for five minutes."""
    with transaction() as session:
        key = originals.image_of(session, caller().tenant_id, path.image_id).s3_key
    expires_at = datetime.now(UTC) + LINK_TTL
    url = current().storage.presigned_get(key, seconds=int(LINK_TTL.total_seconds()))
    return LinkShown(url=url, expires_at=expires_at).model_dump(mode="json")


@api.delete(
    "/v1/images/<uuid:image_id>",
    operation_id="eraseImage",
    summary="Erase an image",
    responses={204: None} | problems.declared(401, 403, 404, 409),
)
@requires(Scope.IMAGES_DELETE)
def erase(path: ImagePath) -> Answer:
    """Its bytes, what you sent with it and all words about it are gone; cases keep their labels, training nothing.

    Erasing twice is the same as once. An image of a case that was reported as illegal is under legal hold (409).
    """
    with transaction() as session:
        who = caller()
        image = erasure.erase(session, who.tenant_id, path.image_id, actor=who.actor, request_id=request_id())
    _purge(image)
    return "", HTTPStatus.NO_CONTENT


def _purge(image: Image) -> None:
    """Delete the bytes now; if the store is away, housekeeping does it, for the image is marked."""
    try:
        erasure.purge_now(current().storage, image)
    except StorageUnavailable as error:
        log.warning("image %s is erased, its bytes are not yet deleted: %s", image.id, error)
