"""Looks at the version that judges: whether workers can load it and prove it, and whether vLLM serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.doctor.answers import asked
from infra.doctor.finding import Finding, broken, unknown, unused, well
from moderation import checkpoints, model_versions
from moderation.db import transaction
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.tables import ModelVersion


def champion(rules: Settings) -> Finding:
    """Whether there is one, its files are where its row says, and golden outputs stand beside it."""
    version = _champion()
    if version is None:
        return broken("No model version is champion.")
    goldens: list[dict[str, Any]] = version.manifest["golden"]
    if not goldens:
        return broken(f"{version.name} has no golden outputs: workers refuse to start with it.")
    if (digest := checkpoints.digest_of(version.checkpoint)) is not None:
        lacking = checkpoints.lacking(Storage(rules), digest)
    elif (folder := Path(version.checkpoint)).is_dir():
        lacking = [golden["image"] for golden in goldens if not (folder / golden["image"]).is_file()]
    elif folder.is_absolute():
        return unknown(f"{version.name} is in {folder}, which is not on this machine; its workers must have it.")
    else:
        return well(f"{version.name}, of {version.checkpoint}, with {len(goldens)} golden outputs.")
    if lacking:
        return broken(f"Of {version.name} there is no more: {', '.join(lacking)}.")
    return well(f"{version.name}, whose files are there, with {len(goldens)} golden outputs.")


def vllm(rules: Settings) -> Finding:
    """Whether the server is healthy and serves the champion, by its name and precision."""
    if rules.vllm_url is None:
        return unused("TELLTALE_VLLM_URL is not set: every screening worker loads the weights itself.")
    version = _champion()
    health = asked(f"{rules.vllm_url}/health")
    if not health.is_ok:
        return broken(f"{rules.vllm_url}/health answers with status {health.status}.")
    served = [card["id"] for card in asked(f"{rules.vllm_url}/v1/models").said.get("data", [])]
    if version is not None and not any(name.rpartition(":")[0] == version.name for name in served):
        return broken(
            f"{rules.vllm_url} serves {', '.join(served) or 'nothing'}, and not the champion {version.name}.",
            f"Serve it as {version.name}:DTYPE (infra/vllm/README.md), or promote what is served.",
        )
    return well(f"{rules.vllm_url} is healthy and serves {', '.join(served)}.")


def _champion() -> ModelVersion | None:
    with transaction() as session:
        return model_versions.champion(session)
