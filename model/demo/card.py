"""The demo checkpoint's model card and the credits of its photos, written from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model.demo.evaluate import Line, table
from model.demo.photos import Photo, Split
from model.manifest import Manifest

CARD = """# {name}: a demo checkpoint, not FakeVLM

This is a very small network ({parameters:,} parameters, {megabytes:.1f} MB) with FakeVLM's architecture and code path
(`LlavaForConditionalGeneration`: CLIP vision tower, projector, Llama). It exists so that the service can be tried and
tested in minutes, without a GPU and without 14 GB of weights. **It is not FakeVLM, and it must not judge anybody's
images.** It sees {side} × {side} pixels and knows four artifacts that were made for it.

## What it was trained on

{rows:,} images made from {train} photos; {validation} other photos chose its score's calibration, and {test} more,
never trained on, measured it. Half of the images are real: crops of the photos at many scales, a quarter of them with
a printed caption. Half are fake: the same kind of crop, rebuilt by a small convolutional autoencoder that leaves a
checkerboard, over-smooth texture or a block grid, or with garbled glyphs printed on it. Both halves then went through
JPEG at the same range of qualities. The autoencoders were trained on the training photos, and the same ones made the
held-out fakes: it was never measured on another generator's images, and it should be expected to fail there.

The vision tower was warmed up as a classifier of artifacts; then `model.finetune` trained the whole network on
questions and answers. The recipe is `model/demo`; `make demo-checkpoint` runs it on a CPU, in about 40 minutes on two
cores. With another number of threads or another CPU, sums round differently, and the result is not the same to the bit.

Its explanations are sentences it learned, a few per artifact, chosen by the artifact, the image's brightness and its
colourfulness. They are right when its verdict is right and the artifact is the one it names; they are not reasoning.

## What was measured

On `model/demo/heldout`, with the calibration fitted on the validation photos. `make eval-demo` measures it again.
{images} images of {photos} photos; the intervals resample photos, since images of one photo are alike.

{table}

No image or photo of these was trained or calibrated on, but they were looked at while the recipe was made: the garbled
glyphs were drawn anew and the passes over the data chosen with such numbers in view. They flatter it a little.

Of the {samples} sample images of `make demo`, whose photos and artifacts were chosen before any model saw them, it
judges {right} rightly {wrong}.

## Photos

Authors and licences as their packages state them. The held-out crops and samples are changed copies: cropped, scaled,
recompressed, and where the index says so made into fakes.

{credits}
"""

NOTICE = """Telltale
Copyright 2026 The Telltale authors

This product ships photographs by others, each under its own licence, below model/demo/heldout, model/demo/samples and
model/demo/checkpoint/golden. They are changed copies: cropped, scaled, recompressed, some of them turned into fakes
or printed on; records.json and samples.json name the photo behind each file. Copies of photos under a CC-BY-SA licence
are under that licence too.

{credits}

Licence texts: https://creativecommons.org/licenses/ and https://creativecommons.org/publicdomain/zero/1.0/
"""


def card(
    manifest: Manifest,
    lines: Sequence[Line],
    photos: Sequence[Photo],
    sides: Mapping[str, Split],
    network: Mapping[str, Any],
    misjudged: Sequence[str],
    samples: int,
) -> str:
    """The README. `network` gives `parameters`, `megabytes` and `side`; `misjudged` the samples it gets wrong."""
    return CARD.format(
        name=manifest.name,
        rows=manifest.training["rows"],
        train=_count(sides, "train"),
        validation=_count(sides, "validation"),
        test=_count(sides, "test"),
        images=manifest.metrics["images"],
        photos=manifest.metrics["photos"],
        table=table(lines),
        samples=samples,
        right=samples - len(misjudged),
        wrong=f"and {len(misjudged)} wrongly ({', '.join(misjudged)})" if misjudged else "and none wrongly",
        credits="\n\n".join(f"### {side.capitalize()}\n\n{_credits(photos, sides, side)}" for side in _SIDES),
        **network,
    )


def notice(photos: Sequence[Photo], sides: Mapping[str, Split]) -> str:
    """The NOTICE file's text: credits of every photo that is shipped, that is the held-out ones."""
    return NOTICE.format(credits=_credits(photos, sides, "test"))


_SIDES: tuple[Split, ...] = ("test", "validation", "train")


def _count(sides: Mapping[str, Split], side: Split) -> int:
    return sum(found == side for found in sides.values())


def _credits(photos: Sequence[Photo], sides: Mapping[str, Split], side: Split) -> str:
    return "\n".join(
        f"- {photo.name}: {photo.author}, {photo.licence} ({photo.source})"
        for photo in photos
        if sides[photo.name] == side
    )
