"""Forged webhooks and misplaced keys: nothing but the scheme a source was told opens it, and a key is a header."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select
from standardwebhooks import Webhook

from moderation import sealing, signing, sources
from moderation.db import transaction
from moderation.tables import Case, ReceivedWebhook, Source
from moderation.vocabulary import SourceScheme
from tests.api.bad_input import LINK, make_source
from tests.api.conftest import Client

BODY = json.dumps({"id": "post-1", "image": {"url": LINK}}).encode()
Headers = dict[str, str]


def standard(secret: str, *, at: datetime | None = None, body: bytes = BODY) -> Headers:
    return signing.sign([secret], "msg_1", at or datetime.now(UTC), body)


def github(secret: str) -> Headers:
    return {"X-Hub-Signature-256": signing.sign_github(secret, BODY)}


def bearer(secret: str) -> Headers:
    return {"Authorization": f"Bearer {secret}"}


WELL_SIGNED = {SourceScheme.STANDARD: standard, SourceScheme.GITHUB: github, SourceScheme.BEARER: bearer}


def knock(client: Client, source: Source, headers: Headers, body: bytes = BODY) -> int:
    return client.http.post(f"/v1/hooks/{source.id}", data=body, headers=headers).status_code


def kept() -> int:
    """What came of webhooks: cases, and ids that are remembered."""
    with transaction() as session:
        return sum(session.scalar(select(func.count()).select_from(table)) or 0 for table in (Case, ReceivedWebhook))


@pytest.mark.parametrize("told", list(SourceScheme))
def test_a_source_takes_its_own_scheme_and_no_weaker_one(client: Client, told: SourceScheme) -> None:
    source = make_source(client, told)
    (secret,) = sources.secrets_of(source)
    for other in set(SourceScheme) - {told}:
        assert knock(client, source, WELL_SIGNED[other](secret)) == 401, other
    assert knock(client, source, {}) == 401
    assert kept() == 0
    assert knock(client, source, WELL_SIGNED[told](secret)) == 202


def resigned(digest: str, prefix: str) -> Callable[[str], Headers]:
    """Standard Webhooks with another digest, under another version's name."""

    def made(secret: str) -> Headers:
        headers = standard(secret)
        content = f"msg_1.{headers['webhook-timestamp']}.".encode() + BODY
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.new(key, content, digest).digest()).decode()
        return headers | {"webhook-signature": f"{prefix},{signature}"}

    return made


def with_signature(change: Callable[[str], str]) -> Callable[[str], Headers]:
    def made(secret: str) -> Headers:
        headers = standard(secret)
        return headers | {"webhook-signature": change(headers["webhook-signature"])}

    return made


@pytest.mark.parametrize(
    "forged",
    [
        resigned("sha256", "v1a"),
        resigned("sha256", "v0"),
        resigned("sha256", ""),
        resigned("sha1", "v1"),
        resigned("sha512", "v1"),
        with_signature(lambda right: right.replace("v1,", "V1,")),
        with_signature(lambda right: "v1,"),
        with_signature(lambda right: f"none {right.replace('v1,', 'none,')}"),
        with_signature(lambda right: right[:20]),
        with_signature(lambda right: f"{right}A"),
        lambda secret: standard("whsec_" + base64.b64encode(b"\0" * 32).decode()),
        lambda secret: standard("whsec_" + base64.b64encode(secret.encode()).decode()),
        lambda secret: standard(secret, body=b"{}"),
        lambda secret: standard(secret) | {"webhook-id": "msg_2"},
        lambda secret: standard(secret, at=datetime.now(UTC) - timedelta(minutes=6)),
        lambda secret: standard(secret, at=datetime.now(UTC) + timedelta(minutes=6)),
        lambda secret: (
            standard(secret, at=datetime.now(UTC) - timedelta(minutes=6))
            | {"webhook-timestamp": str(int(datetime.now(UTC).timestamp()))}
        ),
    ],
)
def test_no_other_version_digest_key_id_or_time_is_taken(client: Client, forged: Callable[[str], Headers]) -> None:
    source = make_source(client)
    (secret,) = sources.secrets_of(source)
    assert knock(client, source, forged(secret)) == 401
    assert kept() == 0
    assert knock(client, source, standard(secret)) == 202, "it is the forgery that was refused"


