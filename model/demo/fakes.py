"""The fakes of the demo data: what small, badly made generators leave behind.

Checkerboard, over-smooth texture and block grid come from small convolutional autoencoders trained here on the training
photos; garbled glyphs are letters put together from pieces of others. Nothing else is offered: splices and tilings were
tried, and a model that sees 96 pixels cannot see them. Knows nothing of labels, files or explanations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from model.demo import crops
from model.demo.crops import SIDE, Caption

Artifact = Literal["checkerboard", "over-smooth", "block grid", "garbled glyphs"]
ARTIFACTS: tuple[Artifact, ...] = get_args(Artifact)

STEPS = 120
BATCH = 16
MARGIN = 12  # pixels; padded sides must be multiples of every stride and block (2, 3, 4, 6, 8, 12)


@dataclass(frozen=True)
class Autoencoders:
    """Trained autoencoders, several of each kind so that no single one's pattern is learned by heart."""

    by_artifact: dict[Artifact, list[nn.Module]]


class Checkerboard(nn.Module):
    """Upsamples with transposed convolutions whose kernel the stride does not divide: they overlap unevenly.

    Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill 2016.
    """

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        self.stride = stride
        kernel = stride + 1
        self.encode = nn.Sequential(
            nn.Conv2d(3, channels, 5, stride, 2), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU()
        )
        self.decode = nn.ConvTranspose2d(channels, 3, kernel, stride, padding=0, bias=True)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.decode(self.encode(pixels))
        return made[..., : pixels.shape[-2], : pixels.shape[-1]]


class Smooth(nn.Module):
    """Upsamples by interpolation from few features: outlines stay, fine texture goes."""

    def __init__(self, stride: int, channels: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, channels, 3, stride // 2, 1), nn.ReLU()
        )
        self.decode = nn.Sequential(
            nn.Upsample(scale_factor=stride // 2, mode="bilinear"),
            nn.Conv2d(channels, 16, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(16, 3, 3, 1, 1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.decode(self.encode(pixels))
        return made


class Blocks(nn.Module):
    """Codes every block by itself, without a look at its neighbours: seams at each block's edge."""

    def __init__(self, block: int, channels: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(3, 64, block, block), nn.ReLU(), nn.Conv2d(64, channels, 1))
        self.decode = nn.ConvTranspose2d(channels, 3, block, block)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.decode(self.encode(pixels))
        return made


def train_autoencoders(photos: Sequence[Image.Image], seed: int, steps: int = STEPS) -> Autoencoders:
    """Fit each autoencoder to reconstruct crops of `photos` (training photos only), `steps` batches each."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool = torch.stack([to_tensor(crops.crop(photos[i % len(photos)], rng, SIDE)) for i in range(1200)])
    networks: dict[Artifact, list[nn.Module]] = {
        "checkerboard": [Checkerboard(2, 16), Checkerboard(3, 24), Checkerboard(4, 32)],
        "over-smooth": [Smooth(4, 6), Smooth(4, 10), Smooth(8, 24)],
        "block grid": [Blocks(6, 8), Blocks(8, 12), Blocks(12, 16)],
    }
    for family in networks.values():
        for network in family:
            _fit(network, pool, steps)
    return Autoencoders(networks)


def fake(image: Image.Image, artifact: Artifact, made_by: Autoencoders, rng: Generator) -> Image.Image:
    """A fake of a square crop. A crop larger than 96 pixels gets the artifact at a proportional scale."""
    if artifact == "garbled glyphs":
        caption = crops.any_caption(rng)
        return crops.print_caption(image, caption, garble(crops.text_mask(image.width, caption), caption, rng))
    family = made_by.by_artifact[artifact]
    network = family[int(rng.integers(len(family)))]
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) if image.width != SIDE else image
    return _enlarge(_reconstruct(network, small, rng), small, image, smooth=artifact == "over-smooth")


def garble(mask: Image.Image, caption: Caption, rng: Generator) -> Image.Image:
    """Letters that look like writing from afar and are none: pieces of each line are exchanged, and strokes melted."""
    letters = np.array(mask)
    side = mask.width
    cell = max(3, round(0.5 * caption.size * side))
    height = round(1.25 * caption.size * side)
    for place in range(len(caption.lines)):
        top = round(caption.top * side) + place * height
        band = letters[top : top + height]
        if band.size:
            letters[top : top + height] = _shuffle(band, cell, rng)
    return Image.fromarray(_melt(letters, caption.size * side, rng))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """3 × height × width, −1 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def _fit(network: nn.Module, pool: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = pool[torch.randint(len(pool), (BATCH,))]
        loss = (network(batch) - batch).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


@torch.inference_mode()
def _reconstruct(network: nn.Module, image: Image.Image, rng: Generator) -> Image.Image:
    """Padded by a few pixels first, so that the pattern starts anywhere, as it does in a cropped image."""
    left, top = (int(step) for step in rng.integers(0, MARGIN, 2))
    padded = nn.functional.pad(to_tensor(image)[None], (left, 2 * MARGIN - left, top, 2 * MARGIN - top), mode="reflect")
    made = network(padded)[0, :, top : top + image.height, left : left + image.width]
    return Image.fromarray(((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def _enlarge(made: Image.Image, small: Image.Image, image: Image.Image, *, smooth: bool) -> Image.Image:
    """The artifact at the size of `image`: what the generator changed is scaled up and added to the large crop."""
    if image.size == made.size:
        return made
    if smooth:
        return made.resize(image.size, Image.Resampling.BICUBIC)
    times = image.width // made.width
    change = np.array(made, np.int16) - np.array(small, np.int16)
    larger = np.array(image, np.int16) + change.repeat(times, 0).repeat(times, 1)
    return Image.fromarray(larger.clip(0, 255).astype(np.uint8))


def _shuffle(band: NDArray[np.uint8], cell: int, rng: Generator) -> NDArray[np.uint8]:
    """Cut a line of text into cells, and make each of the upper half of one cell and the lower half of another."""
    height, width = band.shape
    starts = np.arange(0, width - cell + 1, cell)
    made = np.zeros_like(band)
    middle = height // 2 + int(rng.integers(-height // 8, height // 8 + 1))
    for start in starts:
        upper, lower = (int(at) for at in rng.choice(starts, 2))
        glyph = np.concatenate([band[:middle, upper : upper + cell], band[middle:, lower : lower + cell]])
        glyph = glyph[:, ::-1] if rng.random() < 0.5 else glyph
        glyph = glyph[::-1] if rng.random() < 0.4 else glyph
        made[:, start : start + cell] = np.roll(glyph, int(rng.integers(-2, 3)), axis=0)
    return made


def _melt(letters: NDArray[np.uint8], size: float, rng: Generator) -> NDArray[np.uint8]:
    """Bend every stroke along waves about as long as a letter of `size` pixels is high: no stem stays straight."""
    rows, columns = np.mgrid[: letters.shape[0], : letters.shape[1]].astype(np.float64)
    moved = []
    for along, across in ((rows, columns), (columns, rows)):
        length, phase = size * rng.uniform(0.5, 0.9), rng.uniform(0, 2 * np.pi, 2)
        wave = np.sin(2 * np.pi * along / length + phase[0] + 2 * np.sin(across / size + phase[1]))
        moved.append(across + size * rng.uniform(0.08, 0.14) * wave)
    down = np.clip(np.rint(moved[1]), 0, letters.shape[0] - 1).astype(int)
    right = np.clip(np.rint(moved[0]), 0, letters.shape[1] - 1).astype(int)
    melted: NDArray[np.uint8] = letters[down, right]
    return melted
