"""Platforms, their keys, and the people who work for them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from moderation.tables.row import Identified, Row
from moderation.vocabulary import Role


class Tenant(Identified, Row):
    """A platform, and how closely its decisions are looked at.

    Shares, 0 to 1: of its cases in review, `blind_share` is answered before the verdict is shown; of those answered,
    `second_opinion_share` is asked of somebody else too; of those the policy decided, `audit_share` goes to a person.
    `keep_…_days`: how long after it was settled a case's image, verdict, events and, where it is restricted, all of it
    are kept (moderation/retention.py), None for ever; a decision may be appealed for `appeal_days`.
    `statement_defaults` is what the platform says of itself in statements of reasons (the module of that name).
    """

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("0 <= blind_share AND blind_share <= 1", "blind_share_is_a_share"),
        CheckConstraint("0 <= second_opinion_share AND second_opinion_share <= 1", "second_opinion_share_is_a_share"),
        CheckConstraint("0 <= audit_share AND audit_share <= 1", "audit_share_is_a_share"),
    )

    name: Mapped[str] = mapped_column(unique=True)
    allow_training: Mapped[bool] = mapped_column(server_default=text("false"))
    blind_share: Mapped[float] = mapped_column(server_default=text("0.1"))
    second_opinion_share: Mapped[float] = mapped_column(server_default=text("0"))
    audit_share: Mapped[float] = mapped_column(server_default=text("0"))
    keep_images_days: Mapped[int | None]
    keep_verdicts_days: Mapped[int | None]
    keep_events_days: Mapped[int | None]
    keep_restricted_days: Mapped[int | None]
    appeal_days: Mapped[int | None]
    statement_defaults: Mapped[dict[str, Any] | None]


class ApiKey(Identified, Row):
    """A tenant's key. The secret has 256 bits of entropy, so a plain sha256 of it is enough to store."""

    __tablename__ = "api_keys"

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id), index=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    secret_sha256: Mapped[str]
    scopes: Mapped[list[str]]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class User(Identified, Row):
    """A person who reviews; passwords are argon2id. An operator decides what judges for every tenant."""

    __tablename__ = "users"

    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    disabled_at: Mapped[datetime | None]
    operator: Mapped[bool] = mapped_column(server_default=text("false"))


class Membership(Row):
    """What a user may do in one tenant."""

    __tablename__ = "memberships"

    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey(Tenant.id, ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[Role]


class SignIn(Identified, Row):
    """A browser in which a user is signed in. Its cookie's token has 256 bits, so a plain sha256 of it is enough."""

    __tablename__ = "sign_ins"

    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), index=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)
    address: Mapped[str]
    browser: Mapped[str]
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)


class SignInAttempt(Identified, Row):
    """A try to sign in that has not succeeded. The account is a hash: people type passwords into the wrong field."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (
        Index(None, "account_sha256", "created_at"),
        Index(None, "address", "created_at"),
        Index(None, "created_at"),
    )

    account_sha256: Mapped[str]
    address: Mapped[str]
