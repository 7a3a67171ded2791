"""What is accepted as an image and what is not, with images made here in every mode and broken in every way."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moderation import images
from moderation.errors import BadImage, ImageTooLarge, Undecodable, UnsupportedType
from moderation.images import ImageFacts
from moderation.sandbox import Sandbox

MAX_PIXELS = 100_000_000
WIDTH, HEIGHT = 64, 48
FORMATS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "HEIF": "image/heic",
    "AVIF": "image/avif",
}


def picture(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Noise, so that no compression makes it tiny."""
    noise = Image.frombytes("RGB", size, random.Random(7).randbytes(size[0] * size[1] * 3))
    if mode == "I;16":
        return Image.frombytes("I;16", size, random.Random(7).randbytes(size[0] * size[1] * 2))
    return noise.convert(mode)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@cache
def sample(file_format: str, width: int, height: int) -> bytes:
    """A file that is made once: of some formats that takes a while."""
    return encoded(picture(size=(width, height)), file_format)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, pixels: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + data + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_accepted_format(file_format: str) -> None:
    data = encoded(picture(), file_format)
    facts = images.inspect(data, MAX_PIXELS)
    assert facts == ImageFacts(FORMATS[file_format], WIDTH, HEIGHT, 1, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("CMYK", "JPEG"),
        ("L", "JPEG"),
        ("I;16", "PNG"),
        ("I;16", "TIFF"),
        ("1", "PNG"),
        ("P", "PNG"),
        ("LA", "PNG"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("CMYK", "TIFF"),
        ("RGBA", "HEIF"),
        ("L", "AVIF"),
    ],
)
def test_every_mode(mode: str, file_format: str) -> None:
    facts = images.inspect(encoded(picture(mode), file_format), MAX_PIXELS)
    assert (facts.media_type, facts.width, facts.height) == (FORMATS[file_format], WIDTH, HEIGHT)


def test_a_palette_with_transparency() -> None:
    for file_format in ("PNG", "GIF"):
        data = encoded(picture("P"), file_format, transparency=3)
        assert images.inspect(data, MAX_PIXELS).media_type == FORMATS[file_format]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (2, False), (3, False), (6, True), (8, True)])
def test_the_size_is_as_displayed(file_format: str, orientation: int, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    facts = images.inspect(encoded(picture(), file_format, exif=exif.tobytes()), MAX_PIXELS)
    assert (facts.width, facts.height) == ((HEIGHT, WIDTH) if turned else (WIDTH, HEIGHT))


def test_broken_exif_does_not_make_an_image_undecodable() -> None:
    for garbage in (
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08",
    ):
        facts = images.inspect(encoded(picture(), "JPEG", exif=garbage), MAX_PIXELS)
        assert (facts.width, facts.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_pages_say_how_many(file_format: str) -> None:
    others = [picture().rotate(90 * turn) for turn in (1, 2)]
    data = encoded(picture(), file_format, save_all=True, append_images=others)
    facts = images.inspect(data, MAX_PIXELS)
    assert (facts.media_type, facts.frames) == (FORMATS[file_format], 3)


def test_a_jpeg_with_a_preview_behind_it_is_one_jpeg() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture()])
    facts = images.inspect(data, MAX_PIXELS)
    assert (facts.media_type, facts.frames) == ("image/jpeg", 1)


def test_what_follows_the_image_does_not_matter() -> None:
    assert images.inspect(encoded(picture(), "JPEG") + b"trailing" * 100, MAX_PIXELS).media_type == "image/jpeg"


# --- Not an image ---


def a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    return buffer.getvalue()


MP4 = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(64)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<svg></svg>', "SVG"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"This is text, named picture.jpg", "text"),
        (("Grüße " * 1000).encode(), "text"),
        (b"BMW is a car and not a bitmap", "text"),
        ("text".encode("utf-16"), "text"),
        (b'{"image": "no"}', "text"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"<html><body>", "a web page"),
        (MP4, "a video"),
        (b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ", "a video"),
        (b"\x1aE\xdf\xa3" + bytes(60), "a WebM"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "an AVI video"),
        (a_zip(), "a ZIP archive"),
        (gzip.compress(b"image", mtime=0), "gzip"),
        (b"8BPS\x00\x01" + bytes(60), "a Photoshop file"),
        (b"\xff\x0a\x00", "JPEG XL"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(60), "a camera raw file"),
    ],
)
def test_what_is_not_an_image_is_named(data: bytes, named: str) -> None:
    with pytest.raises(UnsupportedType, match=f"The file is {named}.*send JPEG, PNG, WebP"):
        images.inspect(data, MAX_PIXELS)


def test_other_image_formats_are_named() -> None:
    for file_format, named in [("ICO", "an icon"), ("JPEG2000", "JPEG 2000")]:
        with pytest.raises(UnsupportedType, match=named):
            images.inspect(encoded(picture(), file_format), MAX_PIXELS)


