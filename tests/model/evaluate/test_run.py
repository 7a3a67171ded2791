"""A run from records to rows: what each mode writes, what is unreadable, and that only the same run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.answer import parse
from model.detector import Detector
from model.engines.engine import EngineError
from model.engines.vllm import ServerUnavailable
from model.evaluate import report, run, summary, table
from model.evaluate.records.dataset import read
from model.evaluate.robustness import Alteration
from model.evaluate.run import Options, OtherRun, Results
from tests.model.evaluate.conftest import FAKE_TEXT, REAL_TEXT, record


@contextmanager
def silent(what: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    yield lambda images: None


def evaluate(detector: Detector, album: Path, out: Path, **options: Any) -> Results:
    chosen = Options(**{"batch_size": 3, **options})
    dataset = read(album).first(chosen.limit)
    description = run.describe(detector, "demo", None, dataset, chosen)
    with run.claimed(out, description):
        return run.measure(detector, dataset, out, description, chosen, silent)


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_served_answers_are_those_the_detector_gives(divided: Detector, album: Path, tmp_path: Path) -> None:
    rows = evaluate(divided, album, tmp_path / "out").rows
    assert [row["id"] for row in rows] == [f"{number}.png" for number in range(8)]
    assert [row["label"] for row in rows] == ["real", "fake"] * 4
    assert {row["predicted"] for row in rows} == {"real", "fake"}
    for row in rows:
        assert row["predicted"] == row["scored"] == ("fake" if row["p_fake"] >= 0.5 else "real")
        assert row["answer"].startswith(f"This is a {row['predicted']} image.")
        assert 0 < row["rouge_l"] <= 1
        assert row["references"] == [REAL_TEXT if row["label"] == "real" else FAKE_TEXT]


def test_free_answers_are_read_and_never_guessed(divided: Detector, album: Path, tmp_path: Path) -> None:
    """The tiny network babbles when nothing is forced: that is its own outcome, and counts as wrong."""
    results = evaluate(divided, album, tmp_path / "out", answers="free")
    assert [row["predicted"] for row in results.rows] == [parse(row["answer"]) for row in results.rows]
    babble = [row for row in results.rows if row["predicted"] == "unparsable"]
    assert babble
    made = summary.summarise(results)
    assert made["metrics"]["unparsable"]["value"] == pytest.approx(len(babble) / 8, abs=1e-6)
    right = sum(row["predicted"] == row["label"] for row in results.rows)
    assert made["metrics"]["accuracy"]["value"] == pytest.approx(right / 8, abs=1e-6)
    assert made["confusion"]["real"]["unparsable"] + made["confusion"]["fake"]["unparsable"] == len(babble)
    assert made["metrics"]["answer_agrees_with_score"]["images"] == 8


def test_without_answers_there_are_verdicts_alone(divided: Detector, album: Path, tmp_path: Path) -> None:
    results = evaluate(divided, album, tmp_path / "out", answers="none")
    assert {row["answer"] for row in results.rows} == {None}
    made = summary.summarise(results)
    assert made["metrics"]["rouge_l"]["value"] is None
    assert made["texts"] is None
    assert "unparsable" not in made["metrics"]
    assert "not measured" in made["unparsable"]


def test_scores_are_the_same_in_every_mode(divided: Detector, album: Path, tmp_path: Path) -> None:
    scores = [
        [row["logit"] for row in evaluate(divided, album, tmp_path / answers, answers=answers).rows]
        for answers in ("scored", "free", "none")
    ]
    assert np.ptp(np.array(scores), axis=0).max() < 1e-4


def test_images_that_cannot_be_read_are_rows_with_a_reason(divided: Detector, album: Path, tmp_path: Path) -> None:
    """A whole batch of them, and one amid good ones: the others' scores stay with the right images."""
    expected = {row["id"]: row["p_fake"] for row in evaluate(divided, album, tmp_path / "all").rows}
    for number in (0, 1, 2, 4):
        (album / f"{number}.png").write_bytes(b"no image")
    (album / "records.json").write_text(json.dumps([*[record(number) for number in range(8)], record(9)]))
    results = evaluate(divided, album, tmp_path / "out", robustness=True)
    good = {row["id"]: row["p_fake"] for row in results.rows if row["error"] is None}
    assert good == pytest.approx({f"{number}.png": expected[f"{number}.png"] for number in (3, 5, 6, 7)}, abs=1e-5)
    assert [each["place"] for each in results.skipped] == ["row 1", "row 2", "row 3", "row 5", "row 9"]
    assert "decoded" in results.skipped[0]["reason"]
    made = summary.summarise(results)
    assert (made["data"]["judged"], made["data"]["skipped"]) == (4, 5)
    assert made["metrics"]["accuracy"]["images"] == 4
    assert made["robustness"][0]["metrics"]["accuracy"]["images"] == 4
    assert list(results.rows[0]) == list(results.rows[3])
    assert len((tmp_path / "out" / run.SKIPPED).read_text().splitlines()) == 5


