"""Every alteration does what its description says, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from model.evaluate import robustness
from model.evaluate.robustness import ALTERATIONS, Alteration


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Soft and grainy at once, and no two places alike."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 12, (120, 160, 3))
    return Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8))


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@pytest.mark.parametrize("alteration", ALTERATIONS, ids=lambda each: each.name)
def test_it_changes_the_image_and_always_alike(alteration: Alteration, photo: Image.Image) -> None:
    one, two = alteration.apply(photo), alteration.apply(photo.copy())
    assert one.mode == "RGB"
    assert np.array_equal(np.asarray(one), np.asarray(two))
    if alteration.name == "screenshot":
        assert one.size == (118, 88)  # three quarters, less a pixel on every side
    else:
        assert one.size == photo.size
        assert difference(one, photo) > 1


@pytest.mark.parametrize("alteration", ALTERATIONS, ids=lambda each: each.name)
def test_the_smallest_image_survives(alteration: Alteration) -> None:
    assert min(alteration.apply(Image.new("RGB", (1, 1), "red")).size) >= 1


def test_lower_quality_is_further_away(photo: Image.Image) -> None:
    far = [difference(robustness.jpeg(photo, quality), photo) for quality in (80, 70, 50)]
    assert far == sorted(far)
    assert far[0] < far[-1]


def test_blur_and_halving_take_the_grain(photo: Image.Image) -> None:
    def grain(image: Image.Image) -> float:
        return float(np.abs(np.diff(np.asarray(image, np.float64), axis=1)).mean())

    assert grain(robustness.blur(photo)) < 0.6 * grain(photo)
    assert grain(robustness.halve(photo)) < 0.8 * grain(photo)


def test_noise_has_the_sigma_it_says_and_differs_between_images() -> None:
    grey, darker = (Image.new("RGB", (100, 100), (level,) * 3) for level in (128, 120))
    added = np.asarray(robustness.noise(grey), np.float64) - 128
    other = np.asarray(robustness.noise(darker), np.float64) - 120
    assert added.std() == pytest.approx(robustness.NOISE_SIGMA, rel=0.05)
    assert abs(added.mean()) < 0.3
    assert not np.array_equal(added, other)


def test_rotation_leaves_black_corners() -> None:
    turned = np.asarray(robustness.rotate(Image.new("RGB", (100, 100), "white")))
    assert turned[0, 0].max() == turned[-1, -1].max() == 0
    assert turned[50, 50].min() == 255
