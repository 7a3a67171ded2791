"""Every operation of the OpenAPI document, sent what fits its schema and what does not, to a real server.

Schemathesis reads the document as any client would, makes requests up (valid, invalid, without a key, with other
methods, one after another on what the one before made), and holds every answer to what the document says of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from moderation.db import transaction
from moderation.vocabulary import CaseStatus
from tests.api.conftest import Server, server
from tests.factories import make_case, make_key, make_tenant
from tests.platforms import furnish

__all__ = ["server"]

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(600)  # half a minute of two processors, which other tests may want at the same time
def test_whatever_is_sent_is_answered_as_the_document_says(server: Server, db: Engine, tmp_path: Path) -> None:
    with transaction() as session:
        known = a_platform(session)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run", "--no-color"]
    environment = {**os.environ, **known}
    run = subprocess.run(
        [*command, f"{server.url}/openapi.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def a_platform(session: Session) -> dict[str, str]:
    """A tenant with one of everything; its key and the ids, by the names that the configuration has for them."""
    tenant = make_tenant(session)
    things = furnish(session, tenant)
    decided = make_case(session, tenant, CaseStatus.DECIDED)
    ids = {
        "CASE": decided.id,
        "ENDPOINT": things.endpoint.id,
        "DELIVERY": things.delivery.id,
        "IMAGE": decided.image_id,
        "SOURCE": things.source.id,
    }
    return {"API_KEY": make_key(session, tenant)} | {name: str(one) for name, one in ids.items()}
