"""The events that are sent to endpoints, as the OpenAPI document's `webhooks`: when each comes, and what is in it.

It describes; events are written by moderation and sent by workers. A test holds what is sent to what is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from flask_openapi3 import OpenAPI
from flask_openapi3.models import Schema
from flask_openapi3.utils import get_model_schema
from pydantic import BaseModel, ConfigDict, Field

from api.bodies import A_CASE, CaseShown, Shown
from moderation.vocabulary import EventType


class AppealShown(Shown):
    """The answer to an appeal."""

    outcome: Literal["upheld", "overturned"] = Field(description="whether the decision stands")
    message: str | None = Field(description="the moderator's words to you, where they wrote any")


class AppealedCaseShown(CaseShown):
    """A case whose appeal was answered."""

    model_config = ConfigDict(
        json_schema_extra={"example": {**A_CASE, "appeal": {"outcome": "upheld", "message": "We looked again."}}}
    )

    appeal: AppealShown


class DisabledShown(Shown):
    """An endpoint that is sent nothing any more."""

    endpoint_id: UUID
    url: str
    reason: str = Field(description="what it answered, or who disabled it")


class PingShown(Shown):
    """A test event."""

    endpoint_id: UUID


class PromotedShown(Shown):
    """The model version that judges from now on."""

    version: str
    kind: str = Field(description="`demo` where it is the demo model, not FakeVLM")
    instead_of: str | None = Field(description="the version before")
    rollback: bool = Field(description="whether this undoes a promotion")


class EventShown(BaseModel):
    """The body of every webhook, under 20 kB."""

    type: EventType
    api_version: Literal["v1"] = Field(description="what `data` is described by; another one would be asked for")
    timestamp: datetime = Field(description="when it happened; not when it was sent")
    data: dict[str, Any] = Field(description="by `type`")


@dataclass(frozen=True)
class Sent:
    """When an event is sent, and what its `data` is."""

    when: str
    data: type[BaseModel] = CaseShown


EVENTS: Mapping[EventType, Sent] = {
    EventType.SUBMISSION_ACCEPTED: Sent("A case was opened."),
    EventType.VERDICT_COMPLETED: Sent("The model has answered; the decision comes in an event of its own."),
    EventType.VERDICT_FAILED: Sent("There will be no verdict; `failure` says why."),
    EventType.CASE_IN_REVIEW: Sent("A person must look: `review_reason` says why. Not for audits and second opinions."),
    EventType.DECISION_CREATED: Sent("The case is decided, by the policy or by a moderator."),
    EventType.DECISION_REVERSED: Sent("A moderator overturned an earlier decision; `decision` is the new one."),
    EventType.APPEAL_DECIDED: Sent("An appeal was answered; `appeal` says how.", AppealedCaseShown),
    EventType.ENDPOINT_DISABLED: Sent("One of your endpoints was disabled; sent to the others.", DisabledShown),
    EventType.ENDPOINT_PING: Sent("You asked for it; sent to that endpoint alone.", PingShown),
    EventType.MODEL_PROMOTED: Sent("Another model version judges from now on.", PromotedShown),
}
HEADERS = {
    "webhook-id": "The event's id: the same whenever it is sent again, by which you know what you have.",
    "webhook-timestamp": "When this attempt was signed, in seconds since 1970; refuse what is older than five minutes.",
    "webhook-signature": "`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; two while a secret rotates.",
}
ANSWER = (
    "You have it. After any other answer, and after 15 s without one, it is tried again, ten times in all; "
    "410 disables the endpoint."
)


def install(app: OpenAPI) -> None:
    """Describe every event in the application's document."""
    for kind in {sent.data for sent in EVENTS.values()}:
        schema = get_model_schema(kind, mode="serialization")
        for name, inner in schema.pop("$defs", {}).items():
            app.components_schemas.setdefault(name, Schema(**inner))
        app.components_schemas[kind.__name__] = Schema(**schema)
    app.openapi_extensions["webhooks"] = {type_.value: {"post": _operation(type_, EVENTS[type_])} for type_ in EVENTS}


def _operation(type_: EventType, sent: Sent) -> dict[str, Any]:
    name = "".join(word.capitalize() for word in type_.value.replace(".", "_").split("_"))
    return {
        "operationId": f"on{name}",
        "summary": type_.value,
        "description": sent.when,
        "tags": ["Webhooks out"],
        "parameters": [
            {"name": header, "in": "header", "required": True, "description": what, "schema": {"type": "string"}}
            for header, what in HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _body(type_, sent)}}},
        "responses": {"2XX": {"description": ANSWER}},
    }


def _body(type_: EventType, sent: Sent) -> dict[str, Any]:
    properties = get_model_schema(EventShown, mode="serialization")["properties"]
    return {
        "type": "object",
        "required": ["type", "api_version", "timestamp", "data"],
        "properties": {
            "type": {"const": type_.value},
            "api_version": properties["api_version"],
            "timestamp": properties["timestamp"],
            "data": {"$ref": f"#/components/schemas/{sent.data.__name__}"},
        },
    }
