"""One of each secret, every route with it, every line that is logged: none of its bytes comes out again.

What an answer may hold is a secret that it has just made, the one time; from then on that one is looked for too.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from werkzeug.test import TestResponse

from api.app import Application
from moderation import accounts, attempts, endpoints, events, logs, sources, tenants
from moderation.db import new_id, transaction
from moderation.settings import settings
from moderation.tables import Endpoint, Source, User
from moderation.vocabulary import SourceKind, SourceScheme
from tests.api.dashboard.conftest import PASSWORD, Browser
from tests.conftest import SECRET_KEY
from tests.factories import make_key
from tests.platforms import Furnished
from tests.reviewing import make_review_case

pytestmark = pytest.mark.usefixtures("bucket")

# What is shown once, in the answer that made it.
MADE = re.compile(r"whsec_[A-Za-z0-9+/=]{40,}|tt_[0-9a-f]{12}_[A-Za-z0-9_-]{40,}")
OWN, S3_KEY = "the platform's own bearer token", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
BODIES: tuple[dict[str, Any], ...] = (
    {"json": {"url": "https://93.184.215.14/hook", "secret": OWN}},
    {
        "data": {
            "name": "x",
            "url": "https://93.184.215.14/",
            "secret": OWN,
            "s3_secret_key": S3_KEY,
            "email": "e",
            "password": PASSWORD,
        }
    },
)
# Leaves the walker signed out, or is not ours to fill in.
NOT_WALKED = {"/dashboard/sign-out"}


@dataclass
class Secrets:
    """What is looked for, by what it is."""

    known: dict[str, str] = field(default_factory=dict)

    def found_in(self, text: str) -> list[str]:
        """The names of those that stand in a text, as they are or escaped."""
        plain = text.replace("\\/", "/").replace("&#39;", "'").replace("&#43;", "+").replace("\\u0027", "'")
        return [name for name, secret in self.known.items() if secret in plain]


@pytest.fixture
def secrets(ours: Furnished, ada: Browser) -> Secrets:
    """One of each, made before anything is asked for."""
    with transaction() as session:
        endpoint = session.get_one(Endpoint, ours.endpoint.id)
        first, second = endpoints.secrets_of(endpoint)[0], endpoints.rotate_secret(session, endpoint)
        inbound = sources.secrets_of(session.get_one(Source, ours.source.id))[0]
        bucket = Source(
            tenant_id=ours.tenant.id,
            name="bucket",
            scheme=SourceScheme.BEARER,
            kind=SourceKind.S3_EVENT,
            s3_access_key="AKIA",
        )
        sources.create(session, bucket, secret=OWN, s3_secret_key=S3_KEY)
        key = make_key(session, ours.tenant)
        assert ada.user and ada.session_cookie
        user = session.get_one(User, ada.user.id)
        user.operator = True
        hash_ = user.password_hash
    rules = settings()
    return Secrets(
        {
            "an endpoint's secret": first,
            "its newer one": second,
            "a source's secret": inbound,
            "a platform's own": OWN,
            "the key of its bucket": S3_KEY,
            "an API key": key,
            "its secret part": key.split("_", 2)[2],
            "a sign-in": ada.session_cookie,
            "its hash": tenants.digest(ada.session_cookie),
            "a password": PASSWORD,
            "its hash, too": hash_,
            "the key of them all": SECRET_KEY,
            "the key as Python prints it": repr(rules.secret_keys[0])[2:-1],
            "the database's password": str(make_url(rules.database_url).password),
            "the broker's password": str(make_url(rules.redis_url).password),
            "the store's key": str(rules.s3_secret_key),
        }
    )


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """All that is logged at TELLTALE_LOG_LEVEL=DEBUG, by the api's own configuration."""
    root, lines = logging.getLogger(), io.StringIO()
    before, level, hooks = list(root.handlers), root.level, (sys.excepthook, threading.excepthook)
    try:
        logs.configure("api", settings().model_copy(update={"log_level": "DEBUG"}))
        (handler,) = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(lines)
        yield lines
    finally:
        root.handlers, root.level = before, level
        sys.excepthook, threading.excepthook = hooks
        logging.captureWarnings(False)
        for name in (*logs.OURS, *logs.QUIET):
            logging.getLogger(name).setLevel(logging.NOTSET)


