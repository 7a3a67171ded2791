"""`/dashboard/cases/{id}/rendition` and `…/views/{view}`: what is seen of a case's image, from our own origin."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response

from api.auth import requires_role
from api.dashboard.access import person
from api.process import current
from moderation import claims, renditions
from moderation.db import transaction
from moderation.errors import NotFound
from moderation.tables import Image
from moderation.views import MEDIA_TYPE
from moderation.vocabulary import Role, View

pages = Blueprint("pictures", __name__)


@pages.get("/dashboard/cases/<uuid:case_id>/rendition")
@requires_role(Role.MODERATOR)
def rendition(case_id: UUID) -> Response:
    """The picture, for this person alone: no browser or proxy keeps it."""
    return Response(renditions.read(current().storage, _image_of(case_id)), mimetype=MEDIA_TYPE)


@pages.get("/dashboard/cases/<uuid:case_id>/views/<view>")
@requires_role(Role.MODERATOR)
def view(case_id: UUID, view: str) -> Response:
    """All of its pixels, or one of the forensic views; the first who asks waits until it is made."""
    image, process = _image_of(case_id), current()
    limit = process.settings.max_image_pixels
    made = renditions.read_view(process.storage, process.studio, image, _view_named(view), max_pixels=limit)
    return Response(made, mimetype=MEDIA_TYPE)


def _image_of(case_id: UUID) -> Image:
    with transaction() as session:
        image = claims.case_for(session, person(), case_id).image
    if image is None:
        raise NotFound("This case has no image: its link has not been fetched.")
    return image


def _view_named(name: str) -> View:
    try:
        return View(name)
    except ValueError as error:
        raise NotFound(f"There is no view '{name}': there are {', '.join(View)}.") from error
