"""Who may do what: every route asks for a key or is on the list of open ones, and what a broken key is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from werkzeug.routing import Rule

from api import auth
from api.app import Application
from moderation.db import new_id, transaction
from moderation.tables import ApiKey
from moderation.vocabulary import Scope
from tests.api.conftest import Client
from tests.factories import make_key

# Open to everybody; hooks are signed by the platform instead.
OPEN = {
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/docs/<path:name>"),
    ("POST", "/v1/hooks/<uuid:source_id>"),
}
SCOPES = {
    ("POST", "/v1/submissions"): Scope.SUBMISSIONS_WRITE,
    ("POST", "/v1/submissions/batch"): Scope.SUBMISSIONS_WRITE,
    ("POST", "/v1/uploads"): Scope.SUBMISSIONS_WRITE,
    ("GET", "/v1/cases/<uuid:case_id>"): Scope.CASES_READ,
    ("GET", "/v1/cases"): Scope.CASES_READ,
    ("POST", "/v1/cases/<uuid:case_id>/appeal"): Scope.CASES_APPEAL,
    ("POST", "/v1/cases/<uuid:case_id>/retry"): Scope.SUBMISSIONS_WRITE,
    ("POST", "/v1/cases/<uuid:case_id>/explanation"): Scope.SUBMISSIONS_WRITE,
    ("GET", "/v1/cases/<uuid:case_id>/explanation"): Scope.CASES_READ,
    ("GET", "/v1/images/<uuid:image_id>/original"): Scope.CASES_READ,
    ("DELETE", "/v1/images/<uuid:image_id>"): Scope.IMAGES_DELETE,
    ("GET", "/v1/cases/<uuid:case_id>/statement-of-reasons"): Scope.CASES_READ,
    ("POST", "/v1/subject-exports"): Scope.CASES_READ,
    ("GET", "/v1/retention"): Scope.SETTINGS_MANAGE,
    ("PUT", "/v1/retention"): Scope.SETTINGS_MANAGE,
    ("GET", "/v1/statement-defaults"): Scope.SETTINGS_MANAGE,
    ("PUT", "/v1/statement-defaults"): Scope.SETTINGS_MANAGE,
    ("POST", "/v1/endpoints"): Scope.WEBHOOKS_MANAGE,
    ("GET", "/v1/endpoints"): Scope.WEBHOOKS_MANAGE,
    ("GET", "/v1/endpoints/<uuid:endpoint_id>"): Scope.WEBHOOKS_MANAGE,
    ("DELETE", "/v1/endpoints/<uuid:endpoint_id>"): Scope.WEBHOOKS_MANAGE,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/enable"): Scope.WEBHOOKS_MANAGE,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/rotate-secret"): Scope.WEBHOOKS_MANAGE,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/ping"): Scope.WEBHOOKS_MANAGE,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/replay"): Scope.WEBHOOKS_MANAGE,
    ("GET", "/v1/deliveries"): Scope.WEBHOOKS_MANAGE,
    ("POST", "/v1/deliveries/<uuid:delivery_id>/replay"): Scope.WEBHOOKS_MANAGE,
}


def routes(app: Application) -> dict[tuple[str, str], Rule]:
    """Those for programs; tests/api/dashboard/test_access.py has those for people."""
    return {
        (method, rule.rule): rule
        for rule in app.url_map.iter_rules()
        if not rule.rule.startswith(auth.DASHBOARD)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def address(rule: str) -> str:
    """A rule with some id in it."""
    start, _, rest = rule.partition("<")
    return start + str(new_id()) + rest.partition(">")[2] if rest else start


def test_every_route_is_in_one_of_the_two_lists(app: Application) -> None:
    assert set(routes(app)) == OPEN | set(SCOPES)


@pytest.mark.parametrize("route", SCOPES, ids=lambda route: f"{route[0]} {route[1]}")
def test_a_route_needs_a_key_and_its_scope(client: Client, route: tuple[str, str]) -> None:
    method, rule = route
    path = address(rule)
    anonymous = client.http.open(path, method=method)
    assert (anonymous.status_code, anonymous.headers["WWW-Authenticate"]) == (401, "Bearer")
    with transaction() as session:
        token = make_key(session, client.tenant, [scope for scope in Scope if scope is not SCOPES[route]])
    lacking = client.http.open(path, method=method, headers={"Authorization": f"Bearer {token}"})
    assert lacking.status_code == 403
    assert SCOPES[route].value in lacking.get_json()["detail"]
    with transaction() as session:
        token = make_key(session, client.tenant, [SCOPES[route]])
    allowed = client.http.open(path, method=method, headers={"Authorization": f"Bearer {token}"})
    assert allowed.status_code not in (401, 403)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer tt_",
        "Bearer x_y_z",
        "Bearer tt_\xe9_\xe9",
        "Bearer " + "a" * 4000,
    ],
)
def test_a_broken_key_is_a_401(client: Client, header: str) -> None:
    assert client.get("/v1/cases", headers={"Authorization": header}).status_code == 401


def test_a_known_prefix_with_a_wrong_secret_says_what_an_unknown_one_does(client: Client) -> None:
    prefix = "_".join(client.token.split("_")[:2])
    known = client.get("/v1/cases", headers={"Authorization": f"Bearer {prefix}_wrong"}).get_json()
    unknown = client.get("/v1/cases", headers={"Authorization": "Bearer tt_000000000000_wrong"}).get_json()
    assert known["detail"] == unknown["detail"]


def test_a_key_remembers_its_last_use(client: Client) -> None:
    client.get("/v1/cases")
    with transaction() as session:
        used = session.scalars(select(ApiKey.last_used_at).where(ApiKey.tenant_id == client.tenant.id)).one()
    assert used is not None and datetime.now(UTC) - used < timedelta(minutes=1)


def test_an_application_with_an_unmarked_route_does_not_start(app: Application) -> None:
    views = dict(app.view_functions)
    try:
        app.view_functions["forgotten"] = lambda: "open"
        with pytest.raises(RuntimeError, match="forgotten"):
            auth.refuse_unmarked(app)
    finally:
        app.view_functions.clear()
        app.view_functions.update(views)