def test_robustness_has_every_alteration_and_the_clean_set(divided: Detector, album: Path, tmp_path: Path) -> None:
    made = summary.summarise(evaluate(divided, album, tmp_path / "out", answers="none", robustness=True))
    names = ["clean", "jpeg80", "jpeg70", "jpeg50", "blur", "half", "rotate15", "noise", "screenshot"]
    assert [each["name"] for each in made["robustness"]] == names
    clean, turned = made["robustness"][0], made["robustness"][6]
    assert clean["metrics"]["accuracy"]["value"] == made["metrics"]["accuracy"]["value"]
    assert clean["metrics"]["change"]["value"] == 0
    change = turned["metrics"]["accuracy"]["value"] - clean["metrics"]["accuracy"]["value"]
    assert turned["metrics"]["change"]["value"] == pytest.approx(change, abs=1e-5)
    paper = {each["name"]: each["published_accuracy"] for each in made["robustness"]}
    assert (paper["jpeg80"], paper["jpeg50"]) == (0.910, None)


def test_alterations_reach_the_network(divided: Detector, album: Path, tmp_path: Path) -> None:
    results = evaluate(divided, album, tmp_path / "out", answers="none", robustness=True)
    for clean, turned in zip(results.rows, results.altered["rotate15"], strict=True):
        assert clean["id"] == turned["id"]
        if clean["id"] != "3.png":  # black corners change nothing of a black image
            assert abs(clean["logit"] - turned["logit"]) > 1e-4


