"""The api as these tests meet it: its clocks leave a busy machine its time, and nobody waits 20 seconds for a beat.

An answer can be taken back for longer than the ten seconds which tests/moderation/test_reviews.py holds it to, and the
page of whoever reviews a case says more often that they are there.
"""

from __future__ import annotations

from datetime import timedelta

from api.wsgi import app
from moderation import claims, reviews

__all__ = ["app"]

reviews.UNDO = timedelta(seconds=90)
claims.HEARTBEAT = timedelta(seconds=2)
