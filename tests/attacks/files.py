"""Files that somebody who means harm would send, made here: two things at once, bombs of every kind, circles, lies.

`SCRIPT` is in all that is to be shown as text or not at all.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping

from PIL import ExifTags, Image

from tests.images import encoded, picture

SCRIPT = "<script>alert('telltale')</script>"
PAGE = f"<!doctype html><html><body>{SCRIPT}</body></html>".encode()
FRAMES = 100_000


def chunk(name: bytes, body: bytes) -> bytes:
    """One of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(*extra: bytes) -> bytes:
    """A PNG of one pixel with these chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(4)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def a_zip() -> bytes:
    """An archive with a page in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("index.html", PAGE)
    return buffer.getvalue()


def gif_and_script() -> bytes:
    """`GIF89a/*…*/=1;…`: as wide as "/*", which hides all up to the script from who takes it for one."""
    screen = b"GIF89a" + b"/*\x01\x00" + b"\x80\x00\x00" + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return screen + frame + b"\x3b" + b"*/=1;alert('telltale');//" + SCRIPT.encode()


# Images for whoever decodes them, and something else for whoever guesses.
POLYGLOTS: Mapping[str, Callable[[], bytes]] = {
    "JPEG with a page as its comment": lambda: encoded(picture(), "JPEG", comment=PAGE),
    "JPEG with a page behind it": lambda: encoded(picture(), "JPEG") + PAGE,
    "JPEG with a PDF in its comment": lambda: encoded(picture(), "JPEG", comment=b"%PDF-1.7\n" + PAGE),
    "PNG that is an archive too": lambda: encoded(picture()) + a_zip(),
    "PNG with a page as its text": lambda: png_with(chunk(b"tEXt", b"Comment\0" + PAGE)),
    "GIF that is a script too": gif_and_script,
    "WebP with a page behind it": lambda: encoded(picture(), "WEBP") + PAGE,
    "TIFF with a page behind it": lambda: encoded(picture(), "TIFF") + PAGE,
    "BMP with a page behind it": lambda: encoded(picture(), "BMP") + PAGE,
}

