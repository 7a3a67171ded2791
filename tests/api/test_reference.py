"""The OpenAPI document describes every route, is valid, and can be read in a browser without any other host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import Application
from api.bodies import CaseShown
from tests.api.conftest import Client
from tests.api.test_tenancy import SCOPES, routes

ANSWERS = {("POST", "/v1/subject-exports"): "application/zip"}  # what does not answer JSON
UNDOCUMENTED = {("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/docs/<path:name>")}


@pytest.fixture
def document(app: Application) -> dict[str, Any]:
    answer = app.test_client().get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_route_is_in_it_and_nothing_else(app: Application, document: dict[str, Any]) -> None:
    expected = {(method, re.sub(r"<\w+:(\w+)>", r"{\1}", rule)) for method, rule in set(routes(app)) - UNDOCUMENTED}
    assert set(operations(document)) == expected


def test_every_operation_says_who_may_call_it_and_what_goes_wrong(document: dict[str, Any]) -> None:
    keyed = {(method, re.sub(r"<\w+:(\w+)>", r"{\1}", rule)): scope for (method, rule), scope in SCOPES.items()}
    for name, operation in operations(document).items():
        assert operation["summary"] and operation["description"], name
        if name in keyed:
            assert operation["security"] == [{"api_key": [keyed[name].value]}], name
            assert {"401", "403"} <= set(operation["responses"]), name
        for status, response in operation["responses"].items():
            usual = "application/problem+json" if int(status) >= 400 else ANSWERS.get(name, "application/json")
            assert set(response.get("content", {})) <= {usual}, (name, status)
    assert set(document["components"]["securitySchemes"]) == {"api_key", "webhook_signature"}


def test_clients_can_be_generated_from_it(document: dict[str, Any]) -> None:
    """A method's name of its own, a group, and words for whatever a method takes or gives."""
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", id_) for id_ in ids)
    for name, operation in operations(document).items():
        assert len(operation["tags"]) == 1, name
        silent = [one["name"] for one in operation.get("parameters", ()) if not one.get("description")]
        assert silent == [], name
        problems = {body["schema"]["$ref"] for body in _problems(operation)}
        assert problems == {"#/components/schemas/Problem"}, name
    schemas = document["components"]["schemas"]
    assert [name for name, schema in schemas.items() if not schema.get("description")] == []


def _problems(operation: dict[str, Any]) -> list[dict[str, Any]]:
    answers = [answer for status, answer in operation["responses"].items() if status >= "400"]
    return [body for answer in answers for body in answer["content"].values()]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for name in set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))):
        assert name in document["components"]["schemas"], name


def test_the_examples_are_true(document: dict[str, Any]) -> None:
    case = document["components"]["schemas"]["CaseShown"]["example"]
    CaseShown.model_validate_json(json.dumps(case))
    found = list(examples(document))
    assert len(found) > 10
    for schema, example in found:
        validator = Draft202012Validator({**schema, "components": document["components"]})
        assert [error.message for error in validator.iter_errors(example)] == [], example


def examples(node: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every example of the document, with the schema that it is of."""
    if isinstance(node, list):
        for part in node:
            yield from examples(part)
    elif isinstance(node, dict):
        said = node["examples"] if isinstance(node.get("examples"), list) else []
        said += [node["example"]] if "example" in node else []
        yield from ((node.get("schema", node), example) for example in said)
        for name, part in node.items():
            if name not in ("example", "examples"):
                yield from examples(part)


def test_a_submission_is_documented_as_file_and_as_json(document: dict[str, Any]) -> None:
    operation = operations(document)["POST", "/v1/submissions"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    image = document["components"]["schemas"]["SubmissionForm"]["properties"]["image"]
    assert image["format"] == "binary"
    assert {parameter["name"] for parameter in operation["parameters"]} == {"Idempotency-Key", "wait"}


def test_a_body_of_which_all_may_be_left_out_may_be_left_out(document: dict[str, Any]) -> None:
    bodies = {name: one["requestBody"] for name, one in operations(document).items() if "requestBody" in one}
    bare = [name for name, body in bodies.items() if not body["required"]]
    assert bare == [("POST", "/v1/cases/{case_id}/appeal")]
    for name, body in bodies.items():
        schema = body["content"]["application/json"]["schema"]
        known = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
        # Nothing sent never replaces everything: a PUT needs its body (api/requests.py).
        if name[0] != "PUT" and not {"required", "anyOf", "oneOf"} & set(known):
            assert name in bare or name == ("POST", "/v1/hooks/{source_id}"), name


def test_the_page_loads_only_from_here(client: Client) -> None:
    page = client.http.get("/docs")
    assert page.status_code == 200
    assert re.findall(r"(?:https?:)?//[\w.-]+", page.text) == []
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy
    local = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(local) == 3
    for path in local:
        assert client.http.get(path).status_code == 200, path


def test_the_style_asks_no_other_host(client: Client) -> None:
    style = client.http.get("/docs/css/swagger-ui.css").text
    assert re.findall(r"url\(['\"]?(?:https?:)?//", style) == [] and "@import" not in style


def test_the_page_serves_nothing_outside_its_folder(client: Client) -> None:
    for path in ("../__init__.py", "..%2f__init__.py", "%2e%2e/__init__.py", "/etc/passwd"):
        assert client.http.get(f"/docs/{path}", follow_redirects=True).status_code == 404
