"""The JSON bodies that several endpoints share, as they appear in the OpenAPI document.

They check what comes in and describe what goes out; what is true of a case is decided in moderation.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from typing import Annotated, Any
from uuid import UUID

from flask import Response
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from moderation.submissions import MAX_EXTERNAL_ID
from moderation.tables import MAX_SUBJECT
from moderation.vocabulary import CaseStatus, DecidedBy, FailureReason, Label, Priority, ReviewReason

# What a view returns: a body, and where they are not the usual ones a status and headers. (Flask's own name for it
# cannot be resolved when the OpenAPI document is made.)
Answer = Response | dict[str, Any] | tuple[Any, int] | tuple[Any, int, dict[str, str]]


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character cannot be stored; leave it out")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half a surrogate pair is no character; leave it out")
    return text


def _written_out(value: object) -> object:
    """Pydantic would also take a number for a moment, as seconds or milliseconds, which the document does not offer."""
    if not isinstance(value, str) or not _DATE_AND_TIME.match(value):
        raise ValueError("a moment is written as RFC 3339 has it, such as 2026-01-01T00:00:00Z")
    return value


_DATE_AND_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")
Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]
Text = Annotated[str, AfterValidator(_storable)]
ExternalId = Annotated[Text, Field(min_length=1, max_length=MAX_EXTERNAL_ID)]
# As the document has it; moderation/addresses.py says what is wrong with an address in words that help.
Url = Annotated[
    Text,
    Field(min_length=1, max_length=4096, json_schema_extra={"format": "uri", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"}),
]


class Described(BaseModel):
    """Base of all that is in the document. flask-openapi3 drops `examples`, and knows one `example` of each member."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The first of a member's examples is the one that is shown."""
        schema = handler(core)
        for member in handler.resolve_ref_schema(schema).get("properties", {}).values():
            if "examples" in member:
                member["example"] = member.pop("examples")[0]
        return schema


class Asked(Described):
    """Base of what is read from a request's headers and query, and of all that is sent."""

    @classmethod
    def model_json_schema(cls, *special: Any, **named: Any) -> dict[str, Any]:
        """Made once where nothing special is asked for: flask-openapi3 asks for it with every request."""
        return super().model_json_schema(*special, **named) if special or named else _schema_of(cls)


@cache
def _schema_of(kind: type[Asked]) -> dict[str, Any]:
    return BaseModel.model_json_schema.__func__(kind)  # type: ignore[attr-defined, no-any-return]


class Sent(Asked):
    """Base of what clients send: a field nobody knows is an error, for it is mostly a misspelt one."""

    model_config = ConfigDict(extra="forbid")


class Shown(Described):
    """Base of what clients are shown, readable straight from a row."""

    model_config = ConfigDict(from_attributes=True, extra="forbid")


class SubmissionFields(Sent):
    """What a submission says beside its image."""

    external_id: ExternalId | None = Field(default=None, description="your own id for it", examples=["post-81723"])
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="whatever you want back with the case",
        examples=[{"uploader": "u-17"}],
        json_schema_extra={"properties": {"subject": {"description": "whose image it is", "maxLength": MAX_SUBJECT}}},
    )
    priority: Priority = Field(default=Priority.NORMAL, description="among your own cases")


class CasePath(BaseModel):
    """Where a case is named in the path."""

    case_id: UUID = Field(description="as the answer to its submission has it")


class ImageShown(Shown):
    """The image of a case. `judged_frame`: of an animation the first frame is judged."""

    id: UUID = Field(description="for links to the original, and for erasing it")
    sha256: str = Field(description="of the bytes as sent, in hexadecimal; it stays when the image is erased")
    media_type: str = Field(description="told by content, such as `image/jpeg`")
    width: int = Field(description="pixels, as displayed (upright)")
    height: int = Field(description="pixels, as displayed")
    bytes: int = Field(description="as sent")
    frames: int = Field(description="of an animation, or pages")
    judged_frame: str = Field(description="`only`, or `first of several`")
    erased: bool = Field(description="its bytes are gone for good")


