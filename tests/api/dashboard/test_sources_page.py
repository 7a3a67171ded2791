"""The sources' pages: made, changed, tried without being sent; secrets are shown once."""

from __future__ import annotations

import html
import re
import shlex
from itertools import pairwise

import pytest
from sqlalchemy import func, select

from moderation import inbound, sealing, signing, sources
from moderation.db import transaction
from moderation.tables import Case, ReceivedWebhook, Source, Tenant
from moderation.vocabulary import SourceKind, SourceScheme
from tests.api.dashboard.conftest import Browser
from tests.platforms import Furnished, make_source

SECRET = re.compile(r'value="(whsec_[^"]+)"')
SENT = {"name": "photos", "scheme": "standard_webhooks", "kind": "json", "image_url_pointer": "/url"}
BODY = '{"data": {"image": {"url": "https://example.com/a.jpg"}, "id": 17}}'
S3 = {"name": "bucket", "scheme": "bearer", "kind": "s3_event", "s3_access_key": "AKIA", "s3_secret_key": "hush-hush"}


def row(source: Source) -> Source:
    with transaction() as session:
        return session.get_one(Source, source.id)


def s3_key(source: Source) -> str:
    assert source.s3_secret_key is not None
    return sealing.unseal(source.s3_secret_key, source.id)


def only() -> Source:
    with transaction() as session:
        return session.scalars(select(Source)).one()


def test_without_one_it_is_said_what_to_do(ada: Browser, tenant: Tenant) -> None:
    assert "There is no source yet" in ada.get(f"/dashboard/platforms/{tenant.id}/sources").text


def test_a_new_ones_secret_is_shown_once(ada: Browser, tenant: Tenant) -> None:
    path = f"/dashboard/platforms/{tenant.id}/sources"
    answer = ada.post(path, SENT)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    (secret,) = SECRET.findall(answer.text)
    made = only()
    assert (made.tenant_id, made.name, made.image_url_pointer) == (tenant.id, "photos", "/url")
    assert sources.secrets_of(made) == [secret]
    assert f"/v1/hooks/{made.id}" in answer.text
    for shown in (path, f"{path}/{made.id}"):
        assert secret not in ada.get(shown).text


def test_a_platforms_own_secret_is_never_shown(ada: Browser, tenant: Tenant) -> None:
    own = signing.new_secret()
    answer = ada.post(f"/dashboard/platforms/{tenant.id}/sources", {**SENT, "secret": own})
    assert answer.status_code == 303 and sources.secrets_of(only()) == [own]
    assert own not in ada.get(answer.location).text


def test_an_s3_events_key_is_kept_unless_another_is_given_and_never_shown(ada: Browser, tenant: Tenant) -> None:
    ada.post(f"/dashboard/platforms/{tenant.id}/sources", S3)
    made = only()
    assert (made.kind, s3_key(made)) == (SourceKind.S3_EVENT, "hush-hush")
    path = f"/dashboard/platforms/{tenant.id}/sources/{made.id}"
    assert "hush-hush" not in ada.get(path).text
    assert ada.post(path, {**S3, "s3_secret_key": "", "s3_region": "eu-west-1"}).status_code == 303
    assert (s3_key(row(made)), row(made).s3_region) == ("hush-hush", "eu-west-1")
    ada.post(path, {**S3, "s3_secret_key": "changed"})
    assert (s3_key(row(made)), row(made).s3_region) == ("changed", None)


@pytest.mark.parametrize(
    ("wrong", "status", "words"),
    [
        ({"name": ""}, 400, "A name has 1 to 100"),
        ({"name": "uploads"}, 409, "already"),
        ({"image_url_pointer": ""}, 400, "needs image_url_pointer"),
        ({"image_url_pointer": "url"}, 400, "is not a JSON Pointer"),
        ({"scheme": "x"}, 400, "Choose how the platform signs"),
        ({"secret": "not base64!"}, 400, "and base64"),
        ({"kind": "s3_event"}, 400, "needs its own s3_access_key"),
    ],
)
def test_one_that_could_not_work_is_not_made_and_what_was_typed_stays(
    ada: Browser, ours: Furnished, wrong: dict[str, str], status: int, words: str
) -> None:
    answer = ada.post(ours.path("/sources"), {**SENT, "id_header": "X-Mine", **wrong})
    assert answer.status_code == status and words in html.unescape(answer.text)
    assert 'value="X-Mine"' in answer.text
    assert only().id == ours.source.id
    if "secret" not in wrong:
        changed = ada.post(ours.path("/sources/{source}"), {**SENT, "id_header": "X-Mine", **wrong})
        assert changed.status_code == (303 if wrong.get("name") else status)


