"""The application: every route, what surrounds each request, and the document that describes them all.

It wires; what a route does is in its own file.
"""

from __future__ import annotations

from flask import Response, request
from flask_openapi3 import OpenAPI
from werkzeug.middleware.proxy_fix import ProxyFix

from api import auth, events, health, places, problems, process, reference, requests, traffic
from api.dashboard import shell
from api.intake import (
    appeals,
    batch,
    cases,
    deliveries,
    endpoints,
    explanations,
    hooks,
    images,
    retention,
    retries,
    statements,
    subjects,
    submissions,
    uploads,
)
from api.process import ApiProcess
from moderation.settings import Settings

BLUEPRINTS = (
    submissions.api,
    batch.api,
    uploads.api,
    cases.api,
    appeals.api,
    explanations.api,
    retries.api,
    images.api,
    statements.api,
    subjects.api,
    retention.api,
    hooks.api,
    endpoints.api,
    deliveries.api,
    health.api,
)
# Of a form, parts; nobody needs more.
MAX_FORM_PARTS = 16


class Application(OpenAPI):
    """A Flask application with our own request class, JSON and limits."""

    request_class = requests.Request
    json_provider_class = requests.StrictJson


def create_app(settings: Settings) -> Application:
    """An application for these settings. It opens no connection before the first request."""
    app = Application(
        __name__,
        info=reference.INFO,
        security_schemes=reference.SECURITY_SCHEMES,
        doc_ui=False,
        static_folder=None,
        validation_error_status=400,
        validation_error_model=problems.Problem,
        validation_error_callback=problems.raise_again,
    )
    app.config.update(MAX_CONTENT_LENGTH=requests.MAX_JSON_BYTES, MAX_FORM_PARTS=MAX_FORM_PARTS)
    if settings.trusted_proxies:
        # Who is calling, and nothing else: our own address is a setting.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies, x_proto=0)  # type: ignore[method-assign]
    process.install(app, ApiProcess.of(settings))
    problems.install(app)
    traffic.install(app)
    app.before_request(requests.adopt_request_id)
    app.before_request(_refuse_unacceptable)
    app.before_request(auth.authenticate)
    app.before_request(places.take)
    app.teardown_request(places.leave)
    app.after_request(requests.add_headers)
    for blueprint in BLUEPRINTS:
        app.register_api(blueprint)
    reference.install(app)
    events.install(app)
    shell.install(app)
    auth.refuse_unmarked(app)
    return app


def _refuse_unacceptable() -> Response | None:
    if request.path.startswith("/v1/"):
        problems.refuse_unacceptable()
    return None
