"""What a run is done with: the settings and the champion as they were when it began, and so for all of it.

It knows settings, manifests and the recipe's file; nothing of what a run does with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from model.manifest import Manifest
from moderation.errors import ConfigurationError
from moderation.retraining.labels import Wording
from moderation.settings import Settings
from moderation.tables import ModelVersion, TrainingRun

# Of the trainer's settings (docs/finetune.md), those that each run sets itself.
FOR_THE_RUN = {"base", "revision", "data", "images", "output", "name", "epochs", "seed", "resume"}


def configured(rules: Settings, champion: ModelVersion, run: TrainingRun) -> dict[str, Any]:
    """What the run is done with, whatever the settings become meanwhile. Raises ConfigurationError."""
    manifest = Manifest.model_validate(champion.manifest)
    adapter = manifest.adapter
    if rules.retrain_replay_set and rules.retrain_replay_set == rules.retrain_old_set:
        raise ConfigurationError("TELLTALE_RETRAIN_OLD_SET is never trained on: name another file than the replay set.")
    for name in ("retrain_replay_set", "retrain_old_set"):
        place = getattr(rules, name)
        if place is not None and not place.is_file():
            raise ConfigurationError(f"TELLTALE_{name.upper()} {place} is no file.")
    return {
        # Always on the pinned base, never on an adapter: what a rejected night learned is not learned from.
        "base": adapter.base if adapter else champion.checkpoint,
        "revision": adapter.revision if adapter else manifest.revision,
        "champion": {"id": str(champion.id), "checkpoint": champion.checkpoint, "manifest": champion.manifest},
        "name": f"{manifest.kind}-{run.created_at:%Y%m%d}-{run.id.hex[-6:]}",
        "holdout_share": rules.retrain_holdout_share,
        "replay_share": rules.retrain_replay_share,
        "passes": rules.retrain_passes,
        "burst_s": rules.retrain_burst_s,
        "min_reviews": rules.retrain_min_reviews,
        "replay_set": str(rules.retrain_replay_set) if rules.retrain_replay_set else None,
        "old_set": str(rules.retrain_old_set.resolve()) if rules.retrain_old_set else None,
        "accelerate": rules.retrain_accelerate,
        "recipe": _recipe(rules.retrain_recipe),
    }


def _recipe(path: Path | None) -> dict[str, Any]:
    """Settings for the trainer. Raises ConfigurationError."""
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"TELLTALE_RETRAIN_RECIPE {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or FOR_THE_RUN & found.keys():
        raise ConfigurationError(
            f"TELLTALE_RETRAIN_RECIPE {path}: a mapping of finetuning settings is expected, without those that "
            f"each run sets itself ({', '.join(sorted(FOR_THE_RUN))})."
        )
    return found


def wording(champion: ModelVersion) -> Wording:
    """How the champion is asked, and how its answers begin."""
    prompt = Manifest.model_validate(champion.manifest).prompt
    return Wording(prompt.text, prompt.answer_start("real"), prompt.answer_start("fake"))
