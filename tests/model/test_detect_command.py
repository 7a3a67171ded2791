"""`telltale detect` on files, folders and standard input, with what can go wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from infra.commands.detect import detect


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two images, one of them nested and animated, beside a file that is none of our business."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "one.PNG")
    frames = [Image.new("RGB", (40, 30), color) for color in ("blue", "white")]
    frames[0].save(folder / "more" / "two.gif", save_all=True, append_images=frames[1:])
    (folder / "notes.txt").write_text("not an image")
    return folder


def run(checkpoint: Path, *arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(detect, [*arguments, "--checkpoint", str(checkpoint)], input=stdin)


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_folder_as_json(tiny_checkpoint: Path, album: Path) -> None:
    result = run(tiny_checkpoint, str(album), "--json", "--batch-size", "1")
    assert result.exit_code == 0, result.output
    two, one = lines(result)
    assert [two["image"], one["image"]] == [str(album / "more" / "two.gif"), str(album / "one.PNG")]
    assert [two["first_frame_only"], one["first_frame_only"]] == [True, False]
    for found in (one, two):
        assert found["label"] == ("fake" if found["p_fake"] >= 0.5 else "real")
        assert found["explanation"].startswith(f"This is a {found['label']} image.")
        assert (found["model_version"], found["engine"]) == ("tiny", "transformers")


def test_a_file_as_a_table(tiny_checkpoint: Path, album: Path) -> None:
    result = run(tiny_checkpoint, str(album / "one.PNG"), str(album / "more" / "two.gif"), "--no-explain")
    assert result.exit_code == 0, result.output
    assert "one.PNG" in result.stdout
    assert "fake (first frame)" in result.stdout
    assert "This is a" not in result.stdout


def test_standard_input(tiny_checkpoint: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "JPEG")
    result = run(tiny_checkpoint, "-", "--json", "--no-explain", stdin=buffer.getvalue())
    assert result.exit_code == 0, result.output
    [found] = lines(result)
    assert (found["image"], found["explanation"]) == ("-", None)
    assert found["label"] in ("real", "fake")


def test_it_says_that_the_demo_model_is_one(tiny_checkpoint: Path, album: Path) -> None:
    result = run(tiny_checkpoint, str(album), "--json")
    assert "demo model, not FakeVLM" in result.stderr
    assert "demo model" not in result.stdout


def test_bad_files_are_named_and_the_others_judged(tiny_checkpoint: Path, album: Path) -> None:
    broken, missing = album / "broken.jpg", album / "missing.jpg"
    broken.write_bytes(b"text")
    result = run(tiny_checkpoint, str(broken), str(missing), str(album / "one.PNG"), "--json")
    assert result.exit_code == 1
    bad, gone, good = lines(result)
    assert "not an image" in bad["error"]
    assert "No such file" in gone["error"]
    assert good["label"] in ("real", "fake")
    assert "2 of 3 images could not be judged" in result.stderr
    table = run(tiny_checkpoint, str(broken), str(album / "one.PNG"))
    assert table.exit_code == 1
    assert "not an image" in table.stdout


def test_an_empty_folder_is_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run(tiny_checkpoint, str(tmp_path))
    assert result.exit_code == 1
    assert "holds no images" in result.stderr


def test_a_checkpoint_that_cannot_be_loaded_is_an_error(tmp_path: Path, album: Path) -> None:
    for source, says in ((tmp_path / "nowhere", "neither a folder nor a hub id"), (album, "no config.json")):
        result = run(source, str(album))
        assert result.exit_code == 1
        assert says in result.stderr


def test_a_hub_id_without_its_commit_is_an_error(album: Path) -> None:
    result = run(Path("lingcco/fakeVLM"), str(album))
    assert result.exit_code == 1
    assert "40-digit commit hash" in result.stderr


def test_help_does_not_wait_for_torch() -> None:
    script = "import sys, infra.commands.detect; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
