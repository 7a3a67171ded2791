"""What a configuration may not ask for, and what each refusal tells to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from model.finetune.arguments import STATE_FILE, Arguments, InvalidConfiguration, read

MINIMAL = {"base": "demo", "data": __file__, "output": "out", "name": "new"}  # any file will do for data


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "full", "lora": {"rank": 4}}, "remove one of them"),
        ({"method": "lora", "train": ["projector"]}, "use `method: full` for the projector alone"),
        ({"method": "qlora", "train": ["projector"]}, "use `method: full`"),
        ({"train": ["projector", "projector"]}, "names a part twice"),
        ({"attention": "flash_attention_2"}, "the package flash-attn"),
        ({"train": ["eyes"]}, "language_model"),
        ({"patience": 2}, "need a `validation` file"),
        ({"validation_images": "here"}, "need a `validation` file"),
        ({"resume": "nowhere"}, "is no folder"),
        ({"learning_rat": 1}, "learning_rat: no such setting; did you mean `learning_rate`? Known are base, revision,"),
        ({"xyzzy": 1}, "xyzzy: no such setting; known are base, revision, data,"),
        ({"lora": {"r": 1}}, "lora.r: no such setting; known are rank, alpha, dropout"),
        ({"data": "nowhere.json"}, "`data` nowhere.json is no file"),
        ({"validation": "nowhere.json"}, "`validation` nowhere.json is no file"),
        ({"images": "nowhere"}, "`images` nowhere is no folder"),
        ({"validation": __file__, "validation_images": "nowhere"}, "`validation_images` nowhere is no folder"),
    ],
)
def test_a_contradiction_is_refused_with_what_to_do(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | {"output": str(tmp_path / "out")} | settings))
    with pytest.raises(InvalidConfiguration) as refused:
        read(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_what_is_no_yaml_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: [")
    with pytest.raises(InvalidConfiguration, match="not YAML"):
        read(tmp_path / "run.yaml")
    with pytest.raises(InvalidConfiguration, match="cannot be read"):
        read(tmp_path / "none.yaml")
    (tmp_path / "run.yaml").write_bytes("name: Prüfung".encode("latin-1"))
    with pytest.raises(InvalidConfiguration, match="cannot be read"):
        read(tmp_path / "run.yaml")


@pytest.mark.parametrize("text", ["", "- base: demo", "demo"])
def test_what_holds_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfiguration) as refused:
        read(path)
    assert str(refused.value) == f"{path}: a mapping of settings is expected, such as `base: demo`."


def test_an_output_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "notes").mkdir(parents=True)
    with pytest.raises(ValueError, match="not an empty folder"):
        Arguments.model_validate(MINIMAL | {"output": tmp_path / "out"})


def test_a_stopped_run_is_gone_on_with_only_when_asked(tmp_path: Path) -> None:
    newest = tmp_path / "work" / "checkpoint-10"
    for state in (tmp_path / "work" / "checkpoint-9", newest):
        state.mkdir(parents=True)
        (state / STATE_FILE).write_text("{}")
    for folder in (tmp_path / "work" / "checkpoint-11", tmp_path / "logs"):  # the one was being saved
        folder.mkdir()
    with pytest.raises(ValueError, match="set `resume: true`"):
        Arguments.model_validate(MINIMAL | {"output": tmp_path})
    assert Arguments.model_validate(MINIMAL | {"output": tmp_path, "resume": True}).state == newest


def test_the_defaults_are_the_published_recipe(tmp_path: Path) -> None:
    """2 epochs, 32 rows per process and update, 2e-5 with a warm-up of 0.03, bfloat16, 1024 tokens, all parts."""
    full = Arguments.model_validate(MINIMAL | {"output": tmp_path, "method": "full"})
    assert (full.epochs, full.batch_size * full.accumulate, full.peak_rate, full.warmup) == (2, 32, 2e-5, 0.03)
    assert (full.precision, full.max_length) == ("bfloat16", 1024)
    assert full.trained == {"language_model", "projector", "vision_tower"}
    assert Arguments.model_validate(MINIMAL | {"output": tmp_path}).trained == {"language_model"}
