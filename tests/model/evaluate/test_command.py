"""`telltale evaluate` as it is typed: on the demo checkpoint, killed and given again, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from infra.cli import telltale
from model.evaluate import run
from model.evaluate.robustness import ALTERATIONS
from tests.model.evaluate.conftest import record

HELDOUT = Path(__file__).parents[3] / "model" / "demo" / "heldout" / "records.json"


def invoke(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "TELLTALE_MODEL": ""}).invoke(telltale, ["evaluate", *arguments])


def heldout(out: Path, *more: str) -> list[str]:
    return [
        "--data",
        str(HELDOUT),
        "--limit",
        "24",
        "--batch-size",
        "4",
        "--out",
        str(out),
        "--checkpoint",
        "demo",
        *more,
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One whole run on the first held-out crops."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, invoke(*heldout(out))


def test_a_run_writes_everything_and_says_where(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        run.DESCRIPTION,
        run.PREDICTIONS,
        run.SKIPPED,
        run.SUMMARY,
        run.REPORT,
    }
    assert result.stdout.splitlines()[-1] == f"report: {out / run.REPORT}"
    assert "demo model, not FakeVLM" in result.stderr
    assert "demo model, not FakeVLM" in result.stdout


def test_its_numbers_are_those_of_its_predictions(finished: tuple[Path, Result]) -> None:
    out, result = finished
    rows = [json.loads(line) for line in (out / run.PREDICTIONS).read_text().splitlines()]
    made = json.loads((out / run.SUMMARY).read_text())
    accuracy = sum(row["predicted"] == row["label"] for row in rows) / 24
    assert accuracy > 0.75
    assert made["metrics"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    assert f"{accuracy:.3f}" in next(line for line in result.stdout.splitlines() if line.strip().startswith("accuracy"))
    assert made["metrics"]["css"]["value"] > 0.8
    assert made["data"]["groups"] == len({row["group"] for row in rows})


# Its own killer, so that it dies between two batches however fast it is and however late anybody would have noticed.
KILLED = """
import os, runpy, signal
from model.evaluate.journal import Journal

append = Journal.append

def last(journal, rows):
    append(journal, rows)
    if journal.done == 8:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.append = last
