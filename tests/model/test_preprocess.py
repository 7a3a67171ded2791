"""Every kind of file people upload becomes the same upright 8-bit RGB, or an error that says what to send instead."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoint import Checkpoint
from model.decode import UndecodableImage, read_header, to_rgb
from model.preprocess import to_pixels

RED, GREEN, WHITE = (255, 0, 0), (0, 128, 0), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, color: int, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow does not write. `color` is PNG's colour type: 0 grey, 2 RGB, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def samples(*values: int) -> bytes:
    """One PNG row of 16-bit samples."""
    return b"\0" + struct.pack(f">{len(values)}H", *values)


def near(found: Any, expected: tuple[int, ...], by: int = 4) -> bool:
    return all(abs(ours - theirs) <= by for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "JPEG2000", "PPM"])
def test_every_format(kind: str) -> None:
    rgb = to_rgb(encoded(Image.new("RGB", (40, 24), RED), kind))
    assert (rgb.mode, rgb.size) == ("RGB", (40, 24))
    assert near(rgb.getpixel((20, 12)), RED, by=6)


def test_a_path_is_read_like_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(encoded(Image.new("RGB", (4, 4), RED), "PNG"))
    assert to_rgb(file).tobytes() == to_rgb(file.read_bytes()).tobytes()
    with pytest.raises(FileNotFoundError):
        to_rgb(tmp_path / "other.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_rotation_is_applied(kind: str) -> None:
    stored = Image.new("RGB", (64, 32), WHITE)
    stored.paste(RED, (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright: the stored left edge is the top
    upright = to_rgb(encoded(stored, kind, exif=exif))
    assert upright.size == (32, 64)
    assert near(upright.getpixel((16, 8)), RED, by=8)
    assert near(upright.getpixel((16, 56)), WHITE, by=8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_exif_that_cannot_be_read_is_ignored(kind: str) -> None:
    assert to_rgb(encoded(Image.new("RGB", (64, 32), RED), kind, exif=b"Exif\0\0garbage")).size == (64, 32)


def test_cmyk() -> None:
    assert near(to_rgb(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).getpixel((8, 8)), RED, by=6)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("PPM", "I")])
def test_16_bit_grey_is_scaled_not_clipped(kind: str, mode: str) -> None:
    image = Image.new(mode, (3, 1))
    for x, value in enumerate((0, 32896, 65535)):
        image.putpixel((x, 0), value)
    rgb = to_rgb(encoded(image, kind))
    assert [rgb.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_16_bit_color_is_scaled_not_clipped() -> None:
    assert near(to_rgb(png(1, 1, 16, 2, samples(65535, 32896, 257))).getpixel((0, 0)), (255, 128, 1), by=1)


def test_16_bit_color_with_alpha_lies_over_white() -> None:
    assert near(to_rgb(png(1, 1, 16, 6, samples(0, 0, 0, 32896))).getpixel((0, 0)), (127,) * 3, by=1)


def test_16_bit_color_with_a_transparent_color_decodes() -> None:
    keyed = png(2, 1, 16, 2, samples(65535, 0, 0, 0, 0, 0), chunk(b"tRNS", struct.pack(">3H", 0, 0, 0)))
    assert to_rgb(keyed).getpixel((0, 0)) == RED


def test_transparency_lies_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    rgb = to_rgb(encoded(image, "PNG"))
    assert rgb.getpixel((0, 0)) == WHITE
    assert near(rgb.getpixel((1, 0)), (127,) * 3, by=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_transparency_lies_over_white(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    rgb = to_rgb(encoded(image, kind, transparency=0))
    assert [rgb.getpixel((0, 0)), rgb.getpixel((1, 0))] == [WHITE, GREEN]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey(mode: str) -> None:
    assert to_rgb(encoded(Image.new("L", (4, 4), 255).convert(mode), "PNG")).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_is_taken_and_the_rest_is_told(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, WHITE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(to_rgb(data).getpixel((4, 4)), RED)
    assert read_header(data).animated


def test_a_phone_s_two_picture_jpeg_is_one_image() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert near(to_rgb(data).getpixel((4, 4)), RED)
    assert (read_header(data).media_type, read_header(data).animated) == ("image/jpeg", False)


def test_the_header_is_told() -> None:
    header = read_header(encoded(Image.new("RGB", (30, 20)), "PNG"))
    assert (header.format, header.media_type, header.width, header.height) == ("PNG", "image/png", 30, 20)
    assert not header.animated


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # the error says it to the sender
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"just text", "not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (encoded(Image.effect_noise((99, 99), 90), "JPEG")[:2000], "truncated"),
        (encoded(Image.effect_noise((99, 99), 90), "PNG")[:2000], "truncated"),
        (encoded(Image.effect_noise((99, 99), 90), "GIF")[:2000], "truncated"),
        (encoded(Image.effect_noise((99, 99), 90).convert("RGB"), "WEBP")[:2000], "image"),
        (png(50_000, 50_000, 8, 2), "smaller copy"),
        (png(11_000, 11_000, 8, 2), "smaller copy"),
        (png(0, 0, 8, 2), "image"),
        (b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b";", "image"),
        (encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "Floating-point"),
        (encoded(Image.new("I", (2, 2), 1_000_000), "TIFF"), "32-bit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_decoded_says_so(data: bytes, says: str) -> None:
    with pytest.raises(UndecodableImage, match=says):
        to_rgb(data)


def test_size_is_refused_before_any_pixel_is_decoded() -> None:
    """The pixels are missing, so decoding first would complain of truncation instead."""
    header_only = png(200, 100, 8, 2)
    with pytest.raises(UndecodableImage, match="200 × 100"):
        to_rgb(header_only, max_pixels=19_999)
    with pytest.raises(UndecodableImage, match="truncated"):
        to_rgb(header_only, max_pixels=20_000)


def test_pixels_are_those_of_the_pillow_backend(loaded: Checkpoint) -> None:
    """Resized by the short side with bicubic, centre-cropped, normalised: recomputed here with Pillow and numpy."""
    image = Image.linear_gradient("L").resize((90, 60)).convert("RGB")
    settings = loaded.processor.image_processor
    size = settings.crop_size["height"]
    wide = np.asarray(image.resize((size * 90 // 60, size), Image.Resampling.BICUBIC), dtype=np.float32)
    left = (wide.shape[1] - size) // 2
    expected = (wide[:, left : left + size] / 255 - np.array(settings.image_mean)) / np.array(settings.image_std)
    pixels = to_pixels(loaded.processor, [image, image])
    assert (pixels.shape, pixels.dtype) == ((2, 3, size, size), torch.float32)
    np.testing.assert_allclose(pixels[1].permute(1, 2, 0).numpy(), expected, atol=1e-5)
