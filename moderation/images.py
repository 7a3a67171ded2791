"""What some bytes are: an image that can be judged, of which type and size; by content, never by a name.

It decodes what strangers sent, so callers run it in a sandbox (moderation/sandbox.py); it keeps nothing and calls
nobody. It does not know what an image shows, nor how a model wants its pixels.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import cast

import pillow_heif
from PIL import Image, ImageOps, UnidentifiedImageError

from moderation.errors import BadImage, ImageTooLarge, Undecodable, UnsupportedType

pillow_heif.register_heif_opener()

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC/HEIF and AVIF"
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "HEIC": "image/heic",
    "HEIF": "image/heif",
    "AVIF": "image/avif",
}
# What the name of a file of each type ends with.
SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/heic": ".heic",
    "image/heif": ".heif",
    "image/avif": ".avif",
}
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 are turned by 90 or 270 degrees
MAX_SAMPLE = 65535  # of 16 bits, which is also how Pillow reads 16-bit greyscale: into 32
MAX_PAGES = 1000  # of a TIFF, beyond which they are not counted
MAX_FRAMES = 1_000_000  # an APNG says itself how many it has, and may say anything
MAX_SCANS = 50  # of a progressive JPEG; encoders write about ten, and each goes over all of the pixels again
DNG_VERSION = 50706  # TIFF tag; what Pillow would open of such a file is its thumbnail

# (offset, bytes, Pillow's name of the format)
_IMAGES = [
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"II+\x00", "TIFF"),
    (0, b"MM\x00+", "TIFF"),
]
# Brands of ISO base media files, at offset 8 after "ftyp" (ISO/IEC 23008-12, and the MP4 registration authority).
_BRANDS = {
    "AVIF": {b"avif", b"avis"},
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"},
    "HEIF": {b"mif1", b"msf1", b"mif2"},
}
_OTHERS = [
    (8, b"CR\x02", "a camera raw file"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "a sound file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "a sound file"),
    (0, b"\x00\x00\x01\xba", "an MPEG video"),
    (0, b"PK\x03\x04", "a ZIP archive or an office document"),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x00\x00\x01\x00", "an icon"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
]


# A JPEG's marker (ITU-T T.81, B.1.1.2), but for those that restart a scan. All but the bare ones say how long they are.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_SCAN, _END, _BARE = b"\xff\xda", b"\xff\xd9", (b"\xff\x01", b"\xff\xd8")


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image without judging it.

    Width and height are in pixels as displayed, after EXIF orientation; `frames` is more than 1 for an animation or a
    document with pages (MAX_PAGES also where it has more; MAX_FRAMES), of which the first is what is judged; `sha256`
    is of the bytes, in hex.
    """

    media_type: str
    width: int
    height: int
    frames: int
    sha256: str


def inspect(data: bytes, max_pixels: int) -> ImageFacts:
    """The facts of an image whose first frame decodes in full, and can be judged.

    Raises UnsupportedType, naming what was found instead where it is known; Undecodable for empty, broken or truncated
    bytes, and for samples that have no defined white; ImageTooLarge above `max_pixels` (width times height, known
    before anything is decoded) or where decoding takes more memory than the process may have.
    """
    with _decoded(data, max_pixels, coarsely=True) as (kind, image, (width, height)):
        return ImageFacts(MEDIA_TYPES[kind], width, height, _frames(image), hashlib.sha256(data).hexdigest())


