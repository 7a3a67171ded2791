"""Hostile files, sent as a platform would send them: what is taken is an image to everybody, and what it says is text.

tests/attacks/test_corpus.py has the malformed files of others, tests/moderation/test_images.py the limits on pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import urllib3
from PIL import Image as Pixels
from PIL.PngImagePlugin import PngInfo
from sqlalchemy import select
from werkzeug.test import TestResponse

from api.app import Application
from model.decode import to_rgb
from moderation import images, originals, provenance, views
from moderation.db import new_id, transaction
from moderation.errors import BadImage, Undecodable
from moderation.sandbox import Sandbox
from moderation.settings import settings
from moderation.storage import Storage
from moderation.tables import Case, Image, Tenant
from moderation.vocabulary import Role, View
from tests.api.conftest import Client, client
from tests.api.dashboard.conftest import Browser, browser_of, cheap_passwords, tenant
from tests.attacks import files
from tests.attacks.files import SCRIPT, chunk, png_with
from tests.exhibiting import exhibit
from tests.factories import make_key
from tests.images import encoded, picture
from tests.reviewing import make_review_case

__all__ = ["browser_of", "cheap_passwords", "client", "tenant"]

MEBIBYTE = 1024 * 1024
LIMIT = 100_000_000  # pixels
# A quarter of what a decoder may have: a bomb must not come near it.
SMALL = 512 * MEBIBYTE


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(1, SMALL, settings().decode_timeout_s)
    yield box
    box.close()


# --- Two things at once, and things that are not what they are called ---


@pytest.mark.parametrize("name", files.POLYGLOTS)
def test_a_polyglot_is_an_image_and_its_pictures_are_nothing_else(name: str) -> None:
    data = files.POLYGLOTS[name]()
    facts = images.inspect(data, LIMIT)
    assert facts.media_type.removeprefix("image/") == name.split(maxsplit=1)[0].lower()
    pixels = to_rgb(data)
    assert pixels.info == {}
    for made in (views.encoded(pixels), views.made(data, View.FULL, LIMIT)):
        with Pixels.open(BytesIO(made)) as shown:
            assert set(shown.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        for trace in (b"script", b"alert", b"html", b"PK\x03\x04", b"%PDF"):
            assert trace not in made


@pytest.mark.parametrize("name", files.LIES)
def test_what_is_no_image_is_refused_whatever_it_is_called(client: Client, name: str) -> None:
    data, called, named = files.LIES[name]
    part = (BytesIO(data), called, "image/png")
    answer = client.post("/v1/submissions", data={"image": part})
    assert answer.status_code == 415 and f"The file is {named}" in answer.get_json()["detail"]
    assert answer.mimetype == "application/problem+json"


@pytest.mark.parametrize("declared", ["text/html", "image/svg+xml", "application/javascript", "x/y; charset=\xe9"])
def test_an_image_is_what_its_bytes_are_whatever_is_declared(client: Client, declared: str) -> None:
    part = (BytesIO(files.POLYGLOTS["PNG that is an archive too"]()), "page.html", declared)
    answer = client.post("/v1/submissions", data={"image": part})
    assert answer.status_code == 202, answer.text
    link = client.get(f"/v1/images/{answer.get_json()['image']['id']}/original").get_json()["url"]
    stored = urllib3.request("GET", link)
    assert stored.headers["Content-Type"] == "image/png"
    # Whoever opens the link gets a file, not a page of the store's.
    assert stored.headers["Content-Disposition"] == "attachment"
    assert urlsplit(link).netloc != urlsplit(settings().public_url).netloc


# --- Bombs and circles ---

FRAMES = {
    "GIF": (files.many_gif_frames, files.FRAMES),
    "APNG": (files.many_png_frames, files.FRAMES),
    "WebP": (files.many_webp_frames, files.FRAMES),
    "APNG that says it has two billion": (files.claimed_png_frames, images.MAX_FRAMES),
    "TIFF, more pages than are counted": (lambda: files.tiff(30_000), images.MAX_PAGES),
    "TIFF that is its own next page": (lambda: files.tiff(1, 0), 1),
    "TIFF in a circle": (lambda: files.tiff(3, 0), 3),
    "TIFF with a circle at its end": (lambda: files.tiff(5, 3), 5),
    "HEIC grid": (lambda: files.heif_grid(2, 2, 128, 128), 2),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_counted_and_not_decoded(sandbox: Sandbox, name: str) -> None:
    made, count = FRAMES[name]
    data = made()
    facts = sandbox.call(images.inspect, data, LIMIT)
    assert facts.frames == count
    assert sandbox.call(to_rgb, data).size == (facts.width, facts.height)
    assert set(sandbox.call(provenance.read, data, facts.media_type)) <= {"exif", "texts", "xmp"}


def deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


REFUSED = {
    "HEIC that says it is vast": lambda: files.claiming("HEIF", 60_000, 60_000),
    "AVIF that says it is vast": lambda: files.claiming("AVIF", 60_000, 60_000),
    "HEIC of no size": lambda: files.claiming("HEIF", 0, 0),
    "HEIC grid of 4 gigapixels": lambda: files.heif_grid(255, 255, 65_535, 65_535),
    "HEIC grid larger than its tiles": lambda: files.heif_grid(2, 2, 9_000, 9_000),
    "colour profile that unpacks to 64 MB": lambda: png_with(chunk(b"iCCP", b"x\0\0" + deflated(64_000_000))),
    "text that unpacks to 64 MB": lambda: png_with(chunk(b"zTXt", b"x\0\0" + deflated(64_000_000))),
    "200 texts of 1 MB": lambda: png_with(*[chunk(b"zTXt", b"x\0\0" + deflated(1_000_000))] * 200),
    "JPEG of 110 scans": lambda: files.jpeg_of_scans(100),
    "TIFF whose tag has 4 GB": lambda: files.tiff(1).replace(
        b"\x02\x01\x04\x00\x01", b"\x02\x01\x04\x00\xff\xff\xff\xff"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bomb_is_refused_with_advice(sandbox: Sandbox, name: str) -> None:
    data = REFUSED[name]()
    with pytest.raises(BadImage, match="send "):
        sandbox.call(images.inspect, data, LIMIT)


MARKED = b'CreatorTool="x' + b" " * 2_000_000
HARMLESS = {
    "XMP of 20 MB": (lambda: png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + MARKED * 10)), "image/png"),
    "XMP of half tags": (lambda: encoded(picture(), "WEBP", xmp=b"photoshop:Credit>" * 500_000), "image/webp"),
    "EXIF again and again": (
        lambda: files.jpeg_with_segments(0xE1, files.exif_with_script().tobytes(), 2_000),
        "image/jpeg",
    ),
    "JPEG of a few more scans than usual": (lambda: files.jpeg_of_scans(30), "image/jpeg"),
    "bytes before and behind a JPEG that look like scans": (
        lambda: files.jpeg_with_segments(0xE5, b"\xff\xda" * 30_000, 1) + b"\xff\xda\0\2" * 1_000,
        "image/jpeg",
    ),
    "profile that is none": (lambda: encoded(picture(), "JPEG", icc_profile=b"\xff" * 60_000), "image/jpeg"),
    "profile cut off": (lambda: encoded(picture(), "PNG", icc_profile=b"\0\0\x02\0ADBE"), "image/png"),
    "profile in 255 parts, all missing but one": (
        lambda: files.jpeg_with_segments(0xE2, b"ICC_PROFILE\0\x01\xff" + bytes(60_000), 1),
        "image/jpeg",
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_metadata_neither_swells_nor_keeps_an_image_from_being_judged(sandbox: Sandbox, name: str) -> None:
    made, media_type = HARMLESS[name]
    data = made()
    assert sandbox.call(images.inspect, data, LIMIT).media_type == media_type
    assert sandbox.call(to_rgb, data).mode == "RGB"
    assert len(repr(sandbox.call(provenance.read, data, media_type))) < 100_000


def test_what_a_decoder_complains_of_is_not_in_our_log(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    broken = encoded(picture(), "TIFF", compression="tiff_lzw")[:-3000]
    with pytest.raises(Undecodable):
        sandbox.call(images.inspect, broken, LIMIT)
    assert capfd.readouterr() == ("", "")


# --- What files say, on pages ---


def sent(tenant: Tenant, data: bytes) -> Case:
    """A case in review of these bytes, with all that its page shows; everything that is said beside it is script."""
    store = Storage(settings())
    original = originals.keep(store, tenant.id, data, images.inspect(data, LIMIT))
    with transaction() as session:
        image = originals.attach(session, original)
        case = make_review_case(session, tenant, image=image, external_id=SCRIPT, text=f"{SCRIPT} {SCRIPT}.")
        case.submission.details = {SCRIPT: SCRIPT}
    exhibit(store, image.id, to_rgb(data), data)
    return case


def scripted_jpeg() -> bytes:
    xmp = '<x xmp:CreatorTool="script>alert(1)">photoshop:Credit>onerror=alert(1)<'
    return encoded(picture(), "JPEG", exif=files.exif_with_script(), comment=files.PAGE, xmp=xmp.encode())


def scripted_png() -> bytes:
    texts = PngInfo()
    for key in ("parameters", "prompt", "Comment", "Title", "Software"):
        texts.add_itxt(key, SCRIPT)
    return encoded(picture(), "PNG", pnginfo=texts)


@pytest.mark.parametrize("made", [scripted_jpeg, scripted_png])
def test_what_a_file_says_is_shown_as_text(
    app: Application, tenant: Tenant, browser_of: Callable[..., Browser], made: Callable[[], bytes]
) -> None:
    case = sent(tenant, made())
    page = browser_of(Role.LEAD).get(f"/dashboard/cases/{case.id}")
    assert page.status_code == 200 and page.text.count("&lt;script&gt;alert(") >= 4
    assert "<script>alert" not in page.text
    with transaction() as session:
        token = make_key(session, session.get_one(Tenant, tenant.id))
    told = app.test_client().get(f"/v1/cases/{case.id}", headers={"Authorization": f"Bearer {token}"})
    assert (told.mimetype, told.headers["X-Content-Type-Options"]) == ("application/json", "nosniff")
    assert told.get_json()["metadata"] == {SCRIPT: SCRIPT}


def test_no_route_of_ours_serves_an_original(
    app: Application, tenant: Tenant, browser_of: Callable[..., Browser]
) -> None:
    """Every address that can be read, as a lead and with a key, after a file came that is a page too."""
    data = scripted_jpeg()
    case = sent(tenant, data)
    with transaction() as session:
        token = make_key(session, session.get_one(Tenant, tenant.id))
        image_id = session.scalars(select(Image.id)).one()
    known = {"case_id": case.id, "image_id": image_id, "tenant_id": tenant.id}
    lead, seen = browser_of(Role.LEAD), []
    for path in readable(app, known):
        by_key = {"headers": {"Authorization": f"Bearer {token}"}} if path.startswith("/v1/") else {}
        answer = lead.get(path, **by_key)
        seen.append(answer.mimetype)
        hold_harmless(path, answer, data)
    assert seen.count(views.MEDIA_TYPE) == 1 + len(View)


def readable(app: Application, known: dict[str, UUID]) -> Iterator[str]:
    """Every path that takes GET, with what is known in the place of what it names."""
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or ()):
            for view in View if "view" in rule.arguments else ("summary",):
                values = {name: known.get(name, new_id()) for name in rule.arguments}
                named = {name: str(view) for name in rule.arguments if name in ("view", "name")}
                yield str(app.url_map.bind("localhost").build(rule.endpoint, {**values, **named}, method="GET"))


def hold_harmless(path: str, answer: TestResponse, original: bytes) -> None:
    """Nothing of the file but its pixels, as what they are, from which no browser makes anything else."""
    assert answer.status_code < 500 and answer.headers["X-Content-Type-Options"] == "nosniff", path
    assert original[:200] not in answer.data and files.PAGE not in answer.data, path
    if answer.mimetype == "text/html":
        assert "<script>alert" not in answer.text and "default-src 'none'" in answer.headers["Content-Security-Policy"]
    if answer.mimetype.startswith("image/"):
        assert (answer.mimetype, answer.data[:3]) == (views.MEDIA_TYPE, b"\xff\xd8\xff"), path
        assert answer.headers["Cache-Control"] == "no-store", path
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"], path
        assert SCRIPT.encode() not in answer.data
