"""From the bytes of an image to upright 8-bit RGB: the one way in which training, serving and evaluation decode.

It knows nothing of models and does not import torch, so that a small process can decode. It does not colour-manage: an
embedded ICC profile is ignored, as FakeVLM's own training did.
"""

from __future__ import annotations

import io
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

log = logging.getLogger(__name__)

register_heif_opener()
Image.init()  # all formats now, rather than at first use in whatever thread comes first

MAX_PIXELS = 100_000_000

# Raster formats people upload. Left out on purpose: EPS (runs Ghostscript), WMF, and formats nobody sends.
# JPEG includes MPO, the two-picture JPEG of some phones.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "JPEG2000", "PPM")
# Raster files that are looked for in folders; a file that somebody names is read whatever it is called.
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp", ".jp2", ".ppm")
)
NAMED = "JPEG, PNG, WebP, GIF, AVIF, HEIC, TIFF or BMP"

WHITE = (255, 255, 255, 255)
SIXTEEN_TO_EIGHT_BITS = 1 / 257  # 65535 / 257 = 255


class UndecodableImage(ValueError):
    """The bytes are not an image that can be judged; the message says why and what to send instead."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before anything is decoded.

    `width` and `height` are in pixels, as stored; `animated` means that there are frames or pages beyond the first.
    """

    format: str
    media_type: str
    width: int
    height: int
    animated: bool


def read_header(image: bytes | Path) -> Header:
    """Format and size, without decoding the pixels.

    Raises UndecodableImage.
    """
    with _open(image) as opened:
        return Header(
            format=str(opened.format),
            media_type="image/jpeg" if opened.format == "MPO" else Image.MIME[str(opened.format)],
            width=opened.width,
            height=opened.height,
            animated=_is_animated(opened),
        )


def to_rgb(image: bytes | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode to 8-bit RGB, upright, first frame: pixels and nothing else of the file.

    16-bit samples are scaled to 8 bits, not clipped. Transparent pixels are laid over white: that is how most pages
    show them, and the colour hidden under a transparent pixel is arbitrary. `max_pixels` is held against the header
    before any pixel is decoded. Animations and multi-page files are judged by their first frame.

    Raises UndecodableImage; OSError where a path cannot be read.
    """
    with _open(image) as opened:
        if opened.width * opened.height > max_pixels:
            raise UndecodableImage(
                f"The image is {opened.width} × {opened.height} pixels, and {max_pixels:,} in all are accepted: "
                "send a smaller copy."
            )
        return _decode(opened)


def _open(image: bytes | Path) -> Image.Image:
    data = image.read_bytes() if isinstance(image, Path) else image
    if not data:
        raise UndecodableImage("The file is empty: send the bytes of an image.")
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UndecodableImage(f"The image has too many pixels: send a smaller copy. ({error})") from error
    except UnidentifiedImageError as error:
        raise UndecodableImage(f"This is not an image that can be read: send {NAMED}.") from error
    except MemoryError:
        raise
    except Exception as error:  # codecs raise whatever they like on damaged headers
        raise UndecodableImage(f"The image's header is damaged: export it again and resend. ({error})") from error
    if opened.width < 1 or opened.height < 1:
        raise UndecodableImage("The image is 0 pixels wide or high: send one with pixels.")
    return opened


def _is_animated(opened: Image.Image) -> bool:
    if opened.format == "MPO":  # its second picture is the same scene: a depth map, a stereo view
        return False
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception as error:  # finding out reads on into the file, which may be damaged
        raise UndecodableImage(f"The image is damaged: export it again and resend. ({error})") from error


def _decode(opened: Image.Image) -> Image.Image:
    try:
        opened.load()
        pixels = _flatten(_to_eight_bits(_upright(opened)))
    except (UndecodableImage, MemoryError):
        raise
    except Exception as error:  # codecs raise whatever they like on damaged data
        raise UndecodableImage(
            f"The image is truncated or damaged: check that the upload was complete, or export it again. ({error})"
        ) from error
    pixels.info = {}  # a HEIC's has its depth maps, which no other process could be given
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says. EXIF that cannot be read says nothing, as in every viewer: the pixels are sound."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, struct.error) as error:  # how Pillow refuses a TIFF header it does not know
        log.info("EXIF that cannot be read is ignored: %s", error)
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greyscale to 8 bits; Pillow itself reduces 16-bit colour when it decodes."""
    if image.mode == "F":
        raise UndecodableImage("Floating-point images have no defined white: send 8 or 16 bits per channel.")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    if image.mode == "I" and cast(tuple[int, int], image.getextrema())[1] > 65535:
        raise UndecodableImage("32-bit integer images are not supported: send 8 or 16 bits per channel.")
    grey = image.convert("I").point(lambda value: value * SIXTEEN_TO_EIGHT_BITS + 0.5)
    return grey.convert("L")


def _flatten(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
