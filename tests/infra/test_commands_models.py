"""`telltale models`, and the champion that a start makes sure of: a tiny checkpoint through the real loader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from sqlalchemy import select

from infra import registration
from infra.cli import telltale
from infra.commands.models import ensure_champion
from infra.demo.samples import Sample
from infra.registration import Source
from model import manifest as manifests
from model.checkpoint import save_classic
from moderation import checkpoints, model_versions
from moderation.db import transaction
from moderation.errors import ConfigurationError
from moderation.settings import Settings, settings
from moderation.storage import Storage
from moderation.tables import Event
from moderation.vocabulary import CaseStatus, EventType
from tests.factories import make_case, make_tenant
from tests.model import adapted, tiny

HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    """A checkpoint of the test's own, whose manifest has no golden outputs yet."""
    return Path(shutil.copytree(made, tmp_path / "tiny"))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Sample images, in place of the shipped ones."""
    folder = tmp_path / "samples"
    folder.mkdir()
    paths = [folder / f"{color}.png" for color in ("red", "green", "blue", "black", "white", "yellow")]
    for path in paths:
        Image.new("RGB", (48, 40), path.stem).save(path)
    monkeypatch.setattr(registration, "samples", lambda: [Sample(path, "real") for path in paths])
    return paths


def run(*arguments: object) -> Result:
    return CliRunner().invoke(telltale, ["models", *map(str, arguments)])


def as_json(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def with_model(model: object) -> Settings:
    return settings().model_copy(update={"model": str(model)})


def champion_name() -> str | None:
    with transaction() as session:
        champion = model_versions.champion(session)
    return champion.name if champion else None


@pytest.mark.usefixtures("db", "shipped")
class TestRegister:
    def test_gives_golden_outputs_to_a_checkpoint_that_has_none(self, checkpoint: Path) -> None:
        registered = as_json("register", checkpoint)
        golden = manifests.read(checkpoint).golden
        assert registered["golden"] == len(golden) > 0
        assert all((checkpoint / one.image).is_file() for one in golden)
        assert registered["stage"] == "challenger"

    def test_the_same_checkpoint_again_is_the_same_version(self, checkpoint: Path) -> None:
        as_json("register", checkpoint)
        as_json("register", checkpoint)
        (listed,) = as_json("list")
        assert (listed["name"], listed["checkpoint"]) == ("tiny", str(checkpoint))

    def test_weights_that_answer_otherwise_are_refused(self, checkpoint: Path) -> None:
        as_json("register", checkpoint)
        network, processor = tiny.build(seed=1)
        save_classic(network, processor, manifests.read(checkpoint), checkpoint, torch.float32)
        result = run("register", checkpoint, "--name", "other")
        assert result.exit_code == 1
        assert "does not answer as measured" in result.stderr
        assert len(as_json("list")) == 1

    def test_a_name_of_its_own_and_champion_at_once(self, checkpoint: Path) -> None:
        registered = as_json("register", checkpoint, "--name", "mine", "--promote")
        assert (registered["name"], registered["stage"]) == ("mine", "champion")

    def test_a_quantized_version_is_one_of_its_own(self, checkpoint: Path) -> None:
        plain = as_json("register", checkpoint)
        before = manifests.read(checkpoint)
        quantized = as_json("register", checkpoint, "--quantization", "int8", "--promote")
        assert (plain["name"], quantized["name"], quantized["stage"]) == ("tiny", "tiny-int8", "champion")
        assert manifests.read(checkpoint) == before
        with transaction() as session:
            stored = model_versions.version_named(session, "tiny-int8").manifest
        assert stored["quantization"] == "int8"
        assert {golden["dtype"] for golden in stored["golden"]} == {"int8"}
        ensure_champion(with_model(checkpoint))
        assert champion_name() == "tiny-int8"

    def test_what_is_no_checkpoint_is_refused(self, tmp_path: Path) -> None:
        for source, reason in ((tmp_path / "missing", "neither"), (tmp_path, "config.json")):
            result = run("register", source)
            assert result.exit_code == 1
            assert reason in result.stderr


@pytest.mark.usefixtures("db", "shipped")
class TestPromote:
    def test_one_is_champion_at_a_time(self, checkpoint: Path) -> None:
        as_json("register", checkpoint, "--promote")
        as_json("register", checkpoint, "--name", "second")
        assert as_json("promote", "second")["stage"] == "champion"
        assert {row["name"]: row["stage"] for row in as_json("list")} == {"tiny": "retired", "second": "champion"}

    def test_an_unknown_one_is_named(self) -> None:
        result = run("promote", "nobody")
        assert result.exit_code == 1
        assert "'nobody'" in result.stderr


@pytest.mark.usefixtures("db", "shipped")
class TestRollback:
    def test_goes_back_and_says_why(self, checkpoint: Path) -> None:
        as_json("register", checkpoint, "--promote")
        as_json("register", checkpoint, "--name", "second", "--promote")
        back = as_json("rollback", "--reason", "reals fell")
        assert (back["name"], back["stage"]) == ("tiny", "champion")
        with transaction() as session:
            query = select(Event.after).where(Event.type == EventType.MODEL_PROMOTED).order_by(Event.id.desc())
            assert session.scalars(query).first() == {"version": "tiny", "reason": "reals fell", "rollback": True}

    def test_without_a_version_before_it_says_so(self, checkpoint: Path) -> None:
        as_json("register", checkpoint, "--promote")
        result = run("rollback")
        assert result.exit_code == 1
        assert "nothing to go back to" in result.stderr


@pytest.mark.usefixtures("db", "shipped", "bucket")
class TestAdapter:
    @pytest.fixture
    def adapter(self, checkpoint: Path, tmp_path: Path) -> Path:
        """An adapter that nobody has given golden outputs yet."""
        return adapted.make(tmp_path / "retrained", checkpoint, strength=0.5)

    def test_it_is_stored_where_every_worker_finds_it(self, adapter: Path, tmp_path: Path) -> None:
        registered = as_json("register", adapter)
        assert registered["golden"] > 0
        digest = checkpoints.digest_of(registered["checkpoint"])
        assert digest is not None
        cache = tmp_path / "cache"
        cache.mkdir()
        fetched = checkpoints.fetch(Storage(settings()), digest, cache)
        assert manifests.read(fetched) == manifests.read(adapter)
        assert as_json("register", adapter) == registered
        assert len(as_json("list")) == 1

    def test_a_start_that_is_configured_with_it_registers_it_once(self, adapter: Path) -> None:
        for _ in range(2):
            ensure_champion(with_model(adapter))
        (listed,) = as_json("list")
        assert (listed["name"], listed["stage"]) == ("retrained", "champion")
        assert listed["checkpoint"].startswith("stored:")

    def test_old_ones_are_pruned(self, adapter: Path) -> None:
        as_json("register", adapter)
        for number in range(2):
            manifests.read(adapter).model_copy(update={"name": f"later {number}"}).write(adapter)
            as_json("register", adapter)
        assert as_json("prune", "--keep", "2", "--days", "1") == []
        assert as_json("prune", "--keep", "2", "--days", "0") == [{"removed": "retrained"}]
        assert "No adapter is old enough" in run("prune").stdout


@pytest.mark.usefixtures("db", "shipped")
class TestRejudge:
    def test_says_how_many_cases_were_asked_for(self, checkpoint: Path) -> None:
        with transaction() as session:
            tenant = make_tenant(session, "acme")
            make_case(session, tenant, CaseStatus.IN_REVIEW)
        assert as_json("rejudge") == {"cases": 0}
        as_json("register", checkpoint, "--promote")
        assert as_json("rejudge", "--tenant", "acme") == {"cases": 1}

    def test_an_unknown_tenant_is_named(self) -> None:
        result = run("rejudge", "--tenant", "nobody")
        assert result.exit_code == 1
        assert "nobody" in result.stderr


@pytest.mark.usefixtures("db", "shipped")
class TestEnsureChampion:
    def test_registers_and_promotes_what_is_configured(self, checkpoint: Path) -> None:
        ensure_champion(with_model(checkpoint))
        assert champion_name() == "tiny"

    def test_does_nothing_the_second_time(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        ensure_champion(with_model(checkpoint))
        capsys.readouterr()
        ensure_champion(with_model(checkpoint))
        assert capsys.readouterr().err == ""
        assert len(as_json("list")) == 1

    def test_keeps_a_champion_of_the_same_checkpoint_under_another_name(self, checkpoint: Path) -> None:
        as_json("register", checkpoint, "--name", "mine", "--promote")
        ensure_champion(with_model(checkpoint))
        assert champion_name() == "mine"

    def test_says_when_it_puts_another_in_its_place(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ensure_champion(with_model(checkpoint))
        other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
        manifests.read(other).model_copy(update={"name": "other"}).write(other)
        ensure_champion(with_model(other))
        assert champion_name() == "other"
        assert "other is champion now instead of tiny" in capsys.readouterr().err

    def test_a_version_promoted_since_stays_champion(self, checkpoint: Path, tmp_path: Path) -> None:
        ensure_champion(with_model(checkpoint))
        better = Path(shutil.copytree(checkpoint, tmp_path / "better"))
        manifests.read(better).model_copy(update={"name": "better"}).write(better)
        as_json("register", better, "--promote")
        ensure_champion(with_model(checkpoint))
        assert champion_name() == "better"

    def test_the_demo_model_replaces_no_other_where_none_is_configured(self, checkpoint: Path) -> None:
        as_json("register", checkpoint, "--promote")
        ensure_champion(with_model(checkpoint).model_copy(update={"model": None}))
        assert champion_name() == "tiny"

    def test_a_checkpoint_built_anew_gets_a_name_of_its_own(self, checkpoint: Path) -> None:
        ensure_champion(with_model(checkpoint))
        manifests.read(checkpoint).model_copy(update={"training": {"seed": 2}}).write(checkpoint)
        ensure_champion(with_model(checkpoint))
        name = champion_name()
        assert name is not None and name.startswith("tiny-")
        ensure_champion(with_model(checkpoint))
        assert len(as_json("list")) == 2


class TestPinned:
    def hub(self, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
        class Hub:
            def model_info(self, name: str, timeout: float) -> Any:
                if isinstance(answer, Exception):
                    raise answer
                return type("Info", (), {"sha": answer})

        monkeypatch.setattr("huggingface_hub.HfApi", Hub)

    def test_the_hub_is_asked_for_the_newest_commit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub(monkeypatch, HASH)
        assert registration.pinned(Source.of("owner/name"), print).revision == HASH

    def test_a_given_commit_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub(monkeypatch, ConnectionError("must not be asked"))
        assert registration.pinned(Source.of(f"owner/name@{HASH}"), print).revision == HASH
        assert registration.pinned(Source.of("owner/name", HASH), print).revision == HASH

    def test_a_hub_that_is_away_says_how_to_pass_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub(monkeypatch, ConnectionError("no network"))
        with pytest.raises(ConfigurationError, match="--revision HASH"):
            registration.pinned(Source.of("owner/name"), print)
