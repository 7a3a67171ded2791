"""`telltale detect` on files, folders and standard input, with what can go wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console

from infra.cli import telltale
from infra.commands import detect as detect_command
from infra.commands.detect import detect
from model.batcher import Batcher
from model.detector import Detection, Detector, Verdict


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


def judge_one(*_: object) -> Iterator[detect_command.Judged]:
    """Instead of judging: one image is fake, and that is all."""
    verdict = Verdict("fake", 0.9, 2.0, 1.0, "tiny", "transformers", "float32")
    yield detect_command.Judged("two.gif", Detection(verdict, "This is a fake image."))


def judge_until_ctrl_c(*_: object) -> Iterator[detect_command.Judged]:
    """The same, and then Ctrl-C."""
    yield from judge_one()
    raise KeyboardInterrupt


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal, for both what is printed and the bar."""
    made = io.StringIO()
    monkeypatch.setattr(detect_command, "Console", lambda **_: Console(file=made, force_terminal=True, width=80))
    monkeypatch.setattr(detect_command, "open_detector", lambda *_: None)
    monkeypatch.setattr(detect_command, "_judge", judge_one)
    return made


def test_the_bar_is_gone_before_the_table_comes(screen: io.StringIO) -> None:
    result = CliRunner().invoke(detect, ["-"])
    assert result.exit_code == 0, result.output
    bar, _, after = screen.getvalue().rpartition("\x1b[2K")
    assert "judging" in bar
    assert "two.gif" in after
    assert "judging" not in after


class Terminal(io.StringIO):
    """Standard output on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [False, True])
def test_lines_on_a_terminal_have_no_bar_among_them(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal() if is_terminal else io.StringIO())
    detect.callback(("-",), "demo", None, "transformers", None, None, True, True, 8)
    assert ("judging" in screen.getvalue()) is not is_terminal


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_what_was_judged_before_ctrl_c_is_printed(
    tiny_checkpoint: Path, album: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.setattr(detect_command, "_judge", judge_until_ctrl_c)
    result = run(tiny_checkpoint, str(album), *more)
    assert result.exit_code == 130
    assert "two.gif" in result.stdout
    assert "Stopped: 1 of 2 images were judged." in result.stderr


def test_what_waits_is_given_up_when_nobody_takes_it(
    tiny_checkpoint: Path, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads bring the first two images, in any order; the third is not done before the batcher is closed."""
    detector = Detector.load(tiny_checkpoint, device="cpu")
    run_at_all, judge, close, closing = [], detector.detect_prepared, Batcher.close, threading.Event()

    def slow(*given: Any) -> list[Detection]:
        run_at_all.append(1)
        assert len(run_at_all) <= 2 or closing.wait(60)
        return judge(*given)

    monkeypatch.setattr(detector, "detect_prepared", slow)
    monkeypatch.setattr(Batcher, "close", lambda batcher, **how: closing.set() or close(batcher, **how))
    found = detect_command._judge(detector, [str(album / "one.PNG")] * 64, explain=False, batch_size=1)
    assert next(found).error is None
    found.close()
    assert 1 <= len(run_at_all) <= 4, "at most one waits beside the third"


def test_ctrl_c_while_the_checkpoint_loads_is_no_traceback(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(detect_command, "open_detector", interrupt)
    result = CliRunner().invoke(telltale, ["detect", str(album)])
    assert (result.exit_code, result.stderr) == (130, "\nStopped.\n")


@pytest.mark.parametrize(
    ("names", "says"),
    [(["a.jpg"], "a.jpg cannot be found."), (["a.jpg", "b.jpg"], "found, and no other can."), (["a" * 300], "found.")],
)
def test_nothing_is_loaded_for_files_that_do_not_exist(names: list[str], says: str) -> None:
    result = run(Path("nowhere/at/all"), *names)
    assert result.exit_code == 1
    assert says in result.stderr


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
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
