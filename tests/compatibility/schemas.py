"""Whether a new OpenAPI document breaks programs that were written for an old one.

What they send must still be taken, and what they are sent must still be what they were told. They are told
(docs/upgrades.md) to pass over members and words they do not know, so answers and events may say more than they did.
It knows the parts of JSON Schema that our documents use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Json = Mapping[str, Any]
METHODS = frozenset({"get", "put", "post", "delete", "patch"})
# What may be at least, and at most, of whatever a schema allows.
AT_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
AT_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
SAME = ("pattern", "format", "contentMediaType")
NUMBERS = {"integer": frozenset({"integer", "number"})}


@dataclass(frozen=True)
class Document:
    """An OpenAPI document, in which references are followed."""

    content: Json

    def resolved(self, schema: Json) -> Json:
        """The schema itself where it is a reference to one."""
        while reference := schema.get("$ref"):
            found: Any = self.content
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema


@dataclass(frozen=True)
class Comparison:
    """Whether all that `special` allows is allowed by `general`, each a schema of a document.

    `open_`: members and words that `general` does not know are passed over.
    """

    general: Document
    special: Document
    open_: bool
    where: str = ""
    seen: frozenset[tuple[str, str]] = frozenset()

    def at(self, part: str) -> Comparison:
        """The same, further inside."""
        return replace(self, where=f"{self.where}/{part}")

    def problems(self, general: Json, special: Json) -> Iterator[str]:
        """What `special` allows and `general` does not, with where that is."""
        known = (general.get("$ref", ""), special.get("$ref", ""))
        if all(known) and known in self.seen:
            return
        inner = replace(self, seen=self.seen | {known})
        yield from inner._resolved(self.general.resolved(general), self.special.resolved(special))

    def _resolved(self, general: Json, special: Json) -> Iterator[str]:
        for alternative in _alternatives(special):
            found = [list(self._one(each, self.special.resolved(alternative))) for each in self._options(general)]
            if all(found):
                yield from min(found, key=len)

    def _options(self, general: Json) -> Iterator[Json]:
        return (self.general.resolved(each) for each in _alternatives(general))

    def _one(self, general: Json, special: Json) -> Iterator[str]:
        for rule in (_types, _words, _limits):
            yield from (f"{self.where}: {said}" for said in rule(general, special, self.open_))
        yield from self._members(general, special)
        if "items" in general:
            yield from self.at("items").problems(general["items"], special.get("items", {}))

    def _members(self, general: Json, special: Json) -> Iterator[str]:
        here, there = general.get("properties", {}), special.get("properties", {})
        for name in sorted(set(general.get("required", ())) - set(special.get("required", ()))):
            yield (
                f"{self.where}/{name}: it was not required, and is"
                if not self.open_
                else f"{self.where}/{name}: it may be missing"
            )
        for name, schema in there.items():
            if name in here:
                yield from self.at(name).problems(here[name], schema)
            elif general.get("additionalProperties") is False and not self.open_:
                yield f"{self.where}/{name}: it is not taken any more"
        if self.open_:
            yield from (f"{self.where}/{name}: it is gone" for name in here if name not in there)


def _alternatives(schema: Json) -> list[Json]:
    """What a schema may be, each with what is said beside the choice."""
    choice = schema.get("anyOf") or schema.get("oneOf")
    if not choice or "properties" in schema:  # beside members, a choice only says which of them are required
        return [schema]
    return list(choice)


def _types(general: Json, special: Json, open_: bool) -> Iterator[str]:
    allowed, wanted = general.get("type"), special.get("type")
    if allowed and (not wanted or allowed not in NUMBERS.get(wanted, {wanted})):
        yield f"{wanted or 'anything'} instead of {allowed}"


def _words(general: Json, special: Json, open_: bool) -> Iterator[str]:
    allowed, wanted = _enumerated(general), _enumerated(special)
    if allowed is None or (open_ and wanted is not None and len(allowed) > 1):
        return
    if wanted is None or not wanted <= allowed:
        yield f"{sorted(wanted - allowed) if wanted else 'any word'}, of which only {sorted(allowed)} are known"


def _enumerated(schema: Json) -> set[str] | None:
    words = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    return None if words is None else {str(word) for word in words}


def _limits(general: Json, special: Json, open_: bool) -> Iterator[str]:
    worse: tuple[tuple[tuple[str, ...], Callable[[Any, Any], bool]], ...] = (
        (AT_LEAST, lambda mine, its: its < mine),
        (AT_MOST, lambda mine, its: its > mine),
        (SAME, lambda mine, its: its != mine),
    )
    for names, exceeds in worse:
        for name in names:
            if name in general and (name not in special or exceeds(general[name], special[name])):
                yield f"{name} {special.get(name, 'none')} instead of {general[name]}"


def broken(old: Json, new: Json) -> list[str]:
    """What a program that was written for `old` meets in `new` that it cannot cope with."""
    before, after = Document(old), Document(new)
    return [
        *_broken_operations(before, after, "paths", sent_by_them=True),
        *_broken_operations(before, after, "webhooks", sent_by_them=False),
    ]


def _broken_operations(old: Document, new: Document, part: str, *, sent_by_them: bool) -> Iterator[str]:
    for path, item in old.content.get(part, {}).items():
        for method in METHODS & set(item):
            name = f"{method.upper()} {path}"
            operation = new.content.get(part, {}).get(path, {}).get(method)
            if operation is None:
                yield f"{name}: it is gone"
            else:
                yield from _broken_operation(old, new, name, item[method], operation, sent_by_them=sent_by_them)


def _broken_operation(
    old: Document, new: Document, name: str, before: Json, after: Json, *, sent_by_them: bool
) -> Iterator[str]:
    taken = Comparison(general=new, special=old, open_=False, where=name)
    told = Comparison(general=old, special=new, open_=True, where=name)
    request = taken if sent_by_them else told
    if sent_by_them:
        yield from _broken_parameters(taken, before, after)
    yield from _broken_content(request, before.get("requestBody"), after.get("requestBody"), sent_by_them)
    for status, response in before["responses"].items():
        if status.startswith("2") and status not in after["responses"]:
            yield f"{name}: it is not answered with {status} any more"
        elif status.startswith("2") and sent_by_them:
            yield from _broken_content(told.at(status), response, after["responses"][status], False)


def _broken_parameters(comparison: Comparison, before: Json, after: Json) -> Iterator[str]:
    old = {(each["in"], each["name"]): each for each in before.get("parameters", ())}
    new = {(each["in"], each["name"]): each for each in after.get("parameters", ())}
    for key, parameter in new.items():
        if parameter.get("required") and not old.get(key, {}).get("required"):
            yield f"{comparison.where}: the parameter {key[1]} is required"
    for key, parameter in old.items():
        if key not in new:
            yield f"{comparison.where}: the parameter {key[1]} is gone"
        else:
            yield from comparison.at(key[1]).problems(new[key]["schema"], parameter["schema"])


def _broken_content(
    comparison: Comparison, before: Json | None, after: Json | None, sent_by_them: bool
) -> Iterator[str]:
    if sent_by_them and after and after.get("required") and not (before or {}).get("required"):
        yield f"{comparison.where}: a body is required"
    new = (after or {}).get("content", {})
    for media_type, content in (before or {}).get("content", {}).items():
        if media_type not in new:
            yield f"{comparison.where}: {media_type} is gone"
            continue
        old_schema, new_schema = content.get("schema", {}), new[media_type].get("schema", {})
        pair = (new_schema, old_schema) if sent_by_them else (old_schema, new_schema)
        yield from comparison.problems(*pair)
