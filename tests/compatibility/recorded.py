"""The OpenAPI document as it was promised, and as the code has it now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parents[2] / "docs" / "openapi" / "v1.json"


def read() -> dict[str, Any]:
    """What was promised."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def of_this_code() -> dict[str, Any]:
    """What the code says of itself. No service is needed, nor any setting."""
    from api.app import create_app
    from moderation.settings import Settings

    nowhere = Settings(database_url="postgresql+psycopg://nobody@localhost/none", redis_url="redis://localhost")
    document: dict[str, Any] = create_app(nowhere).api_doc
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]


def written(document: dict[str, Any]) -> str:
    """As it is recorded: a line for each thing, so that changes can be read."""
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
