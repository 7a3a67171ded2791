"""What the API sends and takes, typed: the JSON as it comes, for type checkers and editors.

Nothing is converted, so that a member which a newer service adds is there too, and what was received can be stored as
it is. A test holds every shape to the service's OpenAPI document.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Label = Literal["real", "fake"]
Priority = Literal["low", "normal", "high", "urgent"]
Status = Literal["fetching", "queued", "screening", "decided", "in_review", "failed"]
# Nothing more happens by itself.
SETTLED: frozenset[Status] = frozenset({"decided", "in_review", "failed"})


class Image(TypedDict):
    """The image of a case. Sizes in pixels, upright; `judged_frame` is `only` or `first of several`."""

    id: str
    sha256: str
    media_type: str
    width: int
    height: int
    bytes: int
    frames: int
    judged_frame: str
    erased: bool


class Model(TypedDict):
    """What made a verdict. `kind` is `demo` where the demo model judged: it is not FakeVLM."""

    version: str
    kind: str
    prompt: str
    calibration: str
    engine: str
    dtype: str


class Verdict(TypedDict):
    """What the model said. `p_fake` is the calibrated score, 0 to 1; docs/limits.md says what it may be used for."""

    label: Label
    p_fake: float
    logit: float
    pair_mass: float
    explanation: str | None
    model: Model


class Decision(TypedDict):
    """What a case came to, and who or what decided it: the platform's policy, or a moderator."""

    label: Label
    by: Literal["policy", "moderator"]
    policy_version: int | None


class Failure(TypedDict):
    """Why there is no verdict; docs/api.md lists the reasons."""

    reason: str
    detail: str | None


class Appeal(TypedDict):
    """The answer to an appeal, in the event `appeal.decided`."""

    outcome: Literal["upheld", "overturned"]
    message: str | None


class Case(TypedDict):
    """A case, from its submission to its end; times as RFC 3339. Act on `decision`, not on `status`."""

    id: str
    status: Status
    sequence: int
    external_id: str | None
    metadata: dict[str, Any]
    priority: Priority
    image: Image | None
    verdict: Verdict | None
    decision: Decision | None
    review_reason: Literal["uncertain", "unparsable", "appeal", "second_opinion", "audit"] | None
    failure: Failure | None
    created_at: str
    settled_at: str | None
    appeal: NotRequired[Appeal]


class Link(TypedDict):
    """One image of a batch, by link."""

    image_url: str
    external_id: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    priority: NotRequired[Priority]


class Explanation(TypedDict):
    """How far the words of a verdict are."""

    state: Literal["none", "waiting", "ready", "failed"]
    text: str | None
    detail: str | None


class Original(TypedDict):
    """A link to the bytes as they were sent, for five minutes, for whoever has it."""

    url: str
    expires_at: str


class Missing(TypedDict):
    """A field that a statement of reasons needs and nobody has said."""

    field: str
    why: str


class Statement(TypedDict):
    """A statement of reasons in the fields of the EU's DSA Transparency Database."""

    case_id: str
    decided_at: str
    complete: bool
    missing: list[Missing]
    statement: dict[str, Any]
