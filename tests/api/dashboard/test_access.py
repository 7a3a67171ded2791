"""Every page and action says who may have it, and lets in nobody else, from nowhere else.

The routes come from the url map: one that is added must be added to ROLES too, or the first test fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, update
from werkzeug.routing import Rule

from api import auth, process
from api.app import Application, create_app
from api.dashboard import cookies
from moderation.db import new_id, transaction
from moderation.settings import settings
from moderation.tables import SignIn, Tenant
from moderation.vocabulary import Role
from tests.api.conftest import Client
from tests.api.dashboard.conftest import Browser
from tests.conftest import ServiceRun
from tests.factories import make_key, make_tenant
from tests.platforms import Furnished
from tests.reviewing import make_review_case

Route = tuple[str, str]
OPEN = {("GET", "/dashboard/sign-in"), ("POST", "/dashboard/sign-in"), ("GET", "/dashboard/static/<path:name>")}
# None: everybody who is signed in.
ROLES: dict[Route, Role | None] = {
    ("GET", "/dashboard"): None,
    ("POST", "/dashboard/sign-out"): None,
    ("GET", "/dashboard/account"): None,
    ("POST", "/dashboard/account/password"): None,
    ("POST", "/dashboard/account/sign-out-elsewhere"): None,
    ("GET", "/dashboard/queue"): Role.MODERATOR,
    ("GET", "/dashboard/appeals"): Role.MODERATOR,
    ("POST", "/dashboard/queue/next"): Role.MODERATOR,
    ("POST", "/dashboard/queue/bulk"): Role.LEAD,
    ("GET", "/dashboard/cases/<uuid:case_id>"): Role.MODERATOR,
    ("GET", "/dashboard/cases/<uuid:case_id>/rendition"): Role.MODERATOR,
    ("GET", "/dashboard/cases/<uuid:case_id>/views/<view>"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/claim"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/heartbeat"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/release"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/answer"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/undo"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/skip"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/hold"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/escalate"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/reassign"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/report"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/lift"): Role.MODERATOR,
    ("GET", "/dashboard/notices"): Role.LEAD,
    ("POST", "/dashboard/notices/read"): Role.LEAD,
    ("POST", "/dashboard/notices/<uuid:notice_id>/read"): Role.LEAD,
    ("POST", "/dashboard/notices/<uuid:notice_id>/mail"): Role.LEAD,
    ("GET", "/dashboard/cases/<uuid:case_id>/statement-of-reasons"): Role.LEAD,
    ("GET", "/dashboard/platforms"): Role.LEAD,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/retention"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/keys"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/keys"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/keys/<uuid:key_id>/revoke"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/sources"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/sources"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/sources/new"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/secret"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/disable"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/enable"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/sources/<uuid:source_id>/try"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/endpoints"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/endpoints"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/endpoints/new"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/secret"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/disable"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/enable"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/ping"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/replay"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/endpoints/<uuid:endpoint_id>/replay"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/deliveries"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/deliveries/<uuid:delivery_id>"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/deliveries/<uuid:delivery_id>/replay"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/failures"): Role.LEAD,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/failures/retry"): Role.LEAD,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/failures/<uuid:case_id>/retry"): Role.LEAD,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/people"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/people"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/people/<uuid:user_id>/role"): Role.ADMIN,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/people/<uuid:user_id>/remove"): Role.ADMIN,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/audit"): Role.LEAD,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/audit.csv"): Role.LEAD,
    ("GET", "/dashboard/cases/<uuid:case_id>/explanation"): Role.MODERATOR,
    ("POST", "/dashboard/cases/<uuid:case_id>/explanation"): Role.MODERATOR,
    ("GET", "/dashboard/insight"): Role.LEAD,
    ("GET", "/dashboard/insight/<name>.csv"): Role.LEAD,
    ("GET", "/dashboard/models"): Role.LEAD,
    ("GET", "/dashboard/models/panel.csv"): Role.LEAD,
    ("POST", "/dashboard/models/rejudge"): Role.LEAD,
    ("POST", "/dashboard/models/rollback"): Role.LEAD,
    ("POST", "/dashboard/models/<uuid:version_id>/promote"): Role.LEAD,
    ("GET", "/dashboard/runs"): Role.LEAD,
    ("POST", "/dashboard/runs"): Role.LEAD,
    ("GET", "/dashboard/runs/<uuid:run_id>"): Role.LEAD,
    ("POST", "/dashboard/runs/<uuid:run_id>/cancel"): Role.LEAD,
    ("POST", "/dashboard/runs/<uuid:run_id>/promote"): Role.LEAD,
    ("POST", "/dashboard/runs/<uuid:run_id>/reject"): Role.LEAD,
    ("GET", "/dashboard/runs/<uuid:run_id>/report"): Role.LEAD,
    ("GET", "/dashboard/platforms/<uuid:tenant_id>/thresholds"): Role.LEAD,
    ("POST", "/dashboard/platforms/<uuid:tenant_id>/thresholds"): Role.LEAD,
}
# Of those, what concerns every platform: for a lead who is an operator too.
OPERATORS = {
    ("POST", "/dashboard/models/rollback"),
    ("POST", "/dashboard/models/<uuid:version_id>/promote"),
    *(route for route in ROLES if route[1].startswith("/dashboard/runs")),
}
CHANGING = [route for route in [*ROLES, *sorted(OPEN)] if route[0] != "GET"]


def name_of(route: object) -> str:
    return " ".join(route) if isinstance(route, tuple) else str(route)


def routes(app: Application) -> dict[Route, Rule]:
    return {
        (method, rule.rule): rule
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(auth.DASHBOARD)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def address(rule: str, tenant_id: UUID | None = None) -> str:
    """A rule with ids in it: the tenant's where it asks for that, else some that belong to nothing."""
    path = rule.replace("<uuid:tenant_id>", str(tenant_id or new_id()))
    while "<" in path:
        start, _, rest = path.partition("<")
        path = start + str(new_id()) + rest.partition(">")[2]
    return path


