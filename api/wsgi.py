"""What gunicorn loads: `gunicorn --config python:infra.gunicorn api.wsgi:app`. Settings are read and logging begins."""

from __future__ import annotations

from api.app import create_app
from moderation import logs, sealing
from moderation.settings import settings

logs.configure("api", settings())
# Without a key no webhook can be verified and no endpoint made: raises ConfigurationError that says how to make one.
sealing.key_ids()
app = create_app(settings())
