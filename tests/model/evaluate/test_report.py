"""The page: what stands on it, that hostile names and answers stay text, and that it loads nothing."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.detector import Detector
from model.evaluate import report, summary
from model.evaluate.records.dataset import read
from model.evaluate.run import Results
from tests.model.evaluate.conftest import make_album, record
from tests.model.evaluate.test_run import evaluate

HOSTILE = "<script>alert('x')</script>\"onerror=\"alert(1)"


class Page(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass(frozen=True)
class Measured:
    """One run, what was made of it, and where its images are."""

    album: Path
    results: Results
    summary: dict[str, Any]
    html: str


@pytest.fixture(scope="module")
def measured(divided: Detector, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    album = make_album(folder / "album")
    results = evaluate(divided, album, folder / "out", robustness=True)
    made = summary.summarise(results)
    return Measured(album, results, made, report.render(made, results, read(album).samples))


def test_it_names_everything_a_reader_must_know(measured: Measured) -> None:
    text, made = Page(measured.html).text, measured.summary
    for said in (
        "This is a demo model, not FakeVLM.",
        made["checkpoint"]["manifest_digest"],
        made["checkpoint"]["weights_sha256"],
        made["data"]["data_digest"],
        made["checkpoint"]["prompt"],
        "transformers, float32, batches of 3",
        "sentence-transformers/all-MiniLM-L6-v2",
        "no stemmer",
        made["published"]["verdict"],
        "0.986",
        "1000 bootstrap draws",
        "Gaussian blur",
    ):
        assert said in text, said


def test_it_shows_the_numbers_of_the_summary(measured: Measured) -> None:
    made, text = measured.summary, Page(measured.html).text
    for name in ("accuracy", "f1_real", "auroc", "rouge_l"):
        found = made["metrics"][name]
        assert f"{found['value']:.3f}" in text
        assert f"{found['low']:.3f} – {found['high']:.3f}" in text


def test_it_loads_nothing(measured: Measured) -> None:
    page = Page(measured.html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form"}
    sources = [
        value or "" for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "default-src 'none'" in measured.html
    assert not re.search(r"url\((?!#)", measured.html)


def test_plots_are_drawn_and_follow_the_page_s_colour(measured: Measured) -> None:
    assert measured.html.count("<svg") == 3
    assert "currentColor" in measured.html
    assert "#010203" not in measured.html


def test_the_worst_mistakes_come_first_with_their_pictures(measured: Measured) -> None:
    worst = report.worst_mistakes(measured.results.rows, read(measured.album).samples)
    wrong = [row for row in measured.results.rows if row["predicted"] != row["label"]]
    assert len(worst) == len(wrong) > 1
    sure = [abs(row["p_fake"] - 0.5) for row in worst]
    assert sure == sorted(sure, reverse=True)
    for row in worst:
        picture = Image.open(io.BytesIO(base64.b64decode(row["thumbnail"].split(",")[1])))
        original = Image.open(measured.album / row["image"]).convert("RGB")
        assert picture.size == original.size == (48, 40)
        for shown, there in zip(picture.getpixel((20, 20)), original.getpixel((20, 20)), strict=True):
            assert abs(shown - there) < 12


def test_hostile_names_and_answers_stay_text(divided: Detector, album: Path, tmp_path: Path) -> None:
    name = f"{HOSTILE.replace('/', '_')}.png"
    (album / "0.png").rename(album / name)
    records = [
        record(0, image=name, cate=HOSTILE),
        *[record(number) for number in range(1, 8)],
        record(0, image=HOSTILE),
    ]
    for each in records:
        each["conversations"][1]["value"] = HOSTILE
    (album / "records.json").write_text(json.dumps(records))
    results = evaluate(divided, album, tmp_path / "out")
    for row in results.rows:
        row["predicted"] = "fake" if row["label"] == "real" else "real"  # so that every row is shown
        row["answer"] = HOSTILE
    page = Page(report.render(summary.summarise(results), results, read(album).samples))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [attributes for _, attributes in page.tags if any(key.startswith("on") for key in attributes)]
    assert page.text.count(HOSTILE) >= 10
    assert name in page.text


def test_the_same_run_gives_the_same_page(measured: Measured) -> None:
    again = report.render(measured.summary, measured.results, read(measured.album).samples)
    assert again == measured.html


def test_one_class_alone_leaves_dashes(divided: Detector, album: Path, tmp_path: Path) -> None:
    (album / "records.json").write_text(json.dumps([record(number) for number in range(0, 8, 2)]))
    results = evaluate(divided, album, tmp_path / "out", answers="none", robustness=True)
    made = summary.summarise(results)
    assert made["metrics"]["auroc"]["value"] is None
    assert "AUROC" in Page(report.render(made, results, read(album).samples)).text
