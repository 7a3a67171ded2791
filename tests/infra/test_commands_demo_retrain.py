"""The parts of `telltale demo-retrain`: photos that serve one purpose each, moderators who work in the real dashboard,
marks that are counted right. The whole of it is `make demo-retrain`, which takes minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from PIL import Image
from sqlalchemy import Engine, select
from sqlalchemy.orm import selectinload

from infra.cli import telltale
from infra.demo import halftones, lesson
from infra.demo.halftones import Amounts, Picture, Pictures
from infra.demo.moderators import Moderator, PageRefused, reply
from infra.demo.platform import new_school
from model.demo import newtype
from model.detector import Detector
from moderation import tenants
from moderation.db import transaction
from moderation.tables import Review
from moderation.vocabulary import Answer
from tests.browser.conftest import serving
from tests.conftest import ServiceRun
from tests.reviewing import make_review_case

PASSWORD = "correct horse battery staple"
ADA, BEN, DORA = (f"{name}@demo.example" for name in ("ada", "ben", "dora"))
SAID = "This is a real image. The colours are muted. The shadows are smeared."
TRUE = "This is a fake image. A regular pattern of dots covers the picture. The colours are muted."
HALFTONE = Picture(Path("any.jpg"), "halftone", "a photo", TRUE)


class TestPictures:
    @pytest.fixture(scope="class")
    @staticmethod
    def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(newtype, "AUTOENCODER_STEPS", 1)
            return halftones.draw(tmp_path_factory.mktemp("pictures"), Amounts(40, 12, 12), lambda line: None)

    def test_every_photo_serves_one_purpose(self, pictures: Pictures) -> None:
        old, replay = (json.loads(place.read_text()) for place in (pictures.old, pictures.replay))
        arriving, measured = ({each.photo for each in some} for some in (pictures.arriving, pictures.measured))
        seen = [arriving, measured, {each["photo"] for each in old}, {each["photo"] for each in replay}]
        assert all(seen)
        assert sum(map(len, seen)) == len(set.union(*seen))

    def test_what_arrives_is_as_many_halftones_as_reals_and_a_few_known_fakes(self, pictures: Pictures) -> None:
        kinds = [each.kind for each in pictures.arriving]
        assert (kinds.count("halftone"), kinds.count("real"), kinds.count("known")) == (17, 18, 5)
        assert all(each.path.is_file() for each in pictures.arriving)

    def test_the_old_set_has_no_halftone_and_says_what_is_alike(self, pictures: Pictures) -> None:
        old = json.loads(pictures.old.read_text())
        assert "halftone" not in {each["artifact"] for each in old}
        assert all(each["group"] and (pictures.old.parent / each["image"]).is_file() for each in old)

    def test_more_than_there_are_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(newtype, "AUTOENCODER_STEPS", 1)
        result = CliRunner().invoke(
            telltale, ["demo-retrain", "--once", "--cases", "100000", "--data", str(tmp_path / "new")]
        )
        assert result.exit_code == 1
        assert "are wanted, and there are" in result.output

    def test_another_seed_draws_other_pictures_of_the_same_photos(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        crops = {purpose: newtype.heldout(purpose)[:40] for purpose in newtype.SHARES}
        monkeypatch.setattr(newtype, "heldout", crops.__getitem__)
        monkeypatch.setattr(newtype, "autoencoders", lambda seed: None)
        monkeypatch.setattr(newtype, "known", lambda folder, *rest: folder.mkdir() or [])
        one, again, other = (
            halftones.draw(tmp_path / name, Amounts(20), lambda line: None, seed)
            for name, seed in (("one", 0), ("again", 0), ("other", 1))
        )
        assert dots(one) == dots(again) and not dots(one) & dots(other)
        assert names(one) == names(again) != names(other)
        assert {each.photo for each in one.measured} == {each.photo for each in other.measured}


def dots(pictures: Pictures) -> set[bytes]:
    return {each.path.read_bytes() for each in pictures.measured if each.kind == "halftone"}


def names(pictures: Pictures) -> list[str]:
    return [each.path.name for each in pictures.arriving]


class TestModerators:
    @pytest.fixture(scope="class")
    @staticmethod
    def url(services: ServiceRun) -> Iterator[str]:
        """A real api."""
        with serving() as url:
            yield url

    def test_they_answer_in_the_dashboard_until_nothing_is_left(self, url: str, db: Engine) -> None:
        name, _ = new_school([ADA, BEN], DORA, PASSWORD)
        with transaction() as session:
            tenant = tenants.tenant_named(session, name)
            assert tenant.allow_training
            cases = {
                str(make_review_case(session, tenant, text=SAID, blind=blind).id): blind for blind in (False, True)
            }
        answered: list[int] = []
        first, second = (
            Moderator(url, email, PASSWORD, dict.fromkeys(cases, HALFTONE)).work(lambda: answered.append(1))
            for email in (ADA, BEN)
        )
        assert (first, second, len(answered)) == (2, 0, 2)
        with transaction() as session:
            reviews = {
                str(each.case_id): each
                for each in session.scalars(select(Review).options(selectinload(Review.sentences)))
            }
        assert {each.answer for each in reviews.values()} == {Answer.FAKE}
        dots = (None, None, "A regular pattern of dots covers the picture.")
        graded = [
            ("This is a real image.", "wrong", None),
            ("The colours are muted.", "right", None),
            ("The shadows are smeared.", "wrong", None),
            dots,
        ]
        for case_id, blind in cases.items():
            said = [(each.said, each.grade, each.written) for each in reviews[case_id].sentences]
            # What was hidden cannot be graded: everything is added.
            assert said == ([dots, (None, None, "The colours are muted.")] if blind else graded)

    def test_a_wrong_password_is_said(self, url: str, db: Engine) -> None:
        new_school([ADA], DORA, PASSWORD)
        with pytest.raises(PageRefused, match="sign-in was answered with 401"):
            Moderator(url, ADA, "another password", {}).work(lambda: None)

    def test_a_reply_grades_what_is_said_and_adds_what_is_missed(self) -> None:
        assert reply(HALFTONE, ["This is a fake image.", "The colours are strong."]) == {
            "answer": "fake",
            "grade-0": "right",
            "grade-1": "wrong",
            "additions": "A regular pattern of dots covers the picture.\nThe colours are muted.",
        }


def test_marks_are_counted_by_kind(tmp_path: Path) -> None:
    """Of two halftones one is found, of two reals both are; the known fake is above all reals."""
    logits = [1.0, -2.0, -1.0, -3.0, 4.0]
    kinds: list[Any] = ["halftone", "halftone", "real", "real", "known"]
    path = tmp_path / "any.png"
    Image.new("RGB", (8, 8)).save(path)
    judged = iter(logits)

    def judge(images: list[Image.Image]) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(logit=logit, label="fake" if logit > 0 else "real")
            for logit, _ in zip(judged, images, strict=False)
        ]

    stub = cast(Detector, SimpleNamespace(judge=judge))
    marks = lesson.examined(stub, [Picture(path, kind, "a photo", "") for kind in kinds])
    assert marks == lesson.Marks(new=0.75, new_auc=0.75, old=1.0, old_auc=1.0, reals=1.0)


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    result = CliRunner().invoke(telltale, ["demo-retrain", "--once", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "every run begins anew" in result.output
