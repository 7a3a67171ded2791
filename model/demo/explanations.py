"""What the demo model learns to say: a few sentences per artifact, chosen by what is true of the image.

The sentence about the artifact is picked by the image's brightness, and the one after it by its colourfulness, so that
a trained model can only get it right by looking. These are learned sentences, not reasoning; the model card says so.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from model.manifest import Prompt

# Per artifact (None: no artifact) the same finding for dark, medium and bright images.
FINDINGS: dict[str | None, tuple[str, str, str]] = {
    "checkerboard": (
        "A fine checkerboard pattern runs through the dark areas, as upsampling in a generator leaves it.",
        "A regular checkerboard of light and dark pixels covers surfaces that should be even.",
        "Bright areas carry a repeating checkerboard texture that no camera produces.",
    ),
    "over-smooth": (
        "The shadows are smeared, and fine texture is missing where it should be.",
        "Surfaces look waxy: fine texture is gone while large outlines remain.",
        "Bright surfaces are over-smooth and edges melt into each other.",
    ),
    "block grid": (
        "The dark areas fall apart into square blocks with visible seams.",
        "A grid of square blocks runs across objects, and edges break at each seam.",
        "Square blocks of even brightness meet in hard seams across the image.",
    ),
    "garbled glyphs": (
        "The writing is garbled: its strokes form no letters of any alphabet.",
        "What looks like text is made of broken and mirrored pieces of letters.",
        "The letters are malformed, and strokes end or join where none should.",
    ),
    None: (
        "Shadows keep their grain, and edges stay sharp without any repeating pattern.",
        "Texture varies naturally across surfaces, and edges are continuous.",
        "Bright areas show natural gradations, and fine detail is consistent.",
    ),
    "caption": (
        "The printed letters are evenly formed, and the picture behind them keeps its grain.",
        "The letters are complete and evenly spaced, and the texture around them is natural.",
        "The lettering is crisp and regular, and nothing around it repeats.",
    ),
}
COLOURS = ("The colours are muted.", "The colours are moderate.", "The colours are strong.")

DARK, BRIGHT = 90.0, 150.0  # mean grey value, 0–255
MUTED, STRONG = 25.0, 65.0  # mean distance of the largest from the smallest channel, 0–255


def explain(image: Image.Image, artifact: str | None, prompt: Prompt, *, captioned: bool = False) -> str:
    """The full answer for an image with that artifact, or for a real one (`artifact` None), perhaps with a caption."""
    pixels = np.asarray(image, np.float32)
    tone = int(np.digitize(pixels.mean(), (DARK, BRIGHT)))
    colour = int(np.digitize((pixels.max(-1) - pixels.min(-1)).mean(), (MUTED, STRONG)))
    finding = FINDINGS["caption" if artifact is None and captioned else artifact][tone]
    return f"{prompt.answer_start('fake' if artifact else 'real')} {finding} {COLOURS[colour]}"


def all_answers(prompt: Prompt) -> list[str]:
    """Every answer there is, for training the tokenizer."""
    return [
        f"{prompt.answer_start('real' if kind in (None, 'caption') else 'fake')} {finding} {colour}"
        for kind, findings in FINDINGS.items()
        for finding in findings
        for colour in COLOURS
    ]
