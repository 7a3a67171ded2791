"""The client's shapes are the OpenAPI document's: every member, and no other; every word of every list of words."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from api.app import create_app
from infra.client import shapes
from moderation.settings import settings

# Ours, and the document's name for it.
SHOWN = {
    "Case": "CaseShown",
    "Image": "ImageShown",
    "Model": "ModelShown",
    "Verdict": "VerdictShown",
    "Decision": "DecisionShown",
    "Failure": "FailureShown",
    "Explanation": "ExplanationShown",
    "Original": "LinkShown",
    "Statement": "StatementShown",
    "Missing": "MissingShown",
    "Link": "LinkBody",
    "Endpoint": "EndpointShown",
    "NewEndpoint": "NewEndpointShown",
    "Attempt": "AttemptShown",
    "Delivery": "DeliveryShown",
    "Retention": "RetentionBody",
    "StatementDefaults": "DefaultsShown",
}
# In an event, and not in an answer of the api.
ONLY_IN_EVENTS = {"Case": {"appeal"}}


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    found: dict[str, Any] = create_app(settings()).api_doc["components"]["schemas"]
    return found


def test_every_shape_is_held_to_the_document() -> None:
    ours = {name for name, found in vars(shapes).items() if is_typeddict(found) and found.__module__ == shapes.__name__}
    assert ours == {*SHOWN, "Appeal"}


@pytest.mark.parametrize("name", SHOWN)
def test_a_shape_has_the_members_that_the_document_has(schemas: dict[str, Any], name: str) -> None:
    hints = get_type_hints(getattr(shapes, name))
    described = schemas[SHOWN[name]]
    assert set(hints) - ONLY_IN_EVENTS.get(name, set()) == set(described["properties"])
    for member, hint in hints.items():
        if member in described["properties"]:
            expected = words(described["properties"][member], schemas)
            assert literals(hint) in (expected, set()), (name, member)


def literals(hint: Any) -> set[str]:
    """The words of a Literal, also inside a union."""
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return set().union(*(literals(part) for part in get_args(hint)))


def words(schema: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    """The words that a member's schema lists, also by reference."""
    for part in schema.get("anyOf", schema.get("allOf", [schema])):
        found = schemas[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if "enum" in found:
            return set(found["enum"])
        if "const" in found:
            return {found["const"]}
    return set()