# What claims to be an image by its name or type alone, and what it is called.
LIES: Mapping[str, tuple[bytes, str, str]] = {
    "page named .png": (PAGE, "cat.png", "a web page"),
    "SVG with script": (
        f'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)">{SCRIPT}</svg>'.encode(),
        "cat.svg",
        "SVG",
    ),
    "SVG named .jpg": (f'<?xml version="1.0"?><svg>{SCRIPT}</svg>'.encode(), "cat.jpg", "SVG"),
    "PDF with a JPEG in it": (b"%PDF-1.7\n" + encoded(picture(), "JPEG"), "cat.jpg", "a PDF document"),
    "archive with a PNG behind it": (a_zip() + encoded(picture()), "cat.png", "a ZIP archive"),
    "script that begins like a bitmap": (b"BM=1;alert('telltale')//" + SCRIPT.encode(), "cat.bmp", "text"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file", "cat.jpg", "text"),
}


def many_gif_frames() -> bytes:
    """FRAMES frames of one pixel, on a canvas of 4 million."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 2000, 2000, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return screen + frame * FRAMES + b"\x3b"


def many_png_frames() -> bytes:
    """An APNG of FRAMES frames, all of which are there."""
    pixels = zlib.compress(bytes(4))
    control = [struct.pack(">IIIIIHHBB", number, 1, 1, 0, 0, 1, 1, 0, 0) for number in range(1, 2 * FRAMES, 2)]
    frames = [
        chunk(b"fcTL", said) + chunk(b"fdAT", struct.pack(">I", 2 * place + 2) + pixels)
        for place, said in enumerate(control)
    ]
    first = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0))
    whole = png_with(chunk(b"acTL", struct.pack(">II", FRAMES, 0)), first)
    end = chunk(b"IEND", b"")
    return whole.removesuffix(end) + b"".join(frames[: FRAMES - 1]) + end


def claimed_png_frames() -> bytes:
    """An APNG of one frame, which says that it has more than Postgres' integer holds."""
    return png_with(chunk(b"acTL", struct.pack(">II", 1 << 31, 0)))


def many_webp_frames() -> bytes:
    """A WebP of FRAMES frames of one pixel."""
    still = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frame = b"ANMF" + struct.pack("<I", 16 + len(still)) + bytes(12) + b"\x01\x00\x00\x00" + still
    start = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02" + bytes(9) + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    body = start + frame * FRAMES
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(pages: int, after_last: int | None = None) -> bytes:
    """A TIFF of so many pages of one pixel; the last one is followed by the page numbered `after_last`, or by none."""
    entries = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    page = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    size, start = 2 + len(page) + 4, 16
    following = [start + number * size for number in range(1, pages)]
    following.append(0 if after_last is None else start + after_last * size)
    head = b"II*\x00" + struct.pack("<I", start) + bytes(start - 8)
    return head + b"".join(struct.pack("<H", len(entries)) + page + struct.pack("<I", place) for place in following)


def jpeg_of_scans(times: int) -> bytes:
    """A progressive JPEG with its last scan so many times more: a dozen bytes each, and all pixels for the decoder."""
    whole = encoded(picture(), "JPEG", progressive=True).removesuffix(b"\xff\xd9")
    return whole + whole[whole.rindex(b"\xff\xda") :] * times + b"\xff\xd9"


def jpeg_with_segments(marker: int, body: bytes, times: int) -> bytes:
    """A JPEG with the same application segment again and again."""
    whole = encoded(picture(), "JPEG")
    return whole[:2] + (bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body) * times + whole[2:]


# --- HEIF and AVIF: boxes written here (ISO/IEC 14496-12 and 23008-12) ---


def box(kind: bytes, body: bytes, version: int | None = None) -> bytes:
    """A box, or with a version a full box without flags."""
    head = b"" if version is None else bytes((version, 0, 0, 0))
    return struct.pack(">I", 8 + len(head) + len(body)) + kind + head + body


def heif_grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """A grid that says it is so large, each tile of which is the same small picture, which is here once."""
    still = encoded(picture(size=(64, 64)), "HEIF")
    codec = _box_of(still, b"hvcC")
    coded = still[still.index(b"mdat") + 4 :]
    items = b"".join(
        box(b"infe", struct.pack(">HH", number, 0) + kind + b"\x00", 2) for number, kind in ((1, b"hvc1"), (2, b"grid"))
    )
    grid = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    tiles = struct.pack(">HH", 2, rows * columns) + struct.pack(">H", 1) * (rows * columns)
    sizes = [box(b"ispe", struct.pack(">II", *size), 0) for size in ((64, 64), (width, height))]
    belongs = struct.pack(">I", 2) + struct.pack(">HBBB", 1, 2, 0x81, 2) + struct.pack(">HBB", 2, 1, 3)
    kept = [
        *(box(b"hdlr", bytes(4) + b"pict" + bytes(13), 0), box(b"pitm", struct.pack(">H", 2), 0)),
        *(box(b"iinf", struct.pack(">H", 2) + items, 0), box(b"iref", box(b"dimg", tiles), 0)),
        box(b"iprp", box(b"ipco", codec + sizes[0] + sizes[1]) + box(b"ipma", belongs, 0)),
        box(b"idat", grid),
    ]
    kind = box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    located = len(kind) + len(_meta(kept, len(coded), 0)) + 8
    return kind + _meta(kept, len(coded), located) + box(b"mdat", coded)


def _meta(kept: list[bytes], coded: int, located: int) -> bytes:
    """`meta` with the places of the tile, in the file, and of the grid, in `idat`."""
    tile = struct.pack(">HHHHII", 1, 0, 0, 1, located, coded)
    grid = struct.pack(">HHHHII", 2, 1, 0, 1, 0, 12)
    places = box(b"iloc", b"\x44\x00" + struct.pack(">H", 2) + tile + grid, 1)
    return box(b"meta", b"".join([*kept, places]), 0)


def _box_of(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind) - 4
    return data[start : start + int.from_bytes(data[start : start + 4], "big")]


def claiming(file_format: str, width: int, height: int) -> bytes:
    """A HEIF or an AVIF of 64 × 48 that says it is another size."""
    whole = bytearray(encoded(picture(), file_format))
    at = whole.index(b"ispe") + 8
    whole[at : at + 8] = struct.pack(">II", width, height)
    return bytes(whole)


def exif_with_script() -> Image.Exif:
    """A camera, a lens, a program and a comment that are all script."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = SCRIPT, SCRIPT
    exif[ExifTags.Base.Software], exif[ExifTags.Base.ImageDescription] = SCRIPT, SCRIPT
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = SCRIPT
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + SCRIPT.encode()
    return exif