def test_every_route_is_in_one_of_the_two_lists_and_marked_so(app: Application) -> None:
    found = routes(app)
    assert set(found) == OPEN | set(ROLES)
    for route, role in ROLES.items():
        view = app.view_functions[found[route].endpoint]
        assert getattr(view, auth.ROLE) == role, route
        assert hasattr(view, auth.OPERATOR) == (route in OPERATORS), route


@pytest.mark.parametrize("route", ROLES, ids=name_of)
def test_who_is_not_signed_in_gets_nowhere(nobody: Browser, route: Route) -> None:
    method, rule = route
    path = address(rule)
    if method == "GET":
        answer = nobody.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/dashboard/sign-in?next={path}")
        assert nobody.htmx(path).status_code == 401
    else:
        assert nobody.http.open(path, method=method, data={"csrf_token": nobody.token()}).status_code == 401


@pytest.mark.parametrize("given", [None, *Role], ids=str)
@pytest.mark.parametrize("route", ROLES, ids=name_of)
def test_the_role_matrix(browser_of: Callable[..., Browser], tenant: Tenant, route: Route, given: Role | None) -> None:
    method, rule = route
    needed = ROLES[route]
    answer = browser_of(given).htmx(address(rule, tenant.id), method)
    allowed = route not in OPERATORS and (needed is None or (given is not None and given.covers(needed)))
    if allowed:
        assert answer.status_code not in (401, 403)
    else:
        assert answer.status_code == (404 if given is None and "<uuid:tenant_id>" in rule else 403)


@pytest.fixture
def app_with_a_tenants_page(services: ServiceRun) -> Iterator[Application]:
    """The application with one more page, of a tenant that the path names."""
    made = create_app(settings())
    view = auth.requires_role(Role.LEAD)(lambda tenant_id: "in")
    made.add_url_rule("/dashboard/try/<uuid:tenant_id>", "try", view)
    yield made
    made.extensions[process.EXTENSION].sandbox.close()


@pytest.mark.parametrize(("role", "status"), [(None, 404), (Role.MODERATOR, 403), (Role.LEAD, 200), (Role.ADMIN, 200)])
def test_a_path_that_names_a_tenant_needs_the_role_there(
    app_with_a_tenants_page: Application,
    browser_of: Callable[..., Browser],
    tenant: Tenant,
    role: Role | None,
    status: int,
) -> None:
    with transaction() as session:
        other = make_tenant(session)
    browser = Browser(app_with_a_tenants_page.test_client())
    browser.http.set_cookie(cookies.SESSION, browser_of(role).session_cookie or "")
    assert browser.get(f"/dashboard/try/{tenant.id}").status_code == status
    assert browser.get(f"/dashboard/try/{other.id}").status_code == 404, "a role elsewhere is no role here"


