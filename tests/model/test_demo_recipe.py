"""The recipe of the demo checkpoint: same seed, same images; each photo on one side; licences read, not assumed."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.answer import parse
from model.demo import crops, dataset, explanations, fakes, photos, warmup
from model.demo.base import network, processor
from model.demo.fakes import ARTIFACTS, Autoencoders
from model.manifest import Prompt


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Textured everywhere, and no two places alike."""
    noise = np.random.default_rng(0).normal(128, 60, (60, 80, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def autoencoders(photo: Image.Image) -> Iterator[Autoencoders]:
    yield fakes.train_autoencoders([photo], seed=1, steps=2)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# --- photos ----------------------------------------------------------------------------------------------------------


def test_the_split_is_fixed_and_takes_shares_of_every_source() -> None:
    names = [f"{source}/{number}" for source in ("a", "b") for number in range(20)]
    sides = photos.split(names)
    assert sides == photos.split(list(reversed(names)))
    for source in ("a", "b"):
        counts = [sum(sides[n] == side for n in names if n.startswith(source)) for side in ("test", "validation")]
        assert counts == [4, 3]


COPYRIGHT = """Format: copyright-format 1.0

Files: *
Copyright: 2010 The Program
License: GPL-3+

Files: 16.04/hill_by_A.jpg
 16.04/lake_by_A.jpg
Copyright: Ada Example <ada@example.org>, 2018
License: CC-BY-SA-4.0

Files: 16.04/logo.png
Copyright: 2012-2014, Somebody Else
License: GPL-2
"""


def test_author_and_licence_come_from_the_copyright_file() -> None:
    assert photos.read_copyright(COPYRIGHT) == [
        ("*", "The Program", "GPL-3+"),
        ("16.04/hill_by_A.jpg", "Ada Example", "CC-BY-SA-4.0"),
        ("16.04/lake_by_A.jpg", "Ada Example", "CC-BY-SA-4.0"),
        ("16.04/logo.png", "Somebody Else", "GPL-2"),
    ]


def test_a_photo_without_a_free_licence_of_its_own_is_left_out(tmp_path: Path) -> None:
    documents, images = tmp_path / "usr/share/doc/p", tmp_path / "usr/share/backgrounds"
    documents.mkdir(parents=True)
    images.mkdir(parents=True)
    (documents / "copyright").write_text(COPYRIGHT)
    for name in ("hill_by_A.jpg", "logo.jpg", "unlisted.jpg"):
        Image.new("RGB", (4, 4)).save(images / name)
    assert [photo.name for photo in photos._lomiri(tmp_path, "16.04")] == ["lomiri/hill_by_A"]


def test_qt_resources_are_read_by_path() -> None:
    names = struct.pack(">HI", 1, 0) + "d".encode("utf-16-be") + struct.pack(">HI", 3, 0) + "f.x".encode("utf-16-be")
    blobs = struct.pack(">I", 5) + b"bytes"
    nodes = [
        struct.pack(">IHII", 0, 2, 1, 1),
        struct.pack(">IHII", 0, 2, 1, 2),
        struct.pack(">IHHHI", 8, 0, 0, 0, 0),
    ]
    tree = b"".join(node + bytes(22 - len(node)) for node in nodes)
    header = b"qres" + struct.pack(">4I", 2, 20, 20 + len(tree), 20 + len(tree) + len(blobs))
    assert list(photos.read_qt_resources(header + tree + blobs + names)) == [("d/f.x", b"bytes")]


# --- crops and fakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("artifact", [None, *ARTIFACTS])
@pytest.mark.parametrize("side", [crops.SIDE, crops.LARGE_SIDE])
def test_the_same_seed_makes_the_same_image(
    photo: Image.Image, autoencoders: Autoencoders, artifact: fakes.Artifact | None, side: int
) -> None:
    one, two = (dataset.make(photo, artifact, autoencoders, rng(), side) for _ in range(2))
    assert one == two
    assert Image.open(io.BytesIO(one.jpeg)).size == (side, side)
    assert parse(one.answer) == ("fake" if artifact else "real")


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_a_fake_differs_from_what_it_was_made_from(
    photo: Image.Image, autoencoders: Autoencoders, artifact: fakes.Artifact
) -> None:
    image = crops.crop(photo, rng(), crops.SIDE)
    made = fakes.fake(image, artifact, autoencoders, rng())
    assert np.abs(np.asarray(made, np.int16) - np.asarray(image, np.int16)).mean() > 2


def test_garbling_keeps_the_lines_and_changes_the_letters() -> None:
    caption = crops.any_caption(rng())
    mask = crops.text_mask(crops.SIDE, caption)
    garbled = np.asarray(fakes.garble(mask, caption, rng()))
    assert garbled.shape == np.asarray(mask).shape
    assert (garbled != np.asarray(mask)).mean() > 0.05
    first_line = round(caption.top * crops.SIDE)
    assert not garbled[: max(0, first_line - 1)].any()


def test_both_classes_have_the_same_jpeg_history(photo: Image.Image, autoencoders: Autoencoders) -> None:
    """The quantisation tables, that is the qualities, are drawn alike; they must not tell the classes apart."""
    tables: dict[bool, set[int]] = {True: set(), False: set()}
    for number in range(120):
        artifact = "block grid" if number % 2 else None
        made = dataset.make(photo, artifact, autoencoders, np.random.default_rng(number), crops.SIDE)
        tables[bool(artifact)].add(sum(Image.open(io.BytesIO(made.jpeg)).quantization[0]))  # type: ignore[attr-defined]
    low, high = (min(map(min, tables.values())), max(map(max, tables.values())))
    assert len(tables[True] & tables[False]) > 8
    assert all(max(found) - min(found) > 0.7 * (high - low) for found in tables.values())


def test_a_written_data_set_names_photo_and_artifact_and_repeats(
    tmp_path: Path, photo: Image.Image, autoencoders: Autoencoders
) -> None:
    photos_by_name = {"s/one": photo, "s/two": photo.rotate(180)}
    first, second = (dataset.write(tmp_path / name, photos_by_name, 12, autoencoders, 3) for name in ("a", "b"))
    assert first == second
    assert {row["photo"] for row in first} == set(photos_by_name)
    assert all((row["label"] == 1) == (row["artifact"] is None) for row in first)
    digests = [
        [hashlib.sha256((tmp_path / name / row["image"]).read_bytes()).digest() for row in first] for name in ("a", "b")
    ]
    assert digests[0] == digests[1]


# --- words -----------------------------------------------------------------------------------------------------------


def test_every_answer_starts_with_its_verdict_and_fits_the_tokenizer() -> None:
    prompt = Prompt()
    tokenizer = processor(prompt).tokenizer
    answers = explanations.all_answers(prompt)
    assert len(answers) == len(set(answers)) == 54
    assert {parse(answer) for answer in answers} == {"real", "fake"}
    assert max(len(tokenizer(answer)["input_ids"]) for answer in answers) < 64


def test_what_is_said_depends_on_what_is_seen() -> None:
    dark, bright = Image.new("RGB", (8, 8), (20, 20, 20)), Image.new("RGB", (8, 8), (250, 200, 150))
    said = {explanations.explain(image, "checkerboard", Prompt()) for image in (dark, bright)}
    assert len(said) == 2


# --- training --------------------------------------------------------------------------------------------------------


def test_warming_up_tells_apart_what_it_is_shown() -> None:
    made = processor(Prompt())
    model = network(made, seed=0)
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(32, 3, 1, 1, generator=generator).expand(-1, -1, crops.SIDE, crops.SIDE)
    striped = flat + torch.tensor([1.0, -1.0]).repeat(crops.SIDE // 2)
    pixels, targets = torch.cat([flat, striped]), torch.tensor([0] * 32 + [1] * 32)
    before = [weight.clone() for weight in model.model.language_model.parameters()]
    assert warmup.warm_up(model, pixels.half(), targets, epochs=6, seed=0) < 1.0
    assert all(torch.equal(old, new) for old, new in zip(before, model.model.language_model.parameters(), strict=True))
