"""What docs/api.md shows works: its two Python examples are run, and every endpoint is in it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from api.app import Application
from api.problems import STATUSES
from moderation import errors, signing, sources
from moderation.db import new_id, transaction
from moderation.errors import TelltaleError
from moderation.tables import Source, Submission
from moderation.vocabulary import OUTBOUND, EventType, FailureReason, Scope, SourceKind, SourceScheme
from tests.api.conftest import Client, Server
from tests.api.test_bad_input import DOCUMENT

TEXT = DOCUMENT.read_text()
SENDER, RECEIVER = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_sender_of_the_example_is_accepted(server: Server, client: Client) -> None:
    with transaction() as session:
        source = sources.create(
            session,
            Source(
                tenant_id=client.tenant.id,
                name="uploads",
                scheme=SourceScheme.STANDARD,
                kind=SourceKind.JSON,
                image_url_pointer="/data/image/url",
                external_id_pointer="/data/id",
                metadata_pointer="/data/meta",
            ),
        )
    exec(SENDER, {"URL": server.url, "SOURCE": source.id, "SECRET": sources.secrets_of(source)[0]})
    with transaction() as session:
        (submission,) = session.scalars(select(Submission)).all()
    assert (submission.external_id, submission.image_url) == ("post-81723", "https://example.com/a.jpg")


def test_the_receiver_of_the_example_takes_what_we_sign_and_nothing_else() -> None:
    secret = signing.new_secret()
    acted: list[Any] = []
    names: dict[str, Any] = {"__name__": __name__, "seen": lambda webhook_id: False, "act_on": acted.append}
    exec(RECEIVER.replace("whsec_…", secret), names)
    body = json.dumps({"type": "verdict.completed", "timestamp": "…", "data": {"id": "case"}}).encode()
    headers = signing.sign([signing.new_secret(), secret], str(new_id()), datetime.now(UTC), body)
    receiver = names["app"].test_client()
    assert receiver.post("/hooks", data=body, headers=headers).status_code == 204
    assert receiver.post("/hooks", data=body + b" ", headers=headers).status_code == 401
    assert acted == [{"id": "case"}]


def test_the_case_and_the_problem_that_it_shows_are_the_references(app: Application) -> None:
    schemas = app.api_doc["components"]["schemas"]
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    assert list(map(members, shown)) == [members(schemas[name]["example"]) for name in ("CaseShown", "Problem")]


def members(value: Any) -> Any:
    """The names in it, without what they say."""
    return {name: members(part) for name, part in value.items()} if isinstance(value, dict) else None


def test_every_endpoint_is_in_it(app: Application) -> None:
    shown = {re.sub(r"\$(?!URL)[A-Z]+", "{id}", found) for found in re.findall(r"/(?:v1|health)[\w/${}-]*", TEXT)}
    shown = {re.sub(r"\{\w+\}", "{id}", found) for found in shown}
    for path in app.api_doc["paths"]:
        assert re.sub(r"\{\w+\}", "{id}", path) in shown, path


@pytest.mark.parametrize("words", [Scope, FailureReason], ids=lambda words: words.__name__)
def test_every_word_is_explained(words: type[Scope] | type[FailureReason]) -> None:
    for word in words:
        assert f"`{word.value}`" in TEXT, word


def test_every_event_that_is_sent_is_in_its_table_and_no_other() -> None:
    rows = set(re.findall(r"^\| `(\w+\.\w+)` \|", TEXT, re.MULTILINE))
    assert rows == {type_.value for type_ in OUTBOUND}
    assert rows < {type_.value for type_ in EventType}


def test_every_error_of_the_domain_has_a_status() -> None:
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TelltaleError)]
    # What the api never lets a caller see: a wrong deployment, and what only workers meet.
    inner = {"TelltaleError", "ConfigurationError", "DamagedBackup", "DamagedCheckpoint", "Unreadable"}
    inner |= {"OutboundError", "Unreachable", "BadStatus", "ResponseTooLarge"}
    without = {kind.__name__ for kind in ours if not set(kind.__mro__) & set(STATUSES)}
    assert without == inner
