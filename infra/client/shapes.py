"""What the API sends and takes, typed: the JSON as it comes, for type checkers and editors.

Nothing is converted, so that a member which a newer service adds is there too, and what was received can be stored as
it is. A test holds every shape to the service's OpenAPI document.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Label = Literal["real", "fake"]
Priority = Literal["low", "normal", "high", "urgent"]
DeliveryStatus = Literal["pending", "delivered", "failed"]
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


class Endpoint(TypedDict):
    """Where events are sent. `event_types` empty: all; a disabled one is sent nothing."""

    id: str
    url: str
    event_types: list[str]
    created_at: str
    failing_since: str | None
    disabled_at: str | None
    disabled_reason: str | None


class NewEndpoint(Endpoint):
    """An endpoint with its newest secret, `whsec_…`, which is shown this once."""

    secret: str


class Attempt(TypedDict):
    """One attempt of a delivery: what the endpoint answered, or why it could not be reached."""

    attempt: int
    created_at: str
    response_status: int | None
    response_excerpt: str | None
    error: str | None
    elapsed_ms: int


class Delivery(TypedDict):
    """One event on its way to one endpoint. `log` has every attempt, oldest first, also of before a replay."""

    id: str
    webhook_id: str
    type: str
    case_id: str | None
    endpoint_id: str
    status: DeliveryStatus
    attempts: int
    next_attempt_at: str | None
    delivered_at: str | None
    created_at: str
    log: list[Attempt]


class Retention(TypedDict, total=False):
    """Days from when a case was settled; None, or left out, keeps for ever. docs/privacy.md says what each is of."""

    images: int | None
    verdicts: int | None
    events: int | None
    appeals: int | None
    restricted: int | None


class StatementDefaults(TypedDict):
    """What your platform does to synthetic and to illegal content, in the DSA Transparency Database's fields."""

    synthetic: dict[str, Any]
    illegal: dict[str, Any]
    content_date_is_submission: bool
