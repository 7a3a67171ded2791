"""Forensic views: each shows the trace it is for, on pictures whose trace is known."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFilter

from infra.demo.samples import samples
from moderation import forensics
from moderation.errors import BadImage


def photo(width: int = 512, height: int = 384) -> Image.Image:
    """A picture as a camera might make it, one for each size: soft shapes, and texture all over."""
    random = np.random.default_rng(width * height)
    rough = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    shapes = rough.resize((width, height), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))
    texture = random.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(shapes) + texture, 0, 255).astype(np.uint8))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    kept = BytesIO()
    image.save(kept, "JPEG", quality=quality, subsampling=0)
    return Image.open(kept).convert("RGB")


def test_a_splice_that_was_never_compressed_is_brighter_in_the_error_level() -> None:
    spliced = compressed(photo(), 60)
    spliced.paste(photo(128, 128), (160, 128))
    level = np.asarray(forensics.error_level(spliced), dtype=float)
    inside, outside = level[140:244, 172:276].mean(), np.delete(level, np.s_[120:264], axis=0).mean()
    assert level.shape == (384, 512, 3)
    assert inside > 2 * outside


def test_the_error_level_is_the_amplified_difference() -> None:
    image = photo(64, 64)
    difference = np.abs(np.asarray(image, dtype=int) - np.asarray(compressed(image, forensics.ERROR_QUALITY)))
    expected = np.minimum(255, difference * forensics.ERROR_GAIN)
    assert np.array_equal(np.asarray(forensics.error_level(image)), expected)
    assert expected.max() > 0


def test_noise_in_one_half_of_a_smooth_picture_shows_there() -> None:
    ramp = np.linspace(60, 180, 400)[None, :, None].repeat(300, axis=0).repeat(3, axis=2)
    ramp[:, 200:] += np.random.default_rng(11).normal(0, 4, (300, 200, 1))
    residual = np.asarray(forensics.noise(Image.fromarray(ramp.round().astype(np.uint8))), dtype=float)
    assert residual[:, 2:198].max() <= forensics.NOISE_GAIN, "a ramp is its own median, but for rounding"
    assert residual[:, 202:].mean() > 15


def peaks(image: Image.Image) -> set[tuple[int, int]]:
    """Where the spectrum is brightest beyond the low frequencies, in parts of the sampling frequency times 16."""
    shown = np.asarray(forensics.spectrum(image), dtype=float)
    height, width = shown.shape
    rows, columns = np.mgrid[-height // 2 : height - height // 2, -width // 2 : width - width // 2][:, :height, :width]
    shown[np.hypot(rows / height, columns / width) < 0.1] = 0
    found = np.argwhere(shown >= shown.max() - 1)
    return {(round(abs(r - height // 2) / height * 16), round(abs(c - width // 2) / width * 16)) for r, c in found}


def test_upsampling_by_two_without_interpolation_leaves_peaks_at_half_the_frequency() -> None:
    small = np.asarray(photo(256, 256))
    holes = np.zeros((512, 512, 3), dtype=np.uint8)
    holes[::2, ::2] = small  # what an up-convolution starts from
    image = Image.fromarray(holes).filter(ImageFilter.GaussianBlur(0.6))
    assert peaks(image) & {(8, 0), (0, 8), (8, 8)}
    spectrum = np.asarray(forensics.spectrum(image), dtype=float)
    plain = np.asarray(forensics.spectrum(photo(512, 512)), dtype=float)
    at_half = np.s_[0:6, 253:260]
    assert spectrum[at_half].max() > plain[at_half].max() + 60


def test_a_checkerboard_of_eight_pixels_peaks_where_it_should() -> None:
    pattern = (np.indices((256, 256)) // 4).sum(axis=0) % 2
    image = Image.fromarray((np.asarray(photo(256, 256)) * 0.5 + pattern[:, :, None] * 60).astype(np.uint8))
    assert (2, 2) in peaks(image)


def test_the_spectrum_is_of_the_middle_unchanged_and_as_large_as_it_may_be() -> None:
    image = Image.new("RGB", (forensics.SPECTRUM_SIDE + 500, 64), "teal")
    image.paste(photo(200, 64), (0, 0))
    assert forensics.spectrum(image).size == (forensics.SPECTRUM_SIDE, 64)
    untouched = Image.new("RGB", image.size, "teal")
    assert np.array_equal(forensics.spectrum(image), forensics.spectrum(untouched)), "what is cut off has no say"


def test_what_is_too_small_for_a_spectrum_is_refused_and_what_is_flat_is_black() -> None:
    with pytest.raises(BadImage, match="too small"):
        forensics.spectrum(Image.new("RGB", (forensics.SMALLEST_SIDE - 1, 400)))
    assert np.asarray(forensics.spectrum(Image.new("RGB", (64, 64), "teal"))).max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_the_other_two_take_any_size(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "teal")
    assert forensics.error_level(image).size == forensics.noise(image).size == size


def test_real_photographs_show_something_everywhere() -> None:
    with Image.open(samples()[0].path) as opened:
        image = opened.convert("RGB")
    for made in (forensics.error_level(image), forensics.noise(image), forensics.spectrum(image)):
        assert 5 < np.asarray(made).mean() < 200