def requests(app: Application, ours: Furnished, case_id: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every method and path there is, of the platform's own things with every body, and of nobody's."""
    own = {
        "tenant_id": ours.tenant.id,
        "case_id": case_id,
        "key_id": ours.key.id,
        "source_id": ours.source.id,
        "endpoint_id": ours.endpoint.id,
        "delivery_id": ours.delivery.id,
    }
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if rule.rule in NOT_WALKED:
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            bodies = ({},) if method == "GET" else BODIES
            yield from ((method, filled(rule.rule, own), body) for body in bodies)
            if rule.arguments:
                yield method, filled(rule.rule, {}), bodies[0]


def filled(rule: str, ids: Mapping[str, object]) -> str:
    """A rule with these ids in it, and nobody's for the others."""
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda name: str(ids.get(name[1], new_id())), rule)


def shown(answer: TestResponse) -> str:
    """All of an answer that a client, a proxy or a log of theirs sees; cookies are for the browser alone."""
    headers = [f"{name}: {value}" for name, value in answer.headers if name != "Set-Cookie"]
    return "\n".join([answer.request.url, answer.status, *headers, answer.text])


def test_no_route_and_no_log_line_shows_a_secret_again(
    app: Application, ada: Browser, ours: Furnished, secrets: Secrets
) -> None:
    with transaction() as session:
        case_id = str(make_review_case(session, ours.tenant).id)
    token = ada.token()
    headers = {"Authorization": f"Bearer {secrets.known['an API key']}", "X-CSRF-Token": token}
    leaks, walked = [], 0
    with logged() as lines:
        for method, path, body in requests(app, ours, case_id):
            answer = ada.http.open(path, method=method, headers=headers, **body)
            walked += 1
            leaks += [f"{method} {path} {answer.status}: {name}" for name in secrets.found_in(shown(answer))]
            for made in MADE.findall(answer.text):
                secrets.known[f"made by {method} {path}"] = made
        leaks += [f"the log: {name}" for name in secrets.found_in(lines.getvalue())]
    assert walked > 200 and len([name for name in secrets.known if name.startswith("made by")]) >= 3
    assert leaks == []
    assert ada.get("/dashboard/account").status_code == 200, "signed in to the end"


def test_what_was_typed_into_a_secret_field_is_not_typed_back(ada: Browser, ours: Furnished, secrets: Secrets) -> None:
    wrong = {"name": "", "scheme": "bearer", "kind": "json", "secret": "typed-secret", "s3_secret_key": "typed-s3"}
    answers = [
        ada.post(ours.path("/sources"), wrong),
        ada.post(ours.path("/sources/{source}"), wrong),
        ada.post(ours.path("/sources/{source}/secret"), {"secret": "typed-secret not base64"}),
        ada.post("/dashboard/account/password", {"old_password": "typed-old", "new_password": "typed-new"}),
        ada.post("/dashboard/sign-in", {"email": "a@b.example", "password": "typed-password"}),
    ]
    assert [answer.status_code for answer in answers[:4]] == [400] * 4
    assert [answer.request.path for answer in answers if "typed-" in answer.text] == []


def test_a_defect_while_a_secret_is_in_hand_logs_none_of_it(
    ada: Browser, ours: Furnished, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(events, "record", broken)
    ada.http.application.config["PROPAGATE_EXCEPTIONS"] = False
    with logged() as lines:
        asked = [
            (ours.path("/endpoints/{endpoint}/secret"), {}),
            (ours.path("/sources/{source}/secret"), {"secret": "whsec_" + "A" * 43 + "="}),
            (
                ours.path("/sources"),
                {"name": "n", "scheme": "bearer", "kind": "json", "secret": OWN, "image_url_pointer": "/u"},
            ),
        ]
        answers = [ada.post(path, data) for path, data in asked]
    assert [answer.status_code for answer in answers] == [500] * 3
    log = lines.getvalue()
    assert log.count("RuntimeError: broken") == 3
    secrets.known["the secret that was sent"] = "whsec_" + "A" * 43 + "="
    assert secrets.found_in(log) == [] and not MADE.search(log)


def test_nothing_that_holds_a_secret_prints_it(ours: Furnished, secrets: Secrets) -> None:
    with transaction() as session:
        endpoint = session.get_one(Endpoint, ours.endpoint.id)
        delivery = endpoints.ping(session, endpoint)
        parcel = attempts.take(session, delivery.id, accounts.LONGEST_IDLE)
        source = session.get_one(Source, ours.source.id)
        held = [settings(), endpoint, source, delivery, parcel, vars(source), vars(endpoint)]
    assert parcel is not None and parcel.secrets
    assert [repr(thing) for thing in held if secrets.found_in(repr(thing))] == []
