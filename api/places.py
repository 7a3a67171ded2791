"""Places for those who send images: three quarters of a process's threads, so that the rest is there for all else.

However many send at once, and however slowly, cases can be read, pages opened and probes answered. Whoever finds no
place within a moment is told to come back: 429. It does not know what is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import current_app, g, request

from api.process import current
from moderation.errors import ServiceBusy

View = TypeVar("View", bound=Callable[..., Any])

TAKES_IMAGES = "telltale_takes_images"
# How long somebody waits for a place, in a thread of those that are kept free: an image takes a tenth of it.
PATIENCE_S = 0.5
RETRY_AFTER_S = 2


def takes_images(view: View) -> View:
    """Mark a view as one that needs a place."""
    setattr(view, TAKES_IMAGES, True)
    return view


def take() -> None:
    """Before a request's body is read, and once it is known who sends it. Raises ServiceBusy."""
    view = current_app.view_functions.get(request.endpoint or "")
    if not getattr(view, TAKES_IMAGES, False):
        return
    places = current().places
    if not places.acquire(timeout=PATIENCE_S):
        raise ServiceBusy("As many are sending images as can at once; send again.", retry_after=RETRY_AFTER_S)
    g.place = places


def leave(_error: BaseException | None = None) -> None:
    """After the request, however it ended."""
    if (places := g.pop("place", None)) is not None:
        places.release()
