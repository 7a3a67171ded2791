"""Images for tests, good and bad, made here: in every mode, in every format, and broken in the ways senders manage."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()

ORIENTATION = 0x0112
TURNED_RIGHT = 6


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48), seed: int = 7) -> Image.Image:
    """Noise, so that no compression makes it tiny."""
    pixels = random.Random(seed)
    if mode == "I;16":
        return Image.frombytes("I;16", size, pixels.randbytes(size[0] * size[1] * 2))
    return Image.frombytes("RGB", size, pixels.randbytes(size[0] * size[1] * 3)).convert(mode)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(seed: int = 7) -> bytes:
    """An image; another one for every seed."""
    return encoded(picture(seed=seed))


def truncated_jpeg() -> bytes:
    """Cut off in the middle of its pixels."""
    whole = encoded(picture(), "JPEG")
    return whole[: len(whole) // 2]


def png_claiming(width: int, height: int) -> bytes:
    """A few hundred bytes of PNG that say they are so large: 0 × 0, or a bomb."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(1000)))
        + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def animation(file_format: str) -> bytes:
    """Three frames."""
    frames = [picture(seed=seed) for seed in (1, 2, 3)]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:])


def palette_with_transparency() -> bytes:
    """Mode P with a transparent index."""
    return encoded(picture().quantize(16), transparency=0)


def turned_by_exif() -> bytes:
    """Stored 64 × 48, to be shown 48 × 64."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_RIGHT
    return encoded(picture(), "JPEG", exif=exif)
