"""What a platform says of itself in statements of reasons: what it does to such content, on which ground, and where.

Fields, words and limits are those of the EU's DSA Transparency Database, API schema 2 (in force since 1 July 2025): its
documentation at https://transparency.dsa.ec.europa.eu/page/api-documentation, and the rules of its
StatementStoreRequest in https://github.com/digital-services-act/transparency-database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator
from sqlalchemy.orm import Session

from moderation import events
from moderation.errors import InvalidRequest
from moderation.tables import Tenant
from moderation.vocabulary import OPERATOR, EventType

Visibility = Literal[
    "DECISION_VISIBILITY_CONTENT_REMOVED",
    "DECISION_VISIBILITY_CONTENT_DISABLED",
    "DECISION_VISIBILITY_CONTENT_DEMOTED",
    "DECISION_VISIBILITY_CONTENT_AGE_RESTRICTED",
    "DECISION_VISIBILITY_CONTENT_INTERACTION_RESTRICTED",
    "DECISION_VISIBILITY_CONTENT_LABELLED",
    "DECISION_VISIBILITY_OTHER",
]
Monetary = Literal["DECISION_MONETARY_SUSPENSION", "DECISION_MONETARY_TERMINATION", "DECISION_MONETARY_OTHER"]
Provision = Literal[
    "DECISION_PROVISION_PARTIAL_SUSPENSION",
    "DECISION_PROVISION_TOTAL_SUSPENSION",
    "DECISION_PROVISION_PARTIAL_TERMINATION",
    "DECISION_PROVISION_TOTAL_TERMINATION",
]
Account = Literal["DECISION_ACCOUNT_SUSPENDED", "DECISION_ACCOUNT_TERMINATED"]
AccountType = Literal["ACCOUNT_TYPE_BUSINESS", "ACCOUNT_TYPE_PRIVATE"]
Category = Literal[
    "STATEMENT_CATEGORY_ANIMAL_WELFARE",
    "STATEMENT_CATEGORY_CONSUMER_INFORMATION",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE",
    "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
    "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE",
    "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
    "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY",
    "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
    "STATEMENT_CATEGORY_SELF_HARM",
    "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "STATEMENT_CATEGORY_VIOLENCE",
]
Source = Literal["SOURCE_ARTICLE_16", "SOURCE_TRUSTED_FLAGGER", "SOURCE_TYPE_OTHER_NOTIFICATION", "SOURCE_VOLUNTARY"]
ILLEGAL, INCOMPATIBLE = "DECISION_GROUND_ILLEGAL_CONTENT", "DECISION_GROUND_INCOMPATIBLE_CONTENT"
Ground = Literal["DECISION_GROUND_ILLEGAL_CONTENT", "DECISION_GROUND_INCOMPATIBLE_CONTENT"]
# The European Economic Area.
# fmt: off
Country = Literal[
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IS", "IT", "LI",
    "LT", "LU", "LV", "MT", "NL", "NO", "PL", "PT", "RO", "SE", "SI", "SK",
]
# fmt: on
Short = Annotated[str, Field(min_length=1, max_length=500)]
Long = Annotated[str, Field(min_length=1, max_length=2000)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Profile(_Said):
    """What a platform does to content of one kind, and why; names and words are the database's."""

    decision_visibility: tuple[Visibility, ...] = ()
    decision_visibility_other: Short | None = None
    decision_monetary: Monetary | None = None
    decision_monetary_other: Short | None = None
    decision_provision: Provision | None = None
    decision_account: Account | None = None
    account_type: AccountType | None = None
    decision_ground: Ground | None = None
    decision_ground_reference_url: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=500)] | None = None
    illegal_content_legal_ground: Short | None = None
    illegal_content_explanation: Long | None = None
    incompatible_content_ground: Short | None = None
    incompatible_content_explanation: Long | None = None
    incompatible_content_illegal: Literal["Yes", "No"] | None = None
    category: Category | None = None
    category_addition: tuple[Category, ...] = ()
    category_specification: tuple[Annotated[str, Field(pattern=r"^KEYWORD_[A-Z_]+$")], ...] = ()
    category_specification_other: Short | None = None
    territorial_scope: tuple[Country, ...] = ()
    content_language: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    source_type: Source | None = None
    source_identity: Short | None = None

    @model_validator(mode="after")
    def _others(self) -> Self:
        for name, is_other in (
            ("decision_visibility_other", "DECISION_VISIBILITY_OTHER" in self.decision_visibility),
            ("decision_monetary_other", self.decision_monetary == "DECISION_MONETARY_OTHER"),
        ):
            if is_other != (getattr(self, name) is not None):
                raise ValueError(f"{name} is said exactly where the decision is one of the kind OTHER")
        return self


class Defaults(_Said):
    """What a platform says of itself: of content that is synthetic, and of content that was reported as illegal.

    `content_date_is_submission`: it sends an image on the day on which it is posted, so that this is its date.
    """

    synthetic: Profile = Profile()
    illegal: Profile = Profile()
    content_date_is_submission: StrictBool = False


def defaults_of(tenant: Tenant) -> Defaults:
    """What this platform has said of itself."""
    return Defaults.model_validate(tenant.statement_defaults or {})


def read(said: Mapping[str, Any]) -> Defaults:
    """Defaults as somebody sent them. Raises InvalidRequest with a pointer to what is wrong."""
    try:
        return Defaults.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        pointer = "".join(f"/{part}" for part in first["loc"])
        raise InvalidRequest(f"{pointer[1:] or 'The defaults'}: {first['msg']}.", pointer=pointer or None) from error


def change(session: Session, tenant_id: UUID, defaults: Defaults, *, actor: str = OPERATOR) -> None:
    """What a platform says of itself from now on, also of decisions of before."""
    tenant = session.get_one(Tenant, tenant_id, with_for_update=True)
    was = tenant.statement_defaults
    now = defaults.model_dump(mode="json", exclude_defaults=True)
    if now == (was or {}):
        return
    tenant.statement_defaults = now
    before, after = {"statement_defaults": was}, {"statement_defaults": now}
    events.record(session, EventType.TENANT_CHANGED, tenant_id=tenant_id, actor=actor, before=before, after=after)
