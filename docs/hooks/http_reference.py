"""The API and the webhooks, as two pages: from the OpenAPI document that the api serves, made from its code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from api.app import create_app
from moderation.settings import Settings

Json = Mapping[str, Any]
API_OPENING = """# API reference

Every operation, made from the code: [openapi.json](openapi.json) is the same for programs (OpenAPI 3.1) and for
generators of clients; a running api serves it at `/openapi.json`. [The API](../api.md) explains it with examples, and
[the Python client](../client.md) has all of it in one package.

Every error is `application/problem+json`, a [Problem](#problem). Each operation can also be answered with 400, 406, 500
and 503; they are not repeated below.
"""
EVENTS_OPENING = """# Webhooks

What is sent to your [endpoints](../api.md#webhooks-out), made from the code. Each is a `POST` with a JSON body
of `type`, `timestamp` (when it happened, RFC 3339) and `data`, and three headers:

"""
ALWAYS = {"400", "406", "500", "503"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the two pages, and the document itself."""
    document = _document()
    files.append(File.generated(config, "reference/http.md", content=_api(document)))
    files.append(File.generated(config, "reference/events.md", content=_events(document)))
    files.append(File.generated(config, "reference/openapi.json", content=json.dumps(document, indent=1)))
    return files


def _document() -> Json:
    # An application opens no connection before its first request.
    settings = Settings(database_url="postgresql+psycopg://", redis_url="redis://")
    document: Json = create_app(settings).api_doc
    return document


def _api(document: Json) -> str:
    lines = [API_OPENING]
    for tag in document["tags"]:
        lines += [f"## {tag['name']}", ""]
        for method, path, operation in _operations(document):
            if tag["name"] in operation["tags"]:
                lines += _operation(method, path, operation)
    lines += ["## Schemas", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines)


def _events(document: Json) -> str:
    (first, *_) = document["webhooks"].values()
    lines = [EVENTS_OPENING, "| Header | |", "|---|---|"]
    lines += [f"| `{header['name']}` | {header['description']} |" for header in first["post"]["parameters"]]
    lines += ["", f"Answer with 2xx. {first['post']['responses']['2XX']['description']}", ""]
    for type_, item in document["webhooks"].items():
        body = item["post"]["requestBody"]["content"]["application/json"]["schema"]
        lines += [f"## {type_}", "", item["post"]["description"], ""]
        lines += [f"`data` is {_type(body['properties']['data'], 'http.md')}.", ""]
    return "\n".join(lines)


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _operation(method: str, path: str, operation: Json) -> list[str]:
    lines = [f"### {operation['summary']} {{ #{operation['operationId']} }}", ""]
    scopes = [f" · scope `{scope}`" for by in operation.get("security", ()) for scope in by.get("api_key", ())]
    lines += [f"`{method} {path}` · `{operation['operationId']}`{''.join(scopes)}", "", operation["description"], ""]
    if operation.get("parameters"):
        lines += ["| Parameter | In | Type | |", "|---|---|---|---|"]
        lines += [_parameter(one) for one in operation["parameters"]] + [""]
    if "requestBody" in operation:
        lines += [_body(operation["requestBody"]), ""]
    return lines + _answers(operation["responses"]) + [""]


def _parameter(one: Json) -> str:
    required = " *required*" if one.get("required") else ""
    return f"| `{one['name']}`{required} | {one['in']} | {_type(one['schema'])} | {_cell(one['description'])} |"


def _body(body: Json) -> str:
    kinds = [f"{_type(content['schema'])} as `{kind}`" for kind, content in body["content"].items()]
    return f"**Body:** {', or '.join(kinds)}{'' if body.get('required') else '; it may be left out'}."


def _answers(responses: Json) -> list[str]:
    lines = ["| Answer | |", "|---|---|"]
    for status, answer in sorted(responses.items()):
        if status in ALWAYS:
            continue
        shown = [_type(content["schema"]) for content in answer.get("content", {}).values()]
        said = shown[0] if status < "400" and shown else _cell(answer["description"])
        lines.append(f"| {status} | {said} |")
    return lines


def _schema(name: str, schema: Json) -> list[str]:
    lines = [f"### {name} {{ #{name.lower()} }}", "", schema.get("description", ""), ""]
    if "enum" in schema:
        return [*lines, " · ".join(f"`{word}`" for word in schema["enum"]), ""]
    required = set(schema.get("required", ()))
    lines += ["| Member | Type | |", "|---|---|---|"]
    for member, type_ in schema.get("properties", {}).items():
        mark = "" if member in required else " *optional*"
        lines.append(f"| `{member}`{mark} | {_type(type_)} | {_cell(type_.get('description', ''))} |")
    if "example" in schema:
        lines += ["", "```json", json.dumps(schema["example"], indent=2, ensure_ascii=False), "```"]
    return [*lines, ""]


def _type(schema: Json, page: str = "") -> str:
    """A schema in a few words, with a link where it has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}]({page}#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " · ".join(f"`{word}`" for word in schema["enum"])
    if "anyOf" in schema or "allOf" in schema:
        return " or ".join(_type(part, page) for part in schema.get("anyOf", schema.get("allOf", ())))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'], page)}"
    return schema.get("format") or schema.get("type") or "anything"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