@pytest.mark.parametrize("digest", ["sha1", "md5", "sha512"])
def test_no_weaker_digest_of_githubs_is_taken(client: Client, digest: str) -> None:
    source = make_source(client, SourceScheme.GITHUB)
    (secret,) = sources.secrets_of(source)
    signature = hmac.new(secret.encode(), BODY, digest).hexdigest()
    for header, value in (
        ("X-Hub-Signature", f"{digest}={signature}"),
        ("X-Hub-Signature-256", f"{digest}={signature}"),
        ("X-Hub-Signature-256", f"sha256={signature}"),
        ("X-Hub-Signature-256", hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()),
    ):
        assert knock(client, source, {header: value}) == 401
    assert kept() == 0


@pytest.mark.parametrize("scheme", list(SourceScheme))
def test_a_source_whose_secret_is_empty_is_open_to_nobody(client: Client, scheme: SourceScheme) -> None:
    source = make_source(client, scheme)
    with transaction() as session:
        session.get_one(Source, source.id).secrets = [sealing.seal("", source.id)]
    digest = hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    signed = Webhook(b"\0").sign("msg_1", datetime.now(UTC), BODY.decode())
    empty = {"X-Hub-Signature-256": f"sha256={digest}", "Authorization": "Bearer ", "webhook-signature": signed}
    assert knock(client, source, {**standard(signing.new_secret()), **empty}) in (401, 500)
    assert kept() == 0


def test_a_webhook_sent_again_within_the_tolerance_opens_no_second_case(client: Client) -> None:
    source = make_source(client)
    captured = standard(sources.secrets_of(source)[0])
    assert [knock(client, source, captured) for _ in range(3)] == [202] * 3
    assert kept() == 2, "one case, and one id that is remembered"
    elsewhere = make_source(client, name="other")
    assert knock(client, elsewhere, captured) == 401, "another source has another secret"


def test_a_webhook_is_known_again_by_the_id_that_is_signed(client: Client) -> None:
    """Also where a source names another header, which whoever captured a webhook can write as they like."""
    source = make_source(client)
    with transaction() as session:
        session.get_one(Source, source.id).id_header = "X-Event-Id"
    captured = standard(sources.secrets_of(source)[0])
    assert [knock(client, source, {**captured, "X-Event-Id": id_}) for id_ in ("e-1", "e-2")] == [202, 202]
    assert kept() == 2, "one case, and one id that is remembered"


def test_the_secret_before_the_one_before_is_no_secret_any_more(client: Client) -> None:
    source = make_source(client)
    secrets = sources.secrets_of(source)
    for _ in range(2):
        with transaction() as session:
            row = sources.source_of(session, client.tenant.id, source.id)
            secrets.append(sources.rotate_secret(session, row, None, actor="user:ada"))
    assert [knock(client, source, standard(secret)) for secret in secrets] == [401, 202, 202]


@pytest.mark.parametrize(
    "place",
    [
        lambda token: {"path": f"/v1/cases?api_key={token}&access_token={token}&token={token}&key={token}"},
        lambda token: {"headers": {"X-API-Key": token, "Api-Key": token, "Proxy-Authorization": f"Bearer {token}"}},
        lambda token: {"headers": {"Cookie": f"telltale_session={token}; authorization=Bearer {token}"}},
        lambda token: {"headers": {"Authorization": "Basic " + base64.b64encode(f"{token}:".encode()).decode()}},
        lambda token: {"base_url": f"http://{token}@localhost/"},
        lambda token: {"data": {"Authorization": f"Bearer {token}", "api_key": token}},
        lambda token: {"headers": {"Authorization": f"Bearer {token[:-1]}"}},
        lambda token: {"headers": {"Authorization": f"Bearer {token}x"}},
        lambda token: {"headers": {"Authorization": f"Bearer {token.upper()}"}},
    ],
    ids=["query", "other headers", "cookie", "basic", "userinfo", "form", "cut short", "longer", "in capitals"],
)
def test_a_key_is_taken_from_its_header_only_and_to_the_letter(
    client: Client, place: Callable[[str], dict[str, object]]
) -> None:
    request = {"path": "/v1/cases", **place(client.token)}
    answer = client.http.get(**request)  # type: ignore[arg-type]
    assert answer.status_code == 401 and client.token not in answer.text