runpy.run_module("model.evaluate", run_name="__main__", alter_sys=True)
"""


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(finished: tuple[Path, Result], tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as many as here: another number sums in another order
    command = [sys.executable, "-c", KILLED, *heldout(out)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    predictions = out / run.PREDICTIONS
    left = predictions.read_bytes()
    assert left.count(b"\n") == 8
    predictions.write_bytes(left[:-20])  # and as if the kill had come in the middle of a line
    result = invoke(*heldout(out))
    assert result.exit_code == 0, result.output
    for name in (run.PREDICTIONS, run.SUMMARY, run.REPORT, run.SKIPPED):
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_a_log_is_told_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.evaluate.command.BETWEEN_LINES_S", 0)
    result = invoke(*heldout(tmp_path / "run", "--answers", "none", "--limit", "8"))
    told = [line for line in result.stderr.splitlines() if line.startswith("judging: ")]
    assert [line.partition(", about ")[0] for line in told] == ["judging: 4 of 8 images", "judging: 8 of 8 images"]
    assert told[1].endswith("about 0:00:00 left")


def test_free_answers_and_robustness(tmp_path: Path) -> None:
    result = invoke(*heldout(tmp_path / "run", "--answers", "free", "--robustness", "--limit", "8"))
    assert result.exit_code == 0, result.output
    made = json.loads((tmp_path / "run" / run.SUMMARY).read_text())
    assert made["metrics"]["unparsable"]["images"] == 8
    assert len(made["robustness"]) == 9
    for shown in ("unparsable answers", "answer agrees with score", "jpeg50", "rotate15"):
        assert shown in result.stdout


def test_bad_records_are_said_by_line_and_the_rest_is_measured(tmp_path: Path) -> None:
    for number in (0, 1):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    lines = [json.dumps(record(0)), "{ broken", json.dumps(record(9)), json.dumps(record(1)), json.dumps(record(2))]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    result = invoke(
        "--data", str(tmp_path / "test.jsonl"), "--out", str(out), "--checkpoint", "demo", "--answers", "none"
    )
    assert result.exit_code == 0, result.output
    assert "line 2: not JSON" in result.stderr
    assert "line 3: the image file does not exist" in result.stderr
    assert "3 images, read as FakeClue; 2 records left out" in result.stderr
    assert "1 image could not be judged, and is left out\n  line 5: 2.png: the image cannot be decoded" in result.stderr
    skipped = [json.loads(line) for line in (out / run.SKIPPED).read_text().splitlines()]
    assert [each["place"] for each in skipped] == ["line 2", "line 3", "line 5"]
    assert json.loads((out / run.SUMMARY).read_text())["data"]["judged"] == 2


def test_one_is_not_said_as_many(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "0.png")
    (tmp_path / "test.jsonl").write_text("\n".join([json.dumps(record(0)), "{ broken"]))
    out = tmp_path / "out"
    result = invoke("--data", str(tmp_path / "test.jsonl"), "--out", str(out), "--checkpoint", "demo")
    assert "1 image, read as FakeClue; 1 record left out" in result.stderr
    assert "telltale-demo on 1 image" in [line.strip() for line in result.stdout.splitlines()]
    page = (out / run.REPORT).read_text()
    assert '<p class="soft">1 image, read as FakeClue' in page
    assert '<p class="soft">1 record; skipped.jsonl' in page


def test_a_part_of_one_class_says_why_there_is_no_auroc(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{number}.png")
    (tmp_path / "test.json").write_text(json.dumps([record(number) for number in (0, 2, 1, 3)]))
    out = tmp_path / "out"
    asked = ["--data", str(tmp_path / "test.json"), "--out", str(out), "--checkpoint", "demo", "--answers", "none"]
    result = invoke(*asked, "--limit", "2")
    why = "AUROC and balanced accuracy need both classes, and what --limit 2 took of the set has only real images."
    assert why in result.stdout
    assert why in (out / run.REPORT).read_text()
    assert "need both classes" not in invoke(*asked[:3], str(tmp_path / "all"), *asked[4:]).stdout


@pytest.mark.parametrize("tree", [True, False])
def test_a_run_written_into_its_data_goes_on(tmp_path: Path, *, tree: bool) -> None:
    for number, name in enumerate(("fake", "real")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), "red").save(tmp_path / name / f"{number}.png")
    if not tree:
        (tmp_path / "test.json").write_text(json.dumps([record(0, image="fake/0.png")]))
    asked = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--checkpoint", "demo", "--answers", "none"]
    asked += [] if tree else ["--images", str(tmp_path)]
    assert invoke(*asked).exit_code == 0
    again = invoke(*asked)
    assert again.exit_code == 0, again.output
    assert "0 records left out" in again.stderr


def test_there_is_no_summary_without_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> str:
        raise ValueError("no page")

    monkeypatch.setattr("model.evaluate.report.render", failing)
    assert invoke(*heldout(tmp_path / "run", "--limit", "4", "--answers", "none")).exit_code == 1
    assert not (tmp_path / "run" / run.SUMMARY).exists()


def test_an_image_that_cannot_be_altered_is_said(tmp_path: Path) -> None:
    """JPEG holds no more than 65,500 rows; the picture itself is sound."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "0.png")
    Image.new("RGB", (96, 66_000), "blue").save(tmp_path / "1.png")
    (tmp_path / "test.json").write_text(json.dumps([record(0), record(1)]))
    out = tmp_path / "out"
    result = invoke(
        *("--data", str(tmp_path / "test.json"), "--out", str(out), "--checkpoint", "demo"),
        *("--answers", "none", "--robustness"),
    )
    assert result.exit_code == 0, result.output
    assert "1 image could not be judged after jpeg80: left out of the robustness table\n  row 2:" in result.stderr
    assert "could not be judged after blur" not in result.stderr
    assert "1 image after an alteration" in result.stdout


