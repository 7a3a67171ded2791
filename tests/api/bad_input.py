"""Everything a sender can get wrong: how it is sent, and what must come back. docs/api.md has the same table.

Links that cannot be read are not here: they are accepted, and a worker ends their case.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from standardwebhooks import Webhook
from werkzeug.test import TestResponse

from moderation import signing, sources, tenants
from moderation.db import transaction
from moderation.tables import Source
from moderation.vocabulary import Scope, SourceKind, SourceScheme
from tests import images
from tests.api.conftest import Client
from tests.factories import make_key

LINK = "https://example.com/picture.jpg"


@dataclass(frozen=True)
class Refused:
    """A line of the table: what is sent, the status and type that come back, and words of the detail."""

    line: str
    send: Callable[[Client], TestResponse]
    status: int
    kind: str
    says: str
    pointer: str | None = None


@dataclass(frozen=True)
class Accepted:
    """A line of the table about an image that looks odd and is judged all the same."""

    line: str
    data: Callable[[], bytes]
    media_type: str
    size: tuple[int, int] = (64, 48)
    frames: int = 1


def _two_images(client: Client) -> TestResponse:
    parts = [(io.BytesIO(images.png(seed)), f"{seed}.png") for seed in (1, 2)]
    return client.post("/v1/submissions", data={"image": parts})


def _revoked(client: Client) -> TestResponse:
    with transaction() as session:
        tenants.revoke_key(session, client.token.split("_")[1])
    return client.send()


def _narrow(client: Client) -> TestResponse:
    with transaction() as session:
        token = make_key(session, client.tenant, [Scope.CASES_READ])
    return client.send(headers={"Authorization": f"Bearer {token}"})


def make_source(client: Client, scheme: SourceScheme = SourceScheme.STANDARD, name: str = "platform") -> Source:
    """A source of the client's whose webhooks have the link at /image/url."""
    with transaction() as session:
        return sources.create(
            session,
            Source(
                tenant_id=client.tenant.id,
                name=name,
                scheme=scheme,
                kind=SourceKind.JSON,
                image_url_pointer="/image/url",
                external_id_pointer="/id",
            ),
        )


def webhook(
    client: Client,
    source: Source,
    *,
    secret: str | None = None,
    age: timedelta = timedelta(0),
    webhook_id: str = "msg_1",
) -> TestResponse:
    """Send one, signed by the official package."""
    body = json.dumps({"id": "post-1", "image": {"url": LINK}})
    moment = datetime.now(UTC) - age
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret or sources.secrets_of(source)[0]).sign(webhook_id, moment, body),
    }
    return client.http.post(f"/v1/hooks/{source.id}", data=body, headers=headers, content_type="application/json")


def _unsigned(client: Client) -> TestResponse:
    return client.http.post(f"/v1/hooks/{make_source(client).id}", json={"image": {"url": LINK}})


def _other_body(client: Client) -> TestResponse:
    key = {"Idempotency-Key": "once"}
    assert client.send(images.png(1), headers=key).status_code == 202
    return client.send(images.png(2), headers=key)


REFUSED = [
    Refused("Empty file", lambda c: c.send(b""), 422, "undecodable", "empty"),
    Refused("0×0 image", lambda c: c.send(images.png_claiming(0, 0)), 422, "undecodable", ""),
    Refused("Truncated JPEG", lambda c: c.send(images.truncated_jpeg()), 422, "undecodable", "cut off"),
    Refused(
        "PNG bomb (50,000 × 50,000)",
        lambda c: c.send(images.png_claiming(50_000, 50_000)),
        413,
        "image-too-large",
        "2500000000 pixels",
    ),
    Refused(
        "Floating-point or 32-bit samples",
        lambda c: c.send(images.encoded(images.picture("F"), "TIFF")),
        422,
        "undecodable",
        "no defined white",
    ),
    Refused("Text named .jpg", lambda c: c.send(b"not an image at all", name="a.jpg"), 415, "unsupported-type", "text"),
    Refused("SVG", lambda c: c.send(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "unsupported-type", "SVG"),
    Refused("Two images in one request", _two_images, 400, "invalid-request", "one image a request", "/image"),
    Refused(
        "Missing part",
        lambda c: c.post("/v1/submissions", data={"external_id": "a"}, content_type="multipart/form-data"),
        400,
        "invalid-request",
        "'image' is missing",
        "/image",
    ),
    Refused(
        "Malformed JSON",
        lambda c: c.post("/v1/submissions", data=b'{"image_url":', content_type="application/json"),
        400,
        "invalid-request",
        "not JSON",
    ),
    Refused(
        "Unknown field",
        lambda c: c.post("/v1/submissions", json={"image_url": LINK, "external-id": "a"}),
        400,
        "invalid-request",
        "no field 'external-id'",
        "/external-id",
    ),
    Refused(
        "Unknown tenant",
        lambda c: c.send(headers={"Authorization": "Bearer tt_0123456789ab_nobody"}),
        401,
        "unauthenticated",
        "unknown",
    ),
    Refused("Revoked key", _revoked, 401, "unauthenticated", "revoked"),
    Refused("Wrong scope", _narrow, 403, "forbidden", "submissions:write"),
    Refused(
        "Bad signature",
        lambda c: webhook(c, make_source(c), secret=signing.new_secret()),
        401,
        "signature-invalid",
        "No signature matches",
    ),
    Refused("Missing signature", _unsigned, 401, "signature-invalid", "is missing"),
    Refused(
        "Expired signature",
        lambda c: webhook(c, make_source(c), age=timedelta(minutes=10)),
        401,
        "signature-invalid",
        "old",
    ),
    Refused(
        "Same Idempotency-Key, another body",
        _other_body,
        422,
        "idempotency-mismatch",
        "Use a new key",
    ),
    Refused(
        "Link that is not http(s)",
        lambda c: c.post("/v1/submissions", json={"image_url": "file:///etc/passwd"}),
        400,
        "address-refused",
        "http",
        "/image_url",
    ),
]

ACCEPTED = [
    Accepted("Animated GIF", lambda: images.animation("GIF"), "image/gif", frames=3),
    Accepted("Animated WebP", lambda: images.animation("WEBP"), "image/webp", frames=3),
    Accepted("TIFF with pages", lambda: images.animation("TIFF"), "image/tiff", frames=3),
    Accepted("CMYK", lambda: images.encoded(images.picture("CMYK"), "JPEG"), "image/jpeg"),
    Accepted("16-bit", lambda: images.encoded(images.picture("I;16")), "image/png"),
    Accepted("Palette with transparency", images.palette_with_transparency, "image/png"),
    Accepted("EXIF-rotated", images.turned_by_exif, "image/jpeg", size=(48, 64)),
    Accepted("HEIC", lambda: images.encoded(images.picture(), "HEIF"), "image/heic"),
    Accepted("AVIF", lambda: images.encoded(images.picture(), "AVIF"), "image/avif"),
]