def upright(data: bytes, max_pixels: int) -> Image.Image:
    """The first frame as people see it: 8-bit RGB, turned as EXIF says, transparency laid over white, and nothing else.

    The same pixels that the model is given (model/decode.py, which this package does not know). Raises as `inspect`.
    """
    with _decoded(data, max_pixels) as (_, image, _size):
        pixels = _over_white(_eight_bits(_turned(image)))
    pixels.info = {}  # encoders write a file's comments and profiles out again
    return pixels


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _turned(image: Image.Image) -> Image.Image:
    """EXIF that cannot be read turns nothing, as in every viewer."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error):
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale is scaled, not clipped; Pillow itself reduces 16-bit colour when it decodes."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda value: value / 257 + 0.5).convert("L")


@contextmanager
def _decoded(
    data: bytes, max_pixels: int, *, coarsely: bool = False
) -> Iterator[tuple[str, Image.Image, tuple[int, int]]]:
    """The kind of file, its first frame as it is stored, and its size as displayed.

    `coarsely`: a JPEG is read to its end, which shows whether it is whole, but its pixels may be an eighth of a side.
    Raises as `inspect`, whatever the block raises too.
    """
    if not data:
        raise Undecodable("The file is empty: send the image's bytes.")
    kind = _kind(data)
    try:
        opener = "HEIF" if kind == "HEIC" else kind
        with our_limit_only(), Image.open(BytesIO(data), formats=[opener]) as image:
            _check_size(image, max_pixels)
            _refuse_raw(image)
            if kind == "JPEG":
                _refuse_many_scans(data)
            stored = image.size
            if coarsely:
                image.draft(None, (1, 1))  # of JPEG alone; nothing that could be broken comes after its last bits
            drafted = image.size != stored
            image.load()
            _refuse_unjudgeable(image)
            yield kind, image, _displayed_size(image, stored if drafted else image.size)
    except BadImage:
        raise
    except MemoryError as error:
        raise ImageTooLarge("Decoding the image takes more memory than is allowed: send a smaller copy.") from error
    except UnidentifiedImageError as error:
        raise Undecodable(
            f"The file begins like {kind}, but its header is broken or cut off: send it again."
        ) from error
    # Decoders raise whatever comes to them from broken bytes: OSError, SyntaxError, struct.error, IndexError, …
    except Exception as error:
        raise Undecodable(f"The {kind} image is broken or cut off, and does not decode: send it again.") from error


def _kind(data: bytes) -> str:
    """The format that the bytes claim by their beginning. Raises UnsupportedType for anything not accepted."""
    other = _named(_OTHERS, data)
    kind = _named(_IMAGES, data) or _iso_media_kind(data) or _bitmap(data)
    if other is None and kind is not None:
        return kind
    found = other or _text_kind(data)
    if found is None:
        raise UnsupportedType(f"The file is not an image that can be read here: send {ACCEPTED}.")
    raise UnsupportedType(f"The file is {found}, whatever its name says: send {ACCEPTED}.")


def _named(table: list[tuple[int, bytes, str]], data: bytes) -> str | None:
    return next((name for offset, magic, name in table if data.startswith(magic, offset)), None)


def _iso_media_kind(data: bytes) -> str | None:
    """HEIC, HEIF and AVIF by their brands: the major one if it tells, else any of the compatible ones."""
    if data[4:8] != b"ftyp":
        return None
    major = data[8:12]
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {major, *(data[at : at + 4] for at in range(16, end, 4))}
    for name, candidates in (
        ("AVIF", {major}),
        ("HEIC", {major}),
        ("AVIF", brands),
        ("HEIC", brands),
        ("HEIF", brands),
    ):
        if _BRANDS[name] & candidates:
            return name
    raise UnsupportedType(f"The file is a video (MP4, QuickTime or like them): send {ACCEPTED}.")


def _bitmap(data: bytes) -> str | None:
    # "BM" alone begins many a text; the size of the second header is one of a few.
    known_headers = (12, 16, 40, 52, 56, 64, 108, 124)
    return "BMP" if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in known_headers else None


def _text_kind(data: bytes) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text"
    try:
        start = codecs.getincrementaldecoder("utf-8-sig")().decode(data[:4096])
    except UnicodeDecodeError:
        return None
    if any(character < " " and character not in "\t\n\r\f" for character in start):
        return None
    start = start.lstrip().lower()
    if "<svg" in start:
        return "SVG"
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return "a web page (HTML)"
    return "text"


@contextmanager
def our_limit_only() -> Iterator[None]:
    """Pillow's own limit on pixels set aside: it warns or raises at numbers of its own, before ours is asked."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise Undecodable(f"The image is {width} × {height} pixels: send one that shows something.")
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} × {height} = {width * height} pixels, and at most {max_pixels} are accepted: "
            "send a smaller copy."
        )


def _refuse_raw(image: Image.Image) -> None:
    if DNG_VERSION in getattr(image, "tag_v2", ()):
        raise UnsupportedType(f"The file is a camera raw file (DNG): send {ACCEPTED}.")


def _refuse_many_scans(data: bytes) -> None:
    """A dozen bytes are a scan, and a scan of the largest image takes a tenth of a second."""
    at = scans = 0
    while marker := _MARKER.search(data, at):
        if marker[0] == _END:
            return
        scans += marker[0] == _SCAN
        if scans > MAX_SCANS:
            raise Undecodable(f"The JPEG has more than {MAX_SCANS} scans: save it anew and send that.")
        at = marker.end()
        if marker[0] not in _BARE:
            at += int.from_bytes(data[at : at + 2], "big")


def _refuse_unjudgeable(image: Image.Image) -> None:
    """Samples that no rule turns into 8 bits: what the model could not be shown is refused when it comes, not later."""
    if image.mode == "F":
        raise Undecodable("Floating-point samples have no defined white: send 8 or 16 bits per channel.")
    if image.mode == "I" and cast(tuple[int, int], image.getextrema())[1] > MAX_SAMPLE:
        raise Undecodable("32-bit integer samples have no defined white: send 8 or 16 bits per channel.")


def _displayed_size(image: Image.Image, stored: tuple[int, int]) -> tuple[int, int]:
    """After loading: TIFF and HEIF are upright by then and say so, the others keep their orientation tag."""
    turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (stored[1], stored[0]) if turned else stored


def _frames(image: Image.Image) -> int:
    # What comes after a JPEG's first image (MPO) is a preview or a depth map, not a frame.
    if image.format in ("JPEG", "MPO"):
        return 1
    return _pages(image) if image.format == "TIFF" else min(int(getattr(image, "n_frames", 1)), MAX_FRAMES)


def _pages(image: Image.Image) -> int:
    """Up to MAX_PAGES: the time that Pillow takes for the next page grows with the number of those before."""
    for count in range(1, MAX_PAGES):
        try:
            image.seek(count)
        except EOFError:
            return count
    return MAX_PAGES