def test_text_that_cannot_be_written_does_not_end_a_run(tmp_path: Path) -> None:
    for number in (0, 1):
        Image.new("RGB", (40, 40), "red").save(tmp_path / f"{number}.png")
    records = [record(0), record(1), record(1, cate="\ud83d")]
    (tmp_path / "test.json").write_text(json.dumps(records))
    out = tmp_path / "out"
    result = invoke("--data", str(tmp_path / "test.json"), "--out", str(out), "--checkpoint", "demo")
    assert result.exit_code == 0, result.output
    assert "row 3: it holds text that is no Unicode" in result.stderr
    assert (out / run.REPORT).exists()


def test_columns_of_values_and_of_intervals_are_aligned(tmp_path: Path) -> None:
    result = invoke(*heldout(tmp_path / "run", "--limit", "8", "--answers", "none", "--robustness"))
    assert result.exit_code == 0, result.output
    names = {"clean", *(each.name for each in ALTERATIONS)}
    lines = [line for line in result.stdout.splitlines() if line.split() and line.split()[0] in names]
    assert len(lines) == 9
    assert len({tuple(found.start() for found in re.finditer("–", line)) for line in lines}) == 1
    assert all(len(line) <= 120 for line in lines)


def test_another_run_s_folder_is_refused(finished: tuple[Path, Result]) -> None:
    result = invoke(*heldout(finished[0], "--answers", "none"))
    assert result.exit_code == 1
    assert "holds another evaluation (its options answers is 'scored', not 'none')" in result.stderr


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps(record(0)))
    result = invoke("--data", str(tmp_path / "test.jsonl"))
    assert result.exit_code == 1
    assert f"There is nothing to evaluate. Image names were looked for in {tmp_path}: --images" in result.stderr
    assert "line 1: the image file does not exist" in result.stderr
    (tmp_path / "many.jsonl").write_text("\n".join(json.dumps(record(number)) for number in range(7)))
    assert "  … and 2 more\n" in invoke("--data", str(tmp_path / "many.jsonl")).stderr
    assert invoke("--data", str(tmp_path / "nowhere")).exit_code == 1


def test_no_image_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"no image")
    result = invoke("--data", str(tmp_path), "--out", str(tmp_path / "out"), "--checkpoint", "demo")
    assert result.exit_code == 1
    assert "1 image could not be judged, and is left out" in result.stderr
    assert "\n  real/a.png: the image cannot be decoded" in result.stderr
    assert "No image could be judged" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["--checkpoint", "nowhere/at/all"], "neither a folder nor a hub id", 1),
        (["--checkpoint", "lingcco/fakeVLM"], "40-digit commit hash", 1),
        (["--checkpoint", "demo", "--engine", "vllm"], "--engine vllm and --url belong together", 2),
        (["--checkpoint", "demo", "--url", "http://localhost:1"], "--engine vllm and --url belong together", 2),
        (["--checkpoint", "demo", "--engine", "vllm", "--url", "http://127.0.0.1:9"], "127.0.0.1:9", 1),
    ],
)
def test_what_cannot_be_loaded_is_said(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str, code: int
) -> None:
    monkeypatch.setattr("model.engines.vllm.PAUSES_S", ())
    result = invoke("--data", str(HELDOUT), "--limit", "2", *arguments)
    assert result.exit_code == code
    assert says in result.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.evaluate.judging.judge", interrupt)
    result = invoke(*heldout(tmp_path / "run"))
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr


def test_ctrl_c_while_it_measures_keeps_what_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.evaluate.summary.summarise", interrupt)
    result = invoke(*heldout(tmp_path / "run", "--limit", "4", "--answers", "none"))
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr
    assert len((tmp_path / "run" / run.PREDICTIONS).read_text().splitlines()) == 4


@pytest.mark.parametrize(("content", "says"), [("", "is empty"), ("[]", "holds no records"), ("\n\n", "is empty")])
def test_a_file_with_nothing_in_it_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "test.json").write_text(content)
    result = invoke("--data", str(tmp_path / "test.json"))
    assert (result.exit_code, result.stderr) == (1, f"Error: {tmp_path / 'test.json'} {says}.\n")


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys, model.evaluate.command; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'sklearn', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
