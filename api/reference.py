"""The OpenAPI document, and a page to read it with. Both come from the code, and neither asks any other host.

The page is Swagger UI from the package's own files; its content security policy forbids the browser to load anything
from elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import flask_openapi3_swagger
from flask import Response, render_template_string, send_from_directory
from flask_openapi3 import Info, OpenAPI
from flask_openapi3.models import Schema
from flask_openapi3.utils import get_model_schema

from api.auth import API_KEY, SCOPE, public
from api.problems import Problem

SIGNATURE = "webhook_signature"
SECURITY_SCHEMES: dict[str, Any] = {
    API_KEY: {"type": "http", "scheme": "bearer", "description": "An API key: `tt_…`, made by `telltale keys create`."},
    SIGNATURE: {
        "type": "apiKey",
        "in": "header",
        "name": "webhook-signature",
        "description": "Standard Webhooks 1.0, or what the source was told: X-Hub-Signature-256, or a bearer secret.",
    },
}
INFO = Info(
    title="Telltale",
    version="1",
    description=(
        "Tells whether an image is synthetic, and why. Send images by REST or by signed webhook; read the case, or be "
        "told by webhook when it is settled."
    ),
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Telltale API</title>
<link rel="icon" href="{{ url_for('docs_file', name='images/swagger.svg') }}">
<link rel="stylesheet" href="{{ url_for('docs_file', name='css/swagger-ui.css') }}">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{{ url_for('docs_file', name='js/swagger-ui-bundle.js') }}"></script>
<script>
SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});
</script>
</body>
</html>
"""
# Swagger UI sets styles inline and draws its icons from data: URLs.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


# Where the package keeps the page's script and style.
FILES = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"


def install(app: OpenAPI) -> None:
    """Serve /openapi.json and /docs."""
    schema = get_model_schema(Problem, mode="serialization")
    app.components_schemas[Problem.__name__] = Schema(**schema)
    _name_scopes(app)
    app.add_url_rule("/openapi.json", "openapi", public(lambda: app.api_doc))
    app.add_url_rule("/docs", "docs", _page)
    app.add_url_rule("/docs/<path:name>", "docs_file", _file)


def _name_scopes(app: OpenAPI) -> None:
    """Have each operation's security say the scope that its view asks for."""
    for rule in app.url_map.iter_rules():
        scope = getattr(app.view_functions[rule.endpoint], SCOPE, None)
        for method in (rule.methods or set()) & {"GET", "POST", "PUT", "DELETE"} if scope else ():
            path = re.sub(r"<\w+:(\w+)>", r"{\1}", rule.rule)
            getattr(app.paths[path], method.lower()).security = [{API_KEY: [scope.value]}]


@public
def _page() -> Response:
    response = Response(render_template_string(PAGE))
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@public
def _file(name: str) -> Response:
    return send_from_directory(FILES, name)
