"""An operator's sets: their images are found among others in any cut or compression, and blank ones are no copies."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from model.checkpoint import SAMPLES_FOLDER
from model.gate.leaks import Fingerprint
from workers.retraining import sets

PHOTOS = sorted(SAMPLES_FOLDER.glob("*.jpg"))[:2]


def known_by(*files: Path) -> list[Fingerprint]:
    return sets.fingerprints({file.name: file for file in files}, lambda: None)


def test_a_photo_is_found_again_smaller_and_recompressed_and_another_one_is_not(tmp_path: Path) -> None:
    one, other = PHOTOS
    copy = tmp_path / "copy.jpg"
    picture = Image.open(one)
    picture.resize((picture.width // 2, picture.height // 2)).save(copy, quality=60)
    assert sets.near(known_by(copy, other), known_by(one)) == {"copy.jpg"}


def test_the_same_bytes_are_the_same_image_and_two_blank_ones_are_not(tmp_path: Path) -> None:
    blank, paler, same = (tmp_path / name for name in ("blank.png", "paler.png", "same.png"))
    Image.new("RGB", (64, 64), "red").save(blank)
    Image.new("RGB", (64, 64), "pink").save(paler)
    same.write_bytes(blank.read_bytes())
    assert [each.pdq for each in known_by(blank)] == [None]
    assert sets.near(known_by(paler, same), known_by(blank)) == {"same.png"}


def test_what_is_no_image_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    assert [(each.id, each.pdq) for each in known_by(tmp_path / "a.jpg")] == [("a.jpg", None)]


def test_a_reason_to_stop_is_looked_at_before_each_image() -> None:
    looked: list[int] = []
    sets.fingerprints({path.name: path for path in PHOTOS}, lambda: looked.append(1))
    assert len(looked) == len(PHOTOS)
