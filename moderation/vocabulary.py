"""The words that code, database and API share. It knows nothing of how any of them is stored or sent."""

from __future__ import annotations

from enum import StrEnum

# Who acted where nobody was signed in: whoever runs the service, by command.
OPERATOR = "operator"


class Label(StrEnum):
    """What an image is taken for: `fake` is synthetic or edited by a machine."""

    REAL = "real"
    FAKE = "fake"


class CaseStatus(StrEnum):
    """Where a case is; `fetching` only where a link was sent, and it moves on from the first three by itself."""

    FETCHING = "fetching"
    QUEUED = "queued"
    SCREENING = "screening"
    DECIDED = "decided"
    IN_REVIEW = "in_review"
    FAILED = "failed"


# Statuses in which nothing more happens by itself.
SETTLED = frozenset({CaseStatus.DECIDED, CaseStatus.IN_REVIEW, CaseStatus.FAILED})


class Priority(StrEnum):
    """How urgent a submission is; stored as the number below, higher first."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"

    @property
    def rank(self) -> int:
        return list(Priority).index(self)


class DecidedBy(StrEnum):
    """What made a decision: the platform's thresholds, or a person."""

    POLICY = "policy"
    MODERATOR = "moderator"


class ReviewReason(StrEnum):
    """Why a case waits for a person."""

    UNCERTAIN = "uncertain"  # the score lies between the policy's thresholds
    UNPARSABLE = "unparsable"  # the model did not answer in the expected words
    APPEAL = "appeal"
    SECOND_OPINION = "second_opinion"  # somebody has answered, and somebody else is asked too
    AUDIT = "audit"  # decided by the policy, and looked at to know how often that is wrong


# A decided case is looked at again, and nobody outside is told unless that overturns the decision.
QUIET = frozenset({ReviewReason.SECOND_OPINION, ReviewReason.AUDIT})
# What an audit's answer may be to: the lot was drawn before anybody appealed, so an appeal's answer tells as much.
AUDITED = (ReviewReason.AUDIT, ReviewReason.APPEAL)


class Hidden(StrEnum):
    """What somebody who is to answer a case must not see before."""

    VERDICT = "verdict"  # what the model said: score, label, explanation, and on which side of the policy it lies
    DECISION = "decision"  # how the case was decided, by whom, and who answered what


class Answer(StrEnum):
    """What a moderator says of an image."""

    REAL = "real"
    FAKE = "fake"
    CANNOT_TELL = "cannot_tell"


class Artifact(StrEnum):
    """Where an image gives itself away; the words that benchmarks of explained detection use."""

    TEXTURE = "texture"  # too smooth, repeated, of the wrong material
    EDGES = "edges"  # melting into one another, cut out
    CLARITY = "clarity"  # sharp and blurred where no lens would be
    DISTORTION = "distortion"  # shapes bent or merged
    ANATOMY = "anatomy"  # hands, teeth, eyes, limbs
    TEXT = "text"  # letters that are none
    COLOUR = "colour"  # hues or saturation no camera gives
    LIGHTING = "lighting"
    SHADOW = "shadow"
    REFLECTION = "reflection"
    SYMMETRY = "symmetry"
    PERSPECTIVE = "perspective"
    LAYOUT = "layout"  # things where they would not be
    MISSING_PARTS = "missing_parts"
    PHYSICS = "physics"  # what cannot be


class Grade(StrEnum):
    """What a moderator says of one sentence of an explanation."""

    RIGHT = "right"
    WRONG = "wrong"
    UNCLEAR = "unclear"


class ClaimEnd(StrEnum):
    """How a person's hold on a case ended."""

    ANSWERED = "answered"
    SKIPPED = "skipped"
    HELD = "held"
    ESCALATED = "escalated"
    REASSIGNED = "reassigned"
    RELEASED = "released"  # they left, or opened it anew
    WITHDRAWN = "withdrawn"  # the case was reported as illegal or appealed meanwhile
    EXPIRED = "expired"  # they were gone, and somebody else took it


class FailureReason(StrEnum):
    """Why a case ended without a verdict; stable strings, part of the API."""

    LINK_REFUSED = "link_refused"  # not http(s), or an address that is not public
    LINK_UNREACHABLE = "link_unreachable"  # DNS, connection, TLS, time-out
    LINK_STATUS = "link_status"  # the host answered with an error status
    LINK_NOT_IMAGE = "link_not_image"  # HTML and the like
    IMAGE_TOO_LARGE = "image_too_large"
    UNDECODABLE = "undecodable"
    IMAGE_ERASED = "image_erased"
    WORKER_LOST = "worker_lost"  # the worker died on every attempt
    INTERNAL = "internal"


