"""`GET /v1/cases/{id}/statement-of-reasons`, and `/v1/statement-defaults`: what a platform says of itself in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field

from api import problems
from api.auth import SECURITY, caller, requires
from api.bodies import Answer, CasePath, Shown
from moderation import statement_defaults, statements
from moderation.db import transaction
from moderation.statement_defaults import Defaults
from moderation.tables import Tenant
from moderation.vocabulary import Scope

api = APIBlueprint("statements", __name__, abp_tags=[Tag(name="Privacy")], abp_security=SECURITY)


class MissingShown(Shown):
    """A field that the database demands and nobody has said."""

    field: str
    why: str = Field(description="and what to do about it")


class StatementShown(Shown):
    """A statement of reasons, as the EU's DSA Transparency Database takes it (API schema 2)."""

    case_id: UUID
    decided_at: datetime
    complete: bool = Field(description="whether the database would take it as it is")
    missing: list[MissingShown]
    statement: dict[str, Any]


class DefaultsShown(Shown):
    """What you do to content that is synthetic, and to content that was reported as illegal; see docs/privacy.md."""

    synthetic: dict[str, Any]
    illegal: dict[str, Any]
    content_date_is_submission: bool


@api.get(
    "/v1/cases/<uuid:case_id>/statement-of-reasons",
    operation_id="getStatementOfReasons",
    summary="Statement of reasons",
    responses={200: StatementShown} | problems.declared(401, 403, 404, 409),
)
@requires(Scope.CASES_READ)
def get_statement(path: CasePath) -> Answer:
    """Filled from the way the decision was made. A case that restricts nothing has none (409)."""
    with transaction() as session:
        return statements.statement_of(session, caller().tenant_id, path.case_id).describe()


@api.get(
    "/v1/statement-defaults",
    operation_id="getStatementDefaults",
    summary="What statements say of you",
    responses={200: DefaultsShown} | problems.declared(401, 403),
)
@requires(Scope.SETTINGS_MANAGE)
def get_defaults() -> Answer:
    """Fields that you have not said are not there."""
    with transaction() as session:
        return _shown(statement_defaults.defaults_of(session.get_one(Tenant, caller().tenant_id)))


@api.put(
    "/v1/statement-defaults",
    operation_id="setStatementDefaults",
    summary="Say what statements say of you",
    responses={200: DefaultsShown} | problems.declared(400, 401, 403),
)
@requires(Scope.SETTINGS_MANAGE)
def put_defaults(body: Defaults) -> Answer:
    """All of it at once: what is left out is missing from statements. Names and words are the database's own."""
    with transaction() as session:
        statement_defaults.change(session, caller().tenant_id, body, actor=caller().actor)
    return _shown(body)


def _shown(defaults: Defaults) -> dict[str, Any]:
    said = defaults.model_dump(mode="json", exclude_defaults=True)
    return {"synthetic": {}, "illegal": {}, "content_date_is_submission": False, **said}