def test_it_is_changed(ada: Browser, ours: Furnished) -> None:
    answer = ada.post(ours.path("/sources/{source}"), {**SENT, "scheme": "github", "metadata_pointer": "/about"})
    assert answer.location == ours.path("/sources/{source}") + "?said=source_changed"
    now = row(ours.source)
    assert (now.name, now.scheme, now.metadata_pointer) == ("photos", SourceScheme.GITHUB, "/about")
    assert now.secrets == ours.source.secrets and now.external_id_pointer is None


def test_a_rotated_secret_is_shown_once_and_an_own_one_not(ada: Browser, ours: Furnished) -> None:
    path = ours.path("/sources/{source}/secret")
    (fresh,) = SECRET.findall(ada.post(path).text)
    assert sources.secrets_of(row(ours.source)) == [fresh, *sources.secrets_of(ours.source)]
    own = signing.new_secret()
    answer = ada.post(path, {"secret": own})
    assert answer.status_code == 303 and sources.secrets_of(row(ours.source)) == [own, fresh]
    wrong = ada.post(path, {"secret": "short"})
    assert wrong.status_code == 400 and "and base64" in wrong.text
    assert sources.secrets_of(row(ours.source)) == [own, fresh]


def test_disabled_and_enabled(ada: Browser, ours: Furnished) -> None:
    ada.post(ours.path("/sources/{source}/disable"))
    assert row(ours.source).disabled_at is not None
    assert "Enable" in ada.get(ours.path("/sources/{source}")).text
    ada.post(ours.path("/sources/{source}/enable"))
    assert row(ours.source).disabled_at is None


# --- Trying ---


def tried(ada: Browser, ours: Furnished, source: Source | None = None, **sent: str) -> str:
    path = ours.path(f"/sources/{(source or ours.source).id}/try")
    answer = ada.post(path, {"body": BODY, **sent})
    assert answer.status_code == 200
    with transaction() as session:
        assert session.scalar(select(func.count(Case.id))) == 1, "the failed one: nothing is submitted"
        assert session.scalar(select(func.count(ReceivedWebhook.webhook_id))) == 0
    return html.unescape(re.sub(r"<[^>]+>", "", answer.text.partition("data-trial")[2]))


def test_what_would_be_read_is_shown(ada: Browser, ours: Furnished) -> None:
    shown = tried(ada, ours)
    assert "holds" in shown and "https://example.com/a.jpg" in shown and "17" in shown and '"image"' in shown


def test_lines_are_as_the_platform_signed_them(ada: Browser, ours: Furnished) -> None:
    body = BODY.replace(", ", ",\n")
    headers = inbound.signed(ours.source, body.encode())
    pasted = "\r\n".join(f"{name.title()}: {value}" for name, value in headers.items())
    assert "holds" in tried(ada, ours, body=body.replace("\n", "\r\n"), headers=pasted)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"headers": "webhook-id: 1"}, "The header 'webhook-timestamp' is missing"),
        ({"headers": "nothing"}, "The header 'webhook-id' is missing"),
        ({"body": "{"}, "is not JSON"),
        ({"body": "{}"}, "At the top there is an object with nothing in it"),
        ({"body": BODY.replace("https", "ftp")}, "Pointer /data/image/url"),
        ({"body": "\x00"}, "is not JSON"),
    ],
)
def test_what_is_wrong_is_said(ada: Browser, ours: Furnished, sent: dict[str, str], words: str) -> None:
    assert words in tried(ada, ours, **sent)


@pytest.mark.parametrize("scheme", list(SourceScheme))
def test_the_command_sends_it_and_holds_no_secret(ada: Browser, ours: Furnished, scheme: SourceScheme) -> None:
    with transaction() as session:
        made = make_source(ours.tenant, scheme)
        made.name = "other"
        source = sources.create(session, made)
    body = BODY.replace("17", '"o\'hare $(rm) `x`"')
    shown = tried(ada, ours, source, body=body)
    command = shown[shown.index("curl ") :].partition("\n      ")[0]
    (secret,) = sources.secrets_of(source)
    assert secret not in shown
    command = command.replace("\\\n", " ").replace("$TELLTALE_SOURCE_SECRET", secret)
    parts = shlex.split(command)
    headers = dict(part.split(": ", 1) for flag, part in pairwise(parts) if flag == "-H")
    data = parts[parts.index("--data-binary") + 1]
    assert parts[1].endswith(f"/v1/hooks/{source.id}") and data == body
    answer = ada.http.post(f"/v1/hooks/{source.id}", data=data, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json is not None and answer.json["cases"][0]["external_id"] == "o'hare $(rm) `x`"