class ModelShown(Shown):
    """What made a verdict. `kind` says `demo` where it is the demo model, not FakeVLM."""

    version: str = Field(description="the name of the model version")
    kind: str = Field(description="`demo` where it is the demo model, not FakeVLM")
    prompt: str = Field(description="the raw prompt that the image was judged with")
    calibration: str = Field(description="how the score was calibrated; `none` where it was not")
    engine: str = Field(description="what ran the network: `transformers` or `vllm`")
    dtype: str = Field(description="of its weights, such as `bfloat16`")


class VerdictShown(Shown):
    """What the model said. `p_fake` is calibrated; `logit` is z_fake − z_real before calibration."""

    label: Label
    p_fake: float = Field(ge=0, le=1, description="the calibrated score")
    logit: float = Field(description="z_fake − z_real before calibration")
    pair_mass: float = Field(description="probability of the two verdict words together; low means: not answering")
    explanation: str | None = Field(description="null where the policy skips it: it can be asked for")
    model: ModelShown


class DecisionShown(Shown):
    """How the case ended, and who or what ended it."""

    label: Label
    by: DecidedBy
    policy_version: int | None = Field(description="which version of your policy was in force")


class FailureShown(Shown):
    """Why there is no verdict."""

    reason: FailureReason
    detail: str | None = Field(description="in words, for people")


# What the document shows as one.
A_CASE: dict[str, Any] = {
    "id": "0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a55",
    "status": "decided",
    "sequence": 4,
    "external_id": "post-81723",
    "metadata": {"uploader": "u-17"},
    "priority": "normal",
    "image": {
        "id": "0199c0de-6b1c-7c3a-9d43-2f6f2f1f4a56",
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "media_type": "image/jpeg",
        "width": 1024,
        "height": 768,
        "bytes": 183204,
        "frames": 1,
        "judged_frame": "only",
        "erased": False,
    },
    "verdict": {
        "label": "fake",
        "p_fake": 0.971253,
        "logit": 3.518214,
        "pair_mass": 0.998412,
        "explanation": "This is a fake image. A regular checkerboard covers the smooth areas.",
        "model": {
            "version": "demo-1",
            "kind": "demo",
            "prompt": "<image>Does the image looks real/fake?",
            "calibration": "none",
            "engine": "transformers",
            "dtype": "float32",
        },
    },
    "decision": {"label": "fake", "by": "policy", "policy_version": 1},
    "review_reason": None,
    "failure": None,
    "created_at": "2026-01-01T12:00:00+00:00",
    "settled_at": "2026-01-01T12:00:01.204000+00:00",
}


class CaseShown(Shown):
    """A case, from its submission to its end."""

    model_config = ConfigDict(json_schema_extra={"example": A_CASE})

    id: UUID = Field(description="ids are in order of making")
    status: CaseStatus
    sequence: int = Field(description="grows with every event of the case: the order of its webhooks")
    external_id: str | None = Field(description="your own id; null once the image is erased")
    metadata: dict[str, Any] = Field(description="what you sent with it; empty once the image is erased")
    priority: Priority
    image: ImageShown | None = Field(description="None until a link has been read")
    verdict: VerdictShown | None = Field(description="null until the model has answered")
    decision: DecisionShown | None = Field(description="null until it is decided; stands while it is looked at again")
    review_reason: ReviewReason | None = Field(description="why it waits for a person, while it does")
    failure: FailureShown | None = Field(description="why it failed, where it did")
    created_at: datetime = Field(description="when it was accepted")
    settled_at: datetime | None = Field(description="when it was decided, sent to review, or failed")


class CasesShown(Shown):
    """A page of cases, newest first."""

    cases: list[CaseShown] = Field(description="as they are now")
    next: str | None = Field(description="the `cursor` of the next page; None on the last")


class AcceptedShown(Shown):
    """The cases that were opened, in the order of what was sent."""

    cases: list[CaseShown] = Field(description="as they were accepted")
