"""Every route, as everybody who could call it, against what is another platform's: it answers as if it were nobody's.

The same status, headers and words, nothing of the other platform in them, and nothing written. The routes come from the
url map: one without a line in SHOTS fails the first test.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
import urllib3
from sqlalchemy import Engine, event
from werkzeug.test import TestResponse

from api import auth, process
from api.app import Application
from api.dashboard import cookies
from moderation import accounts, capacity, likeness, tenants
from moderation.db import engine as engine_of
from moderation.db import new_id, transaction
from moderation.fingerprints import Fingerprint
from moderation.storage import upload_key
from moderation.tables import Case
from moderation.vocabulary import Role
from tests.api.dashboard.conftest import CHEAP, TOKEN
from tests.attacks.neighbours import MATCHING, PASSWORD, UUID_PATTERN, Neighbours, Platform, digest, neighbours, rows
from tests.images import encoded, picture, png

Route = tuple[str, str]
ANSWER = {"fence": "1", "answer": "fake", "note": "words", "grade-0": "right"}
NAME = re.compile(r"<(?:\w+:)?(\w+)>|{(\w+)}")
# What differs from one request to the next, whoever asks for what.
PASSING = re.compile(r"\d{4}-\d\d-\d\dT[\d:.+Z]*|\d+ (second|minute|hour)s?( ago)?|just now|\d\d:\d\d(:\d\d)?")


@dataclass(frozen=True)
class Shot:
    """One request to a route. `{name}` and `<name>` are filled in; `writes`: it makes something of the caller's own."""

    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False
    told: str | None = None  # why this one may be told apart from nobody's

    def names(self, rule: str, *, of_path: bool = False) -> frozenset[str]:
        """What is filled in, in all of the request or in its path."""
        said = rule if of_path else f"{rule} {self.query} {self.form} {self.json} {self.headers}"
        return frozenset(one or other for one, other in NAME.findall(said)) - {"view", "name", "path"}


PLAIN = (Shot(),)
OF_A_CASE = "/dashboard/cases/<uuid:case_id>"
OF_A_PLATFORM = "/dashboard/platforms/<uuid:tenant_id>"
QUEUE_FILTERS = ({"tenant": "{tenant_id}"}, {"category": "{category}"}, {"q": "{external_id}"}, {"q": "{case_id}"})
QUEUE_FILTERS += ({"q": "{sha256}"}, {"after": "{place}"}, {"undo": "{case_id}"})
BULK = ({"do": "hold", "hours": "1"}, {"do": "escalate"}, {"do": "prioritise", "priority": "high"})
BULK += ({"do": "answer", "answer": "fake"},)