class EventType(StrEnum):
    """Audit events. Those in OUTBOUND are also sent to endpoints."""

    SUBMISSION_ACCEPTED = "submission.accepted"
    CASE_FETCHED = "case.fetched"
    CASE_TAKEN = "case.taken"
    CASE_RELEASED = "case.released"
    CASE_RETRIED = "case.retried"
    VERDICT_COMPLETED = "verdict.completed"
    VERDICT_FAILED = "verdict.failed"
    CASE_IN_REVIEW = "case.in_review"
    CASE_APPEALED = "case.appealed"
    DECISION_CREATED = "decision.created"
    DECISION_REVERSED = "decision.reversed"
    APPEAL_DECIDED = "appeal.decided"
    CASE_CLAIMED = "case.claimed"
    CASE_UNCLAIMED = "case.unclaimed"
    CASE_SKIPPED = "case.skipped"
    CASE_HELD = "case.held"
    CASE_ESCALATED = "case.escalated"
    CASE_REASSIGNED = "case.reassigned"
    CASE_PRIORITISED = "case.prioritised"
    CASE_SAMPLED = "case.sampled"
    CASE_RESTRICTED = "case.restricted"
    CASE_UNRESTRICTED = "case.unrestricted"
    CASE_REJUDGED = "case.rejudged"  # another version's verdict is beside its own
    REVIEW_ANSWERED = "review.answered"
    REVIEW_UNDONE = "review.undone"
    REVIEW_UPHELD = "review.upheld"
    EXPLANATION_REQUESTED = "explanation.requested"
    EXPLANATION_COMPLETED = "explanation.completed"
    EXPLANATION_FAILED = "explanation.failed"
    POLICY_CHANGED = "policy.changed"
    IMAGE_ERASED = "image.erased"
    RETENTION_SWEPT = "retention.swept"  # a pass over a tenant's cases: how many were past their time
    SUBJECT_EXPORTED = "subject.exported"
    STATEMENTS_EXPORTED = "statements.exported"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_PING = "endpoint.ping"
    MODEL_PROMOTED = "model.promoted"
    MODEL_SWAPPED = "model.swapped"  # a worker judges with another version from now on
    MODEL_SWAP_REFUSED = "model.swap_refused"  # a worker stays with the version it has
    MODEL_REMOVED = "model.removed"
    MODEL_DRIFTED = "model.drifted"  # the standing panel: the champion is worse than it, or another one, was
    REJUDGING_ASKED = "rejudging.asked"
    RUN_ASKED = "run.asked"
    RUN_STARTED = "run.started"
    RUN_CANCELLED = "run.cancelled"  # somebody asked for it; the worker ends it
    RUN_ENDED = "run.ended"
    SNAPSHOT_REMOVED = "snapshot.removed"
    DATASET_EXPORTED = "dataset.exported"
    NOTICE_RETRIED = "notice.retried"  # a mail that was given up is sent again
    USER_SIGNED_IN = "user.signed_in"
    USER_SIGNED_OUT = "user.signed_out"
    USER_PASSWORD_CHANGED = "user.password_changed"
    USER_DISABLED = "user.disabled"
    USER_ENABLED = "user.enabled"
    OPERATOR_GRANTED = "operator.granted"
    OPERATOR_REVOKED = "operator.revoked"
    TENANT_CREATED = "tenant.created"
    TENANT_CHANGED = "tenant.changed"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    SOURCE_CREATED = "source.created"
    SOURCE_CHANGED = "source.changed"
    SOURCE_SECRET_ROTATED = "source.secret_rotated"
    SOURCE_DISABLED = "source.disabled"
    SOURCE_ENABLED = "source.enabled"
    ENDPOINT_CREATED = "endpoint.created"
    ENDPOINT_CHANGED = "endpoint.changed"
    ENDPOINT_SECRET_ROTATED = "endpoint.secret_rotated"
    ENDPOINT_ENABLED = "endpoint.enabled"
    DELIVERY_REPLAYED = "delivery.replayed"
    SECRETS_SEALED = "secrets.sealed"  # stored secrets are encrypted with another key from now on
    SERVICE_RESTORED = "service.restored"  # all of it, from a backup
    MEMBER_ADDED = "member.added"
    MEMBER_CHANGED = "member.changed"
    MEMBER_REMOVED = "member.removed"


