"""From a decoded image to the pixels a model sees, through the checkpoint's own processor.

Training, serving and evaluation all come through here, so that the same image always gives the same tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image


def to_pixels(processor: Any, images: Sequence[Image.Image]) -> torch.Tensor:
    """Resize, crop and normalise with the checkpoint's processor: float32, images × 3 × height × width.

    `processor` is a checkpoint's, whose image part is pinned to the Pillow backend (see `checkpoint.load`): the
    torchvision backend resamples slightly differently.
    """
    pixels = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
    return cast(torch.Tensor, pixels.to(torch.float32))