@pytest.mark.parametrize("sent", [None, "", "0" * 64, "\xe9", "another's"], ids=str)
@pytest.mark.parametrize("route", CHANGING, ids=name_of)
def test_without_its_pages_token_nothing_is_changed(
    browser_of: Callable[..., Browser], tenant: Tenant, route: Route, sent: str | None
) -> None:
    method, rule = route
    browser, other = browser_of(Role.ADMIN), browser_of(Role.LEAD)
    token = other.token() if sent == "another's" else sent
    data = {"email": browser.user.email, "password": "x"} if browser.user else {}
    answer = browser.http.open(
        address(rule, tenant.id), method=method, data=data | ({} if token is None else {"csrf_token": token})
    )
    assert answer.status_code == 403
    assert "nothing was changed" in answer.text
    assert browser.get("/dashboard").status_code == 200, "still signed in"


def test_a_token_ends_with_its_sign_in(browser_of: Callable[..., Browser]) -> None:
    browser = browser_of(Role.MODERATOR)
    token = browser.token()
    browser.post("/dashboard/sign-out")
    browser.user = None
    answer = browser.http.post("/dashboard/sign-in", data={"csrf_token": token})
    assert answer.status_code == 403


def test_the_dashboard_takes_no_api_key_and_the_api_no_sign_in(
    client: Client, browser_of: Callable[..., Browser], nobody: Browser
) -> None:
    with transaction() as session:
        key = make_key(session, client.tenant)
    headers = {"Authorization": f"Bearer {key}"}
    assert client.http.get("/v1/cases", headers=headers).status_code == 200
    assert nobody.get("/dashboard/account", headers=headers).status_code == 303
    signed_in = browser_of(Role.ADMIN)
    assert signed_in.get("/dashboard/account").status_code == 200
    assert signed_in.get("/v1/cases").status_code == 401


def test_what_a_page_asks_by_itself_keeps_nobody_signed_in(ada: Browser, ours: Furnished) -> None:
    with transaction() as session:
        case_id = make_review_case(session, ours.tenant).id

    def keeps(path: str, **headers: str) -> bool:
        with transaction() as session:
            session.execute(update(SignIn).values(last_seen_at=SignIn.last_seen_at - timedelta(minutes=30)))
            before = session.scalars(select(SignIn.last_seen_at)).one()
        assert ada.get(path, headers=headers).status_code == 200
        with transaction() as session:
            return session.scalars(select(SignIn.last_seen_at)).one() > before

    delivery = ours.path("/deliveries/{delivery}")
    by_itself = {"HX-Request": "true"}
    assert not keeps(f"/dashboard/cases/{case_id}/explanation", **by_itself)
    assert not keeps(delivery, **by_itself)
    assert keeps(delivery) and keeps(f"/dashboard/cases/{case_id}")


@pytest.mark.parametrize("value", ["", "x", "\xe9", "a" * 4000, "\x00"])
def test_a_broken_cookie_is_nobody(app: Application, tenant: Tenant, value: str) -> None:
    headers = {"Cookie": f"{cookies.SESSION}={value}; {cookies.VISIT}={value}"}
    http = app.test_client(use_cookies=False)
    assert http.get("/dashboard", headers=headers).status_code == 303
    assert http.get("/dashboard/sign-in", headers=headers).status_code == 200


@pytest.mark.parametrize("mark", [auth.requires_role(Role.LEAD), auth.signed_in], ids=["role", "signed in"])
def test_a_route_outside_the_dashboard_cannot_ask_for_a_role(app: Application, mark: Callable[..., object]) -> None:
    views = dict(app.view_functions)
    try:
        app.view_functions["health.live"] = mark(lambda: "open")  # type: ignore[assignment]
        with pytest.raises(RuntimeError, match=r"health\.live"):
            auth.refuse_unmarked(app)
    finally:
        app.view_functions.clear()
        app.view_functions.update(views)


def test_a_page_without_a_mark_does_not_start(app: Application) -> None:
    views = dict(app.view_functions)
    try:
        app.view_functions["home.page"] = lambda: "open"
        with pytest.raises(RuntimeError, match=r"home\.page"):
            auth.refuse_unmarked(app)
    finally:
        app.view_functions.clear()
        app.view_functions.update(views)