OUTBOUND = frozenset(
    {
        EventType.SUBMISSION_ACCEPTED,
        EventType.VERDICT_COMPLETED,
        EventType.VERDICT_FAILED,
        EventType.CASE_IN_REVIEW,
        EventType.DECISION_CREATED,
        EventType.DECISION_REVERSED,
        EventType.APPEAL_DECIDED,
        EventType.ENDPOINT_DISABLED,
        EventType.ENDPOINT_PING,
        EventType.MODEL_PROMOTED,
    }
)


class View(StrEnum):
    """What a moderator can have made of an image, beside the picture that is there from the start."""

    FULL = "full"  # all of its pixels
    ERROR_LEVEL = "error-level"
    NOISE = "noise"
    SPECTRUM = "spectrum"


class DeliveryStatus(StrEnum):
    """What became of an event on its way to an endpoint."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # the schedule ran out, or the endpoint is gone


class SourceScheme(StrEnum):
    """How a platform signs its webhooks to us."""

    STANDARD = "standard_webhooks"
    GITHUB = "github"  # X-Hub-Signature-256: sha256=<hex>
    BEARER = "bearer"


class SourceKind(StrEnum):
    """Where in a webhook's body the images are."""

    JSON = "json"  # JSON Pointers to link, id and metadata
    S3_EVENT = "s3_event"  # Records[].s3.bucket.name and .object.key


class Scope(StrEnum):
    SUBMISSIONS_WRITE = "submissions:write"
    CASES_READ = "cases:read"
    CASES_APPEAL = "cases:appeal"
    IMAGES_DELETE = "images:delete"
    WEBHOOKS_MANAGE = "webhooks:manage"
    SETTINGS_MANAGE = "settings:manage"


class Role(StrEnum):
    MODERATOR = "moderator"
    LEAD = "lead"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        """Whether who has this role may do what the other one may: a lead reviews too, an admin may do all."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)


class ExplainMode(StrEnum):
    """For which images an explanation is generated at once."""

    ALWAYS = "always"
    FLAGGED = "flagged"  # judged fake, or in review
    REVIEW = "review"  # in review


class ModelStage(StrEnum):
    CHAMPION = "champion"
    CHALLENGER = "challenger"
    RETIRED = "retired"


class RunStatus(StrEnum):
    """Where a training run is; all but the first two are its end."""

    ASKED = "asked"
    RUNNING = "running"
    PROMOTED = "promoted"
    KEPT = "kept"  # for a lead to decide
    REJECTED = "rejected"
    SKIPPED = "skipped"  # there was not enough to learn from
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"  # its worker died, and nobody went on with it


class RunStage(StrEnum):
    """What a training run is at, in this order."""

    SNAPSHOT = "snapshot"
    SPLIT = "split"
    DOWNLOAD = "download"
    TRAIN = "train"
    EVALUATE = "evaluate"
    CALIBRATE = "calibrate"
    GATE = "gate"
    PROMOTE = "promote"


class GateOutcome(StrEnum):
    """What is to become of a new model version."""

    PROMOTE = "promote"
    ASK = "ask"
    REJECT = "reject"


class NoticeKind(StrEnum):
    """What somebody is told (moderation/notices.py)."""

    RUN_KEPT = "run_kept"  # it waits for an answer
    RUN_REJECTED = "run_rejected"  # by the gate
    RUN_FAILED = "run_failed"  # or was lost
    MODEL_PROMOTED = "model_promoted"
    MODEL_ROLLED_BACK = "model_rolled_back"
    MODEL_DRIFTED = "model_drifted"


class PanelSet(StrEnum):
    """What the standing panel measures the champion on."""

    HOLDOUT = "holdout"  # as sent; never trained on, and the same images night after night
    RECOMPRESSED = "recompressed"
    BLURRED = "blurred"
    RESIZED = "resized"
    AUDITS = "audits"  # what people said of the champion's own automatic decisions


class Kept(StrEnum):
    """What of a case is kept for a time of its own."""

    IMAGES = "images"  # bytes, renditions, and what the image is like
    VERDICTS = "verdicts"  # scores, explanations, and what moderators wrote
    EVENTS = "events"  # what the platform sent with the image, and what events repeat of it


class Split(StrEnum):
    """What a reviewed image is for."""

    TRAIN = "train"
    HOLDOUT = "holdout"  # measured on, and never trained on
    LEFT_OUT = "left_out"  # near-copies of it are on both sides
