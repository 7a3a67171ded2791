"""A case as the API, webhooks and exports tell it: JSON values only.

It only reads; whether somebody may read it is asked elsewhere.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import selectinload

from moderation.tables import Case, Image, Verdict
from moderation.vocabulary import CaseStatus, Priority

# Bytes as JSON; with 8 kB of metadata and the longest id an event stays under its 20 kB, whatever the script.
MAX_EXPLANATION_IN_EVENT = 8000
# What `describe` reads: a query each for a whole page of cases.
DESCRIBED = (
    selectinload(Case.submission),
    selectinload(Case.image),
    selectinload(Case.policy),
    selectinload(Case.verdict).selectinload(Verdict.explanation),
    selectinload(Case.verdict).selectinload(Verdict.model_version),
)


def describe(case: Case) -> dict[str, Any]:
    """The case as the API and webhooks show it: JSON values only, no image bytes, no other tenant's ids."""
    return {
        "id": str(case.id),
        "status": case.status.value,
        "sequence": case.sequence,
        "external_id": case.submission.external_id,
        "metadata": case.submission.details,
        "priority": list(Priority)[case.priority].value,
        "image": _image(case.image),
        "verdict": _verdict(case.verdict),
        "decision": _decision(case),
        "review_reason": case.review_reason.value
        if case.status is CaseStatus.IN_REVIEW and case.review_reason
        else None,
        "failure": _failure(case),
        "created_at": case.created_at.isoformat(),
        "settled_at": case.settled_at.isoformat() if case.settled_at else None,
    }


def _image(image: Image | None) -> dict[str, Any] | None:
    if image is None:
        return None
    return {
        "id": str(image.id),
        "sha256": image.sha256,
        "media_type": image.media_type,
        "width": image.width,
        "height": image.height,
        "bytes": image.bytes,
        "frames": image.frames,
        "judged_frame": "first of several" if image.frames > 1 else "only",
        "erased": image.erased_at is not None,
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    manifest = verdict.model_version.manifest
    return {
        "label": verdict.label.value,
        "p_fake": round(verdict.p_fake, 6),
        "logit": round(verdict.logit, 6),
        "pair_mass": round(verdict.pair_mass, 6),
        "explanation": verdict.explanation.text if verdict.explanation else None,
        "model": {
            "version": verdict.model_version.name,
            "kind": manifest["kind"],
            "prompt": manifest["prompt"]["text"],
            "calibration": manifest["calibration"]["method"],
            "engine": verdict.engine,
            "dtype": verdict.dtype,
        },
    }


def _decision(case: Case) -> dict[str, Any] | None:
    if case.label is None or case.decided_by is None:
        return None
    return {
        "label": case.label.value,
        "by": case.decided_by.value,
        "policy_version": case.policy.version if case.policy else None,
    }


def _failure(case: Case) -> dict[str, Any] | None:
    if case.failure_reason is None:
        return None
    return {"reason": case.failure_reason.value, "detail": case.failure_detail}


def in_event(case: Case, more: Mapping[str, Any]) -> dict[str, Any]:
    """The case and `more`, with the explanation cut to what an event has room for beside them."""
    data = describe(case)
    verdict = data["verdict"]
    if verdict and verdict["explanation"]:
        verdict["explanation"] = _cut(
            verdict["explanation"], MAX_EXPLANATION_IN_EVENT - _size(json.dumps(more, ensure_ascii=False))
        )
    return {**data, **more}


def _cut(explanation: str, room: int) -> str:
    """As much of it as fits into so many bytes of JSON: it takes one to six bytes for a character."""
    if _size(json.dumps(explanation, ensure_ascii=False)) - 2 <= room:
        return explanation
    sizes = itertools.accumulate(_size(json.dumps(character, ensure_ascii=False)) - 2 for character in explanation)
    kept = sum(1 for _ in itertools.takewhile(lambda size: size <= room, sizes))
    return explanation[:kept] + "…"


def _size(text: str) -> int:
    return len(text.encode())