def test_two_runs_write_the_same_bytes(divided: Detector, album: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        results = evaluate(divided, album, tmp_path / name, robustness=True)
        made.append((contents(tmp_path / name), summary.to_json(summary.summarise(results))))
    assert made[0] == made[1]


@pytest.mark.parametrize("calls", [0, 1, 2, 4])
def test_a_run_that_broke_goes_on_to_the_same_bytes(
    divided: Detector, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """The engine fails in the first batch, in the second, in the third, and in the middle of the alterations."""
    evaluate(divided, album, tmp_path / "whole", robustness=True)
    left, real = [calls], Detector.detect_prepared

    def failing(self: Detector, *arguments: Any) -> Any:
        if not left[0]:
            raise EngineError("the server is away")
        left[0] -= 1
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "detect_prepared", failing)
        with pytest.raises(EngineError):
            evaluate(divided, album, tmp_path / "broken", robustness=True)
    assert contents(tmp_path / "broken") != contents(tmp_path / "whole")
    evaluate(divided, album, tmp_path / "broken", robustness=True)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def refusing(monkeypatch: pytest.MonkeyPatch, detector: Detector, refused: Path, error: EngineError) -> None:
    """An engine that fails on every batch with this one image in it."""
    with Image.open(refused) as opened:
        poison = detector.prepare(opened.convert("RGB"))
    real = Detector.detect_prepared

    def failing(self: Detector, prepared: Sequence[Any], *arguments: Any) -> Any:
        if any(torch.equal(each, poison) for each in prepared):
            raise error
        return real(self, prepared, *arguments)

    monkeypatch.setattr(Detector, "detect_prepared", failing)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_that_the_engine_refuses_costs_itself_alone(
    divided: Detector, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    whole = evaluate(divided, album, tmp_path / "whole", batch_size=batch_size)
    with monkeypatch.context() as patch:
        refusing(patch, divided, album / "4.png", EngineError("answered 400: no such image"))
        results = evaluate(divided, album, tmp_path / "out", batch_size=batch_size, robustness=True)
    scores = {row["id"]: row["p_fake"] for row in whole.rows if row["id"] != "4.png"}
    assert {row["id"]: row["p_fake"] for row in results.rows if row["error"] is None} == pytest.approx(scores, abs=1e-5)
    [skipped] = results.skipped
    assert skipped["reason"] == "the engine refuses the image: answered 400: no such image"
    made = summary.summarise(results)
    assert (made["data"]["judged"], made["data"]["skipped"]) == (7, 1)
    assert report.render(made, results, read(album).samples)


def test_a_server_that_is_away_is_no_image_s_fault(
    divided: Detector, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, divided, album / "4.png", ServerUnavailable("nobody answers"))
    with pytest.raises(ServerUnavailable):
        evaluate(divided, album, tmp_path / "out")
    assert len((tmp_path / "out" / run.PREDICTIONS).read_bytes().splitlines()) == 3


def test_an_alteration_that_fails_is_that_row_s_error(
    divided: Detector, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture may be too long for JPEG."""

    def too_long(image: Image.Image) -> Image.Image:
        if image.getpixel((0, 0)) == (255, 0, 0):
            raise OSError("encoder error -2 when writing image file")
        return image

    monkeypatch.setattr(run, "ALTERATIONS", (Alteration("jpeg80", "JPEG, quality 80", too_long),))
    results = evaluate(divided, album, tmp_path / "out", answers="none", robustness=True)
    errors = {row["id"]: row["error"] for row in results.altered["jpeg80"] if row["error"]}
    assert errors == {"0.png": "the image cannot be altered: encoder error -2 when writing image file"}
    assert [row["error"] for row in results.rows] == [None] * 8
    made = summary.summarise(results)
    assert {each["metrics"]["accuracy"]["images"] for each in made["robustness"]} == {7}


def test_no_image_that_can_be_altered_leaves_dashes(
    divided: Detector,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(image: Image.Image) -> Image.Image:
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr(run, "ALTERATIONS", (Alteration("jpeg80", "JPEG, quality 80", failing),))
    results = evaluate(divided, album, tmp_path / "out", answers="none", robustness=True)
    made = summary.summarise(results)
    assert made["robustness"][1]["metrics"]["change"]["value"] is None
    table.show(made)
    jpeg = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("jpeg80"))
    assert jpeg.split() == ["jpeg80", "–", "–", "–", "–", "–", "0.910"]
    assert "<h2>Robustness</h2>" in report.render(made, results, read(album).samples)


def test_an_image_that_cannot_be_prepared_is_a_row_with_a_reason(
    divided: Detector, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Detector.prepare

    def failing(self: Detector, image: Image.Image) -> Any:
        if image.getpixel((0, 0)) == (255, 0, 0):
            raise ValueError("nothing is left of it")
        return real(self, image)

    monkeypatch.setattr(Detector, "prepare", failing)
    results = evaluate(divided, album, tmp_path / "out", answers="none")
    assert [row["error"] for row in results.rows] == [
        "the image cannot be prepared: nothing is left of it",
        *[None] * 7,
    ]


def test_what_is_there_is_not_judged_again(
    divided: Detector, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(divided, album, tmp_path / "out")

    def never(*_: Any) -> None:
        raise AssertionError("judged again")

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "detect_prepared", never)
        assert evaluate(divided, album, tmp_path / "out").rows == first.rows
        with pytest.raises(AssertionError, match="judged again"):
            evaluate(divided, album, tmp_path / "out", robustness=True)
    assert len(evaluate(divided, album, tmp_path / "out", robustness=True).altered) == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 4}, "options batch_size is 3, not 4"),
        ({"answers": "none"}, "options answers is 'scored', not 'none'"),
        ({"limit": 2}, "options limit is None, not 2"),
    ],
)
def test_another_run_is_refused(
    divided: Detector, album: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    evaluate(divided, album, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(OtherRun, match=says) as raised:
        evaluate(divided, album, tmp_path / "out", **options)
    assert "choose another --out" in str(raised.value)
    assert contents(tmp_path / "out") == before


def test_other_data_and_another_checkpoint_are_refused(
    divided: Detector, detector: Detector, album: Path, tmp_path: Path
) -> None:
    evaluate(divided, album, tmp_path / "out")
    with pytest.raises(OtherRun, match="manifest_digest"):
        evaluate(detector, album, tmp_path / "out")
    (album / "records.json").write_text(json.dumps([record(number, cate="other") for number in range(8)]))
    with pytest.raises(OtherRun, match=r"its data records_digest is [0-9a-f]{8}…, not [0-9a-f]{8}…"):
        evaluate(divided, album, tmp_path / "out")


def test_two_processes_do_not_write_one_folder(divided: Detector, album: Path, tmp_path: Path) -> None:
    """The lock ends with its holder: a run that was killed leaves a folder that can be gone on with."""
    out = tmp_path / "out"
    evaluate(divided, album, out)
    before = contents(out)
    script = "import sys; from pathlib import Path; from model.evaluate import run; " + (
        "import json; out = Path(sys.argv[1]); described = json.loads((out / run.DESCRIPTION).read_text())\n"
        "with run.claimed(out, described):\n    print('mine', flush=True)\n    sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(OtherRun, match="is being written by another process"):
            evaluate(divided, album, out)
        process.kill()
    evaluate(divided, album, out)
    assert contents(out) == before


def test_rows_that_two_processes_doubled_are_judged_again(divided: Detector, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(divided, album, out)
    before, predictions = contents(out), out / run.PREDICTIONS
    lines = predictions.read_bytes().splitlines(keepends=True)
    for doubled in (lines * 2, [line for line in lines for _ in range(2)]):
        predictions.write_bytes(b"".join(doubled))
        evaluate(divided, album, out)
        assert contents(out) == before


def test_a_folder_of_something_else_is_left_alone(divided: Detector, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear all")
    with pytest.raises(OtherRun, match="not empty"):
        evaluate(divided, album, out)
    for damaged in (b"{ half", b"\xff\xfe"):
        (out / run.DESCRIPTION).write_bytes(damaged)
        with pytest.raises(OtherRun, match="damaged"):
            evaluate(divided, album, out)


def test_a_run_killed_before_it_said_what_it_is_can_be_begun_again(
    divided: Detector, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / run.DESCRIPTION).touch()
    evaluate(divided, album, out)
    evaluate(divided, album, tmp_path / "other")
    assert contents(out) == contents(tmp_path / "other")


def test_groups_make_intervals_wider(divided: Detector, album: Path, tmp_path: Path) -> None:
    alone = summary.summarise(evaluate(divided, album, tmp_path / "alone", answers="none"))
    grouped = [record(number, group="ab"[number > 3]) for number in range(8)]
    (album / "records.json").write_text(json.dumps(grouped))
    made = summary.summarise(evaluate(divided, album, tmp_path / "grouped", answers="none"))
    assert (made["data"]["groups"], alone["data"]["groups"]) == (2, None)
    assert "2 groups" in made["intervals"]
    for name in ("accuracy", "recall_real"):
        one, two = alone["metrics"][name], made["metrics"][name]
        assert one["value"] == two["value"]
        assert two["low"] <= one["low"]
        assert two["high"] >= one["high"]


def test_an_image_without_a_group_is_its_own(divided: Detector, album: Path, tmp_path: Path) -> None:
    grouped = [record(number, group="ab"[number > 3]) for number in range(7)]
    (album / "records.json").write_text(json.dumps([*grouped, record(7)]))
    made = summary.summarise(evaluate(divided, album, tmp_path / "out", answers="none"))
    assert made["data"]["groups"] == 3
    assert "3 groups" in made["intervals"]


def test_the_summary_says_what_was_measured(divided: Detector, album: Path, tmp_path: Path) -> None:
    made = summary.summarise(evaluate(divided, album, tmp_path / "out"))
    assert made["checkpoint"]["is_demo"]
    assert made["checkpoint"]["manifest_digest"] == divided.manifest.digest()
    assert made["checkpoint"]["prompt"] == "<image>Does the image looks real/fake?"
    assert (made["engine"], made["dtype"]) == ("transformers", "float32")
    assert set(made["categories"]) == {"a", "b"}
    assert sum(each["images"] for each in made["categories"].values()) == 8
    assert made["texts"]["embedder"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert str(tmp_path) not in summary.to_json(made)


def test_a_folder_is_named_after_what_is_in_it(divided: Detector, album: Path) -> None:
    def name(**options: Any) -> str:
        chosen = Options(**options)
        return run.folder_name(run.describe(divided, "demo", None, read(album), chosen), album / "records.json")

    assert name().startswith("tiny-records-scored-")
    assert name() == name()
    assert name() == name(robustness=True)
    assert len({name(), name(batch_size=2), name(answers="none"), name(limit=3)}) == 4
