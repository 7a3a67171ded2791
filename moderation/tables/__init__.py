"""The rows, and the constraints that hold whatever the code does.

Rows only: what may happen to them is in the modules named for each noun. Times are UTC. Everything a tenant owns
carries its `tenant_id`, so that every query can be bound to one tenant.
"""

from __future__ import annotations

from moderation.tables.accounts import ApiKey, Membership, SignIn, SignInAttempt, Tenant, User
from moderation.tables.cases import (
    ANSWERABLE,
    CERTAINTY,
    FAILED,
    HIDDEN_SCORES,
    SCORE_HIDDEN,
    WAITING,
    Case,
    Policy,
    Rejudging,
)
from moderation.tables.events import ENTERED_REVIEW, LEFT_REVIEW, Delivery, DeliveryAttempt, Endpoint, Event
from moderation.tables.images import Image, ImageHash, SimilarImage, Upload
from moderation.tables.intake import MAX_SUBJECT, SUBJECT, IdempotencyKey, ReceivedWebhook, Source, Submission
from moderation.tables.notices import Notice, NoticeMail
from moderation.tables.queue import QueueChange, QueueSummary
from moderation.tables.retention import RetentionPass
from moderation.tables.reviews import Claim, Review, ReviewedSentence
from moderation.tables.row import Asked, AsSent, Row, written
from moderation.tables.training import RUN_LIVE, PanelMeasurement, TrainingExample, TrainingRun
from moderation.tables.verdicts import Explanation, ExplanationRequest, ModelVersion, Verdict

__all__ = [
    "ANSWERABLE",
    "CERTAINTY",
    "ENTERED_REVIEW",
    "FAILED",
    "HIDDEN_SCORES",
    "LEFT_REVIEW",
    "MAX_SUBJECT",
    "RUN_LIVE",
    "SCORE_HIDDEN",
    "SUBJECT",
    "WAITING",
    "ApiKey",
    "AsSent",
    "Asked",
    "Case",
    "Claim",
    "Delivery",
    "DeliveryAttempt",
    "Endpoint",
    "Event",
    "Explanation",
    "ExplanationRequest",
    "IdempotencyKey",
    "Image",
    "ImageHash",
    "Membership",
    "ModelVersion",
    "Notice",
    "NoticeMail",
    "PanelMeasurement",
    "Policy",
    "QueueChange",
    "QueueSummary",
    "ReceivedWebhook",
    "Rejudging",
    "RetentionPass",
    "Review",
    "ReviewedSentence",
    "Row",
    "SignIn",
    "SignInAttempt",
    "SimilarImage",
    "Source",
    "Submission",
    "Tenant",
    "TrainingExample",
    "TrainingRun",
    "Upload",
    "User",
    "Verdict",
    "written",
]