def test_unknown_bytes_are_not_an_image() -> None:
    for data in (b"\x00", b"\x00\x01\x02\x03" * 50, b"\xfe\xed\xfa\xce" * 10, b"\x80" * 5000):
        with pytest.raises(UnsupportedType, match="not an image that can be read here: send JPEG"):
            images.inspect(data, MAX_PIXELS)


def test_a_raw_file_is_not_judged_by_its_thumbnail() -> None:
    data = encoded(picture(), "TIFF", tiffinfo={50706: b"\x01\x04\x00\x00"})
    with pytest.raises(UnsupportedType, match="DNG"):
        images.inspect(data, MAX_PIXELS)


# --- Broken ---


def test_empty() -> None:
    with pytest.raises(Undecodable, match="empty"):
        images.inspect(b"", MAX_PIXELS)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_without_a_white_are_refused_when_they_come(mode: str) -> None:
    """And not when a worker decodes them: nobody could judge them."""
    data = encoded(Image.new(mode, (8, 8), 1_000_000), "TIFF")
    with pytest.raises(Undecodable, match="no defined white: send 8 or 16 bits"):
        images.inspect(data, MAX_PIXELS)


def test_no_pixels() -> None:
    gif = b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b";"
    bitmap = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)
    for data in (png_of(0, 0), png_of(0, 5), png_of(5, 0), gif, bitmap):
        with pytest.raises(Undecodable):
            images.inspect(data, MAX_PIXELS)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated(file_format: str, share: float) -> None:
    data = sample(file_format, 256, 192)
    with pytest.raises(Undecodable, match="send it again"):
        images.inspect(data[: int(len(data) * share)], MAX_PIXELS)


@pytest.mark.parametrize("file_format", FORMATS)
def test_only_a_beginning(file_format: str) -> None:
    with pytest.raises(BadImage):
        images.inspect(encoded(picture(), file_format)[:20], MAX_PIXELS)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    box = Sandbox(processes=1, memory_bytes=1024**3, seconds=60)
    yield box
    box.close()


@settings(max_examples=150, deadline=None)
@given(
    file_format=st.sampled_from(list(FORMATS)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_damaged_bytes_are_an_image_or_a_bad_image_and_never_an_accident(
    sandbox: Sandbox, file_format: str, edits: list[tuple[float, int]]
) -> None:
    data = bytearray(sample(file_format, 32, 24))
    for place, value in edits:
        data[min(int(place * len(data)), len(data) - 1)] = value
    try:
        facts = sandbox.call(images.inspect, bytes(data), 10_000_000)
    except BadImage as error:
        assert error.message
    else:
        assert facts.width > 0 and facts.height > 0 and facts.frames > 0


# --- Too large ---


def test_a_png_bomb_is_refused_by_its_header() -> None:
    bomb = png_of(50_000, 50_000, pixels=bytes(1_000_000))
    with pytest.raises(ImageTooLarge, match=r"50000 × 50000 = 2500000000 pixels, and at most 100000000"):
        images.inspect(bomb, MAX_PIXELS)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_limit_on_pixels_is_exact(file_format: str) -> None:
    data = encoded(picture(), file_format)
    assert images.inspect(data, WIDTH * HEIGHT).width == WIDTH
    with pytest.raises(ImageTooLarge, match="64 × 48 = 3072 pixels"):
        images.inspect(data, WIDTH * HEIGHT - 1)


def test_an_animation_with_a_vast_canvas_is_refused() -> None:
    data = bytearray(encoded(picture(), "WEBP", save_all=True, append_images=[picture().rotate(90)]))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (16_000 - 1).to_bytes(3, "little") * 2
    with pytest.raises(ImageTooLarge, match="16000 × 16000"):
        images.inspect(bytes(data), MAX_PIXELS)


def test_a_bomb_in_a_text_chunk_is_not_unpacked(sandbox: Sandbox) -> None:
    text = png_chunk(b"zTXt", b"comment\x00\x00" + zlib.compress(bytes(300_000_000), 1))
    data = png_of(1, 1, pixels=b"\x00\x00\x00\x00", extra=text)
    with pytest.raises(Undecodable):
        sandbox.call(images.inspect, data, MAX_PIXELS)


def test_pillows_own_limit_neither_counts_nor_changes() -> None:
    before = Image.MAX_IMAGE_PIXELS
    large = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    assert images.inspect(large, 200_000_000).width == 20_000
    with pytest.raises(ImageTooLarge):
        images.inspect(large, MAX_PIXELS)
    assert before == Image.MAX_IMAGE_PIXELS


def test_too_little_memory_is_an_image_too_large() -> None:
    box = Sandbox(processes=1, memory_bytes=160 * 1024**2, seconds=60)
    try:
        with pytest.raises(ImageTooLarge, match="memory"):
            box.call(images.inspect, encoded(Image.new("RGB", (9000, 9000)), "PNG", compress_level=1), MAX_PIXELS)
        assert box.call(images.inspect, encoded(picture(), "PNG"), MAX_PIXELS).width == WIDTH
    finally:
        box.close()