SHOTS: dict[Route, tuple[Shot, ...]] = {
    # Open to everybody.
    ("GET", "/health/live"): PLAIN,
    ("GET", "/health/ready"): PLAIN,
    ("GET", "/openapi.json"): PLAIN,
    ("GET", "/docs"): PLAIN,
    ("GET", "/docs/<path:name>"): PLAIN,
    ("GET", "/dashboard/static/<path:name>"): PLAIN,
    ("GET", "/dashboard/sign-in"): (Shot(query={"next": OF_A_CASE.replace("<uuid:case_id>", "{case_id}")}),),
    ("POST", "/dashboard/sign-in"): (Shot(form={"email": "{email}", "password": "guessed"}, writes=True),),
    ("POST", "/v1/hooks/<uuid:source_id>"): (
        Shot(json={}, told="whoever mistypes their source should be told, and its id cannot be guessed"),
    ),
    # For programs.
    ("POST", "/v1/submissions"): (
        Shot(json={"upload_id": "{upload_id}"}),
        Shot(
            json={"image_url": "https://example.com/x.png"},
            headers={"Idempotency-Key": "{idempotency_key}"},
            writes=True,
        ),
    ),
    ("POST", "/v1/submissions/batch"): (
        Shot(
            json={"submissions": [{"image_url": "https://example.com/x.png"}]},
            headers={"Idempotency-Key": "{idempotency_key}-batch"},
            writes=True,
        ),
    ),
    ("POST", "/v1/uploads"): (Shot(writes=True),),
    ("GET", "/v1/cases/<uuid:case_id>"): PLAIN,
    ("GET", "/v1/cases"): (
        Shot(query={"external_id": "{external_id}"}),
        Shot(query={"cursor": "{cursor}"}),
    ),
    ("POST", "/v1/cases/<uuid:case_id>/appeal"): (Shot(json={"message": "mine"}),),
    ("POST", "/v1/cases/<uuid:case_id>/retry"): PLAIN,
    ("POST", "/v1/cases/<uuid:case_id>/explanation"): PLAIN,
    ("GET", "/v1/cases/<uuid:case_id>/explanation"): PLAIN,
    ("GET", "/v1/cases/<uuid:case_id>/statement-of-reasons"): PLAIN,
    ("GET", "/v1/statement-defaults"): PLAIN,
    ("PUT", "/v1/statement-defaults"): (Shot(json={}, writes=True),),
    ("GET", "/v1/retention"): PLAIN,
    ("PUT", "/v1/retention"): (Shot(json={}, writes=True),),
    ("POST", "/v1/subject-exports"): (
        Shot(json={"external_ids": ["{external_id}"]}),
        Shot(json={"subject": "{subject}"}),
    ),
    ("GET", "/v1/images/<uuid:image_id>/original"): PLAIN,
    ("DELETE", "/v1/images/<uuid:image_id>"): PLAIN,
    ("POST", "/v1/endpoints"): (Shot(json={"url": "https://mallory.example/more"}, writes=True),),
    ("GET", "/v1/endpoints"): PLAIN,
    ("GET", "/v1/endpoints/<uuid:endpoint_id>"): PLAIN,
    ("DELETE", "/v1/endpoints/<uuid:endpoint_id>"): PLAIN,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/enable"): PLAIN,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/rotate-secret"): PLAIN,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/ping"): PLAIN,
    ("POST", "/v1/endpoints/<uuid:endpoint_id>/replay"): (Shot(json={"since": "2020-01-01T00:00:00Z"}),),
    ("GET", "/v1/deliveries"): (Shot(query={"endpoint_id": "{endpoint_id}"}), Shot(query={"cursor": "{cursor}"})),
    ("POST", "/v1/deliveries/<uuid:delivery_id>/replay"): PLAIN,
    # For people: their own.
    ("GET", "/dashboard"): PLAIN,
    ("GET", "/dashboard/account"): PLAIN,
    ("POST", "/dashboard/account/password"): (
        Shot(form={"old_password": "x", "new_password": "a", "new_password_again": "b"}),
    ),
    ("POST", "/dashboard/account/sign-out-elsewhere"): PLAIN,
    ("POST", "/dashboard/sign-out"): (),  # of whoever asks; tests/api/dashboard/test_sign_in.py
    # For moderators.
    ("GET", "/dashboard/queue"): tuple(Shot(query=query) for query in QUEUE_FILTERS),
    ("GET", "/dashboard/appeals"): PLAIN,
    ("POST", "/dashboard/queue/next"): (
        Shot(query={"tenant": "{tenant_id}"}),
        Shot(query={"category": "{category}"}),
    ),
    ("POST", "/dashboard/queue/bulk"): (
        *(Shot(form={"case": "{case_id}", **form}) for form in BULK),
        Shot(form={"case": "{case_id}", "do": "reassign", "to": "{user_id}"}),
    ),
    ("GET", OF_A_CASE): (Shot(), Shot(query={"undo": "{case_id}"})),
    ("GET", f"{OF_A_CASE}/rendition"): PLAIN,
    ("GET", f"{OF_A_CASE}/views/<view>"): PLAIN,
    ("GET", f"{OF_A_CASE}/explanation"): (Shot(), Shot(query={"editing": "1"})),
    ("POST", f"{OF_A_CASE}/explanation"): PLAIN,
    ("GET", f"{OF_A_CASE}/statement-of-reasons"): PLAIN,
    ("POST", f"{OF_A_CASE}/claim"): PLAIN,
    ("POST", f"{OF_A_CASE}/heartbeat"): (Shot(form={"fence": "1"}),),
    ("POST", f"{OF_A_CASE}/release"): (Shot(form={"fence": "1"}),),
    ("POST", f"{OF_A_CASE}/answer"): (Shot(form=ANSWER),),
    ("POST", f"{OF_A_CASE}/undo"): PLAIN,
    ("POST", f"{OF_A_CASE}/skip"): (Shot(form={"fence": "1"}),),
    ("POST", f"{OF_A_CASE}/hold"): (Shot(form={"fence": "1", "hours": "1"}),),
    ("POST", f"{OF_A_CASE}/escalate"): (Shot(form={"fence": "1"}),),
    ("POST", f"{OF_A_CASE}/reassign"): (Shot(form={"fence": "1", "to": "{user_id}"}),),
    ("POST", f"{OF_A_CASE}/report"): (Shot(form={"what": "words"}),),
    ("POST", f"{OF_A_CASE}/lift"): PLAIN,
    # For leads.
    ("GET", "/dashboard/platforms"): PLAIN,
    ("GET", "/dashboard/notices"): (Shot(), Shot(query={"before": "{notice_id}"})),
    ("POST", "/dashboard/notices/read"): (Shot(writes=True),),
    ("POST", "/dashboard/notices/<uuid:notice_id>/read"): PLAIN,
    ("POST", "/dashboard/notices/<uuid:notice_id>/mail"): PLAIN,
    ("GET", "/dashboard/insight"): (Shot(query={"tenant": "{tenant_id}"}), Shot(query={"category": "{category}"})),
    ("GET", "/dashboard/insight/<name>.csv"): (
        Shot(query={"tenant": "{tenant_id}"}),
        Shot(query={"category": "{category}"}),
    ),
    ("GET", f"{OF_A_PLATFORM}/thresholds"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/thresholds"): (
        Shot(
            form={
                **{"fake_from": "0.9", "real_up_to": "0.1", "min_pair_mass": "0.5"},
                **{"explain": "always", "instead_of": "1"},
            }
        ),
    ),
    ("GET", f"{OF_A_PLATFORM}/failures"): (Shot(), Shot(query={"before": "{case_id}"})),
    ("POST", f"{OF_A_PLATFORM}/failures/retry"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/failures/<uuid:case_id>/retry"): PLAIN,
    ("GET", f"{OF_A_PLATFORM}/audit"): (
        Shot(),
        Shot(query={"case": "{case_id}"}),
        Shot(query={"actor": "{email}"}),
        Shot(query={"after": "{moment}"}),
    ),
    ("GET", f"{OF_A_PLATFORM}/audit.csv"): (
        Shot(),
        Shot(query={"case": "{case_id}"}),
        Shot(query={"actor": "{email}"}),
    ),
    # For administrators.
    ("GET", OF_A_PLATFORM): PLAIN,
    ("POST", OF_A_PLATFORM): (
        Shot(form={"allow_training": "1", "blind_share": "1", "second_opinion_share": "1", "audit_share": "1"}),
    ),
    ("POST", f"{OF_A_PLATFORM}/retention"): (Shot(form={"images": "30"}),),
    ("GET", f"{OF_A_PLATFORM}/keys"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/keys"): (Shot(form={"name": "mine", "scopes": "cases:read"}),),
    ("POST", f"{OF_A_PLATFORM}/keys/<uuid:key_id>/revoke"): PLAIN,
    ("GET", f"{OF_A_PLATFORM}/sources"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/sources"): (
        Shot(form={"name": "mine", "scheme": "standard_webhooks", "kind": "json", "image_url_pointer": "/url"}),
    ),
    ("GET", f"{OF_A_PLATFORM}/sources/new"): PLAIN,
    ("GET", f"{OF_A_PLATFORM}/sources/<uuid:source_id>"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/sources/<uuid:source_id>"): (
        Shot(form={"name": "mine", "scheme": "standard_webhooks", "kind": "json", "image_url_pointer": "/url"}),
    ),
    ("POST", f"{OF_A_PLATFORM}/sources/<uuid:source_id>/secret"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/sources/<uuid:source_id>/disable"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/sources/<uuid:source_id>/enable"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/sources/<uuid:source_id>/try"): (Shot(form={"body": "{{}}", "headers": ""}),),
    ("GET", f"{OF_A_PLATFORM}/endpoints"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/endpoints"): (Shot(form={"url": "https://mallory.example/more"}),),
    ("GET", f"{OF_A_PLATFORM}/endpoints/new"): PLAIN,
    ("GET", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>"): (Shot(form={"event_types": "verdict.failed"}),),
    ("POST", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>/secret"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>/disable"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>/enable"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>/ping"): PLAIN,
    ("GET", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>/replay"): (Shot(query={"since": "2020-01-01T00:00"}),),
    ("POST", f"{OF_A_PLATFORM}/endpoints/<uuid:endpoint_id>/replay"): (Shot(form={"since": "2020-01-01T00:00"}),),
    ("GET", f"{OF_A_PLATFORM}/deliveries"): (
        Shot(),
        Shot(query={"to": "{endpoint_id}"}),
        Shot(query={"before": "{delivery_id}"}),
    ),
    ("GET", f"{OF_A_PLATFORM}/deliveries/<uuid:delivery_id>"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/deliveries/<uuid:delivery_id>/replay"): PLAIN,
    ("GET", f"{OF_A_PLATFORM}/people"): PLAIN,
    ("POST", f"{OF_A_PLATFORM}/people"): (Shot(form={"email": "more@mallory.example", "role": "lead"}),),
    ("POST", f"{OF_A_PLATFORM}/people/<uuid:user_id>/role"): (Shot(form={"role": "lead"}),),
    ("POST", f"{OF_A_PLATFORM}/people/<uuid:user_id>/remove"): PLAIN,
    # Of the deployment, and no platform's: for operators, and for leads what says nothing of a platform.
    ("GET", "/dashboard/models"): (Shot(writes=True),),  # a lead who looks at it has read what led there
    ("GET", "/dashboard/models/panel.csv"): PLAIN,
    ("POST", "/dashboard/models/rejudge"): (Shot(writes=True),),
    ("POST", "/dashboard/models/rollback"): (Shot(form={"reason": "words", "instead_of": "{version_id}"}),),
    ("POST", "/dashboard/models/<uuid:version_id>/promote"): (
        Shot(form={"reason": "words", "instead_of": "{version_id}"}),
    ),
    ("GET", "/dashboard/runs"): PLAIN,
    ("POST", "/dashboard/runs"): PLAIN,
    ("GET", "/dashboard/runs/<uuid:run_id>"): PLAIN,
    ("POST", "/dashboard/runs/<uuid:run_id>/cancel"): PLAIN,
    ("POST", "/dashboard/runs/<uuid:run_id>/promote"): (Shot(form={"reason": "words", "instead_of": "{version_id}"}),),
    ("POST", "/dashboard/runs/<uuid:run_id>/reject"): PLAIN,
    ("GET", "/dashboard/runs/<uuid:run_id>/report"): PLAIN,
}
# Who calls: a program, somebody who is signed in and works for nobody, nobody who is signed in.
KEY, OUTSIDER, NOBODY = "key", "outsider", "nobody"
MOST = (KEY, Role.ADMIN)
OPEN_TO_ALL = ("/dashboard/sign-in", "/dashboard/static")
# Parts of a path that name nothing of a platform.
WORDS = {"view": "full", "name": "volume", "path": "x"}


def routes(app: Application) -> set[Route]:
    """All there are."""
    methods = [(rule.rule, (rule.methods or set()) - {"HEAD", "OPTIONS"}) for rule in app.url_map.iter_rules()]
    return {(method, rule) for rule, those in methods for method in those}


@dataclass
class Caller:
    """Somebody of one platform: its program (`key`), a person in a role or in none, or nobody at all."""

    app: Application
    platform: Platform
    role: Role | str

    def __post_init__(self) -> None:
        self.http = self.app.test_client()
        if self.role == KEY:
            self.headers = {"Authorization": f"Bearer {self.platform.token}"}
            return
        if self.role != NOBODY:
            email = self.platform.email(self.role)
            token = accounts.sign_in(email, PASSWORD, address="127.0.0.1", browser="a test")
            self.http.set_cookie(cookies.SESSION, token)
        page = self.http.get("/dashboard/sign-in" if self.role == NOBODY else "/dashboard/account")
        found = TOKEN.search(page.text)
        assert found, page.text
        self.headers = {"X-CSRF-Token": found[1]}

    def fire(self, route: Route, shot: Shot, filled: Mapping[str, str]) -> TestResponse:
        """Send it, with everything that it names filled in."""
        method, rule = route
        return self.http.open(
            NAME.sub(lambda found: (WORDS | dict(filled))[found[1] or found[2]], rule),
            method=method,
            query_string=fill(shot.query, filled),
            headers={**self.headers, **fill(shot.headers, filled)},
            **({"json": fill(shot.json, filled)} if shot.json is not None else {"data": fill(shot.form, filled)}),
        )


def fill(said: Any, filled: Mapping[str, str]) -> Any:
    """With every `{name}` in it replaced."""
    if isinstance(said, str):
        return said.format(**filled)
    if isinstance(said, Mapping):
        return {name: fill(value, filled) for name, value in said.items()}
    return [fill(value, filled) for value in said]


@pytest.fixture(scope="module")
def both(engine: Engine) -> Iterator[Neighbours]:
    """The two platforms; what the tests of this module write stays within them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_hasher", lambda: CHEAP)
        patch.setattr(tenants, "PasswordHasher", lambda: CHEAP)
        made = neighbours()
        with transaction() as session:
            double = tenants.create_user(session, made.ours.email("double"), PASSWORD)
            tenants.add_member(session, double, made.ours.tenant, Role.ADMIN)
            tenants.add_member(session, double, made.theirs.tenant, Role.MODERATOR)
        yield made


@pytest.fixture(scope="module")
def callers(app: Application, both: Neighbours) -> list[Caller]:
    """Everybody of the platform that attacks, and nobody."""
    return [Caller(app, both.ours, role) for role in (KEY, OUTSIDER, NOBODY, *Role)]


def of(callers: list[Caller], route: Route) -> list[Caller]:
    """Who could try this route: programs, or people, or nobody (whom people's pages send to the sign-in page)."""
    of_people = route[1].startswith(auth.DASHBOARD) and not route[1].startswith(OPEN_TO_ALL)
    return [caller for caller in callers if (caller.role in (KEY, NOBODY)) is not of_people]


def aims(caller: Caller, names: frozenset[str]) -> list[frozenset[str]]:
    """What of the request is the other platform's: all of it; by who may the most, also one thing and the rest ours."""
    single = [frozenset({name}) for name in sorted(names)] if caller.role in MOST and len(names) > 1 else []
    return [names, *single]


def values(both: Neighbours, of_: Platform, foreign: frozenset[str], number: int = 0) -> dict[str, str]:
    """Everything that can be named: ours, but what is `foreign` of this platform, its so-manieth of several."""
    ours = {name: listed[0] for name, listed in both.ours.named.items()}
    return ours | {name: of_.named[name][number % len(of_.named[name])] for name in foreign}


def numbers(both: Neighbours, caller: Caller, foreign: frozenset[str]) -> range:
    """Of cases in a path, one in each condition, by who may the most."""
    several = "case_id" in foreign and caller.role in MOST
    return range(len(both.theirs.named["case_id"]) if several else 1)


def test_every_route_is_attacked(app: Application) -> None:
    assert set(SHOTS) == routes(app), "add a line to SHOTS: how the route is called, with {names} for what it takes"


@pytest.mark.parametrize("route", SHOTS, ids=" ".join)
def test_what_is_anothers_is_nobodys(both: Neighbours, callers: list[Caller], route: Route) -> None:
    for shot in SHOTS[route]:
        before = state(both, shot)
        for caller in of(callers, route):
            for foreign in aims(caller, shot.names(route[1])):
                attack(both, caller, route, shot, foreign)
            assert state(both, shot) == before, f"{caller.role}: {shot} has written"


def attack(both: Neighbours, caller: Caller, route: Route, shot: Shot, foreign: frozenset[str]) -> None:
    """Send it with what is the other platform's, and with what is nobody's: the same is told, and nothing of theirs."""
    nobodys = values(both, both.nobodys, foreign)
    blank = told(caller.fire(route, shot, nobodys), nobodys) if foreign else None
    for number in numbers(both, caller, foreign & shot.names(route[1], of_path=True)):
        theirs = values(both, both.theirs, foreign, number)
        answer = caller.fire(route, shot, theirs)
        what = f"{caller.role}: {shot} with their {sorted(foreign)}, {number}"
        assert not leaks(both, answer, theirs), what
        assert blank is None or shot.told or told(answer, theirs) == blank, what
        if foreign & shot.names(route[1], of_path=True):
            assert answer.status_code in (401, 403, 404), what


def state(both: Neighbours, shot: Shot) -> object:
    """What must be as it was: everything, or everything of the other platform's where something of ours is made."""
    return rows(both.own_ids) if shot.writes else digest()


def leaks(both: Neighbours, answer: TestResponse, sent: Mapping[str, str]) -> set[str]:
    """Words and ids of the other platform in an answer, but those that were sent."""
    said = f"{answer.headers}\n{answer.text}"
    for value in sent.values():
        said = said.replace(value, "…")
    return (both.own_ids & set(UUID_PATTERN.findall(said))) | ({both.theirs.mark} & set(re.findall(r"[a-z]+", said)))


def told(answer: TestResponse, sent: Mapping[str, str]) -> tuple[int, list[tuple[str, str]], str]:
    """The answer without ids, times and what was sent."""
    differs = ("Date", "X-Request-Id", "Content-Length")
    headers = [(name, blind(value, sent)) for name, value in answer.headers if name not in differs]
    return answer.status_code, headers, blind(answer.text, sent)


def blind(text: str, sent: Mapping[str, str]) -> str:
    """Without ids, times and what was sent."""
    for value in (*sent.values(), *(quote(value) for value in sent.values())):
        text = text.replace(value, "…")
    return PASSING.sub("…", UUID_PATTERN.sub("…", text))


# Pages whose picture or report would have to be in the object store, and those that are for operators.
NOT_FURNISHED = (
    "/rendition",
    "/views/<view>",
    "/dashboard/runs",
    "/dashboard/static",
    "/docs/",
    "/sign-in",
    "/statement-of",
)


def test_who_has_it_is_answered(app: Application, both: Neighbours) -> None:
    """What is attacked is there: its own platform reads it at every one of these addresses, with its mark in it."""
    owners = [Caller(app, both.theirs, KEY), Caller(app, both.theirs, Role.ADMIN)]
    marked = set()
    for method, rule in SHOTS:
        if method == "GET" and not any(part in rule for part in NOT_FURNISHED):
            own = {name: values[0] for name, values in both.theirs.named.items()}
            (owner,) = of(owners, (method, rule))
            answer = owner.fire((method, rule), SHOTS[method, rule][0], own)
            assert answer.status_code == 200, f"{rule}: {answer.text}"
            if both.theirs.mark in answer.text:
                marked.add(rule)
    assert len(marked) >= 20, marked


def test_a_role_elsewhere_is_no_role_here(app: Application, both: Neighbours) -> None:
    """An administrator of one platform who is a moderator of the other: of that one, a moderator and no more."""
    double = Caller(app, both.ours, "double")
    for route, shots in SHOTS.items():
        for shot in shots[:1]:
            names = shot.names(route[1])
            here = {name: values[0] for name, values in both.theirs.named.items()}
            if OF_A_PLATFORM in route[1]:
                before = digest()
                assert double.fire(route, shot, here).status_code == 403, route
                assert digest() == before, route
            elif "case_id" in names and route[1].endswith(("/bulk", "/lift")):
                before = digest()
                double.fire(route, shot, here)
                assert digest() == before, route
    assert double.fire(("GET", OF_A_CASE), Shot(), here).status_code == 200, "a moderator is one"


@dataclass
class Work:
    """What a request had the database and the object store do."""

    statements: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)


@contextmanager
def watched(app: Application) -> Iterator[Work]:
    """All that is asked of the database and the store within."""
    work, store = Work(), app.extensions[process.EXTENSION].storage

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.startswith("NOTIFY"):  # rung by another thread, for all requests of a moment
            work.statements.append(statement)

    def counted(name: str, original: Any) -> Any:
        return lambda *args, **options: (work.stored.append(name), original(*args, **options))[1]

    event.listen(engine_of(), "before_cursor_execute", note)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("put", "get", "head", "copy", "delete"):
            patch.setattr(store, name, counted(name, getattr(store, name)))
        yield work
    event.remove(engine_of(), "before_cursor_execute", note)


def test_bytes_that_another_has_cost_what_new_ones_cost(
    app: Application, both: Neighbours, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who submits what another platform has is told nothing by the answer, and nothing by the work that it takes."""
    monkeypatch.setattr(capacity, "LONGEST_S", 0)  # what waits is counted for every one
    ours, theirs = Caller(app, both.ours, KEY), Caller(app, both.theirs, KEY)
    shared, fresh = (encoded(picture(size=(64, 48), seed=seed), "PNG") for seed in (801, 802))
    assert submit(theirs, shared).status_code == 202
    told_, works = [], []
    submit(ours, png(803))  # the first notes that the key is in use, for a minute
    for data in (shared, fresh):
        with watched(app) as work:
            answer = submit(ours, data)
        told_.append((answer.status_code, shape(answer.get_json())))
        works.append(work)
    assert works[0] == works[1] and "put" in works[0].stored, "the bytes are stored for each who sends them"
    assert told_[0] == told_[1] and told_[0][0] == 202
    with watched(app) as work:
        submit(ours, shared)
    assert "put" not in work.stored, "one's own are known"


def submit(caller: Caller, data: bytes) -> TestResponse:
    """Send a file."""
    return caller.http.post("/v1/submissions", data={"image": (io.BytesIO(data), "x.png")}, headers=caller.headers)


def shape(case: Mapping[str, Any]) -> object:
    """A case without what is different of every one."""
    image = {**case["image"], "id": None, "sha256": None, "bytes": None}
    return {**case, "id": None, "created_at": None, "image": image}


def test_a_likeness_is_of_ones_own_images(both: Neighbours) -> None:
    """Both have an image of the very same hash, and each is told of its own alone."""
    with transaction() as session:
        for platform, other in ((both.ours, both.theirs), (both.theirs, both.ours)):
            case = session.get_one(Case, UUID(platform.named["case_id"][0]))
            assert case.image is not None
            likeness.match(session, case.tenant_id, case.image.id, Fingerprint(MATCHING, 100))
            found = likeness.others(session, case, restricted=True)
            assert found and {str(one.case.id) for one in found} <= set(platform.named["case_id"])
            assert not {str(one.case.id) for one in found} & set(other.named["case_id"])


def test_an_upload_form_is_for_its_own_key(app: Application, both: Neighbours, bucket: str) -> None:
    """Whoever has a form cannot write with it where another's upload, or original, is."""
    form = Caller(app, both.ours, KEY).fire(("POST", "/v1/uploads"), Shot(), {}).get_json()
    statuses = {}
    for key in (
        form["fields"]["key"],
        upload_key(both.theirs.tenant.id, new_id()),
        f"originals/{both.theirs.tenant.id}/x",
    ):
        fields = {**form["fields"], "key": key, "file": ("x.png", png(), "image/png")}
        statuses[key] = urllib3.request("POST", form["url"], fields=fields).status
    own, *others = statuses.values()
    assert own < 300 and others == [403, 403]


def test_a_link_is_for_its_own_object(app: Application, both: Neighbours, bucket: str) -> None:
    """Nor read with a link what another has."""
    store = app.extensions[process.EXTENSION].storage
    own, other = (f"originals/{platform.tenant.id}/{new_id()}" for platform in (both.ours, both.theirs))
    for key in (own, other):
        store.put(key, png(), "image/png")
    link = store.presigned_get(own, seconds=60)
    assert urllib3.request("GET", link).status == 200
    assert urllib3.request("GET", link.replace(own, other)).status == 403
    without = link.partition("?")[0].replace(own, other)
    assert urllib3.request("GET", without).status == 403
