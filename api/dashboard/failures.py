"""`/dashboard/platforms/{id}/failures`: cases that could not be judged, why, and trying them again."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from api.auth import requires_role
from api.dashboard import filters
from api.dashboard.access import person
from api.dashboard.queue import id_in
from moderation import cases, failures
from moderation.db import transaction
from moderation.failures import MAX_RETRIED, Filter
from moderation.vocabulary import FailureReason, Role

pages = Blueprint("failures", __name__)

PAGE = 50
REASONS = {
    FailureReason.LINK_REFUSED: "link refused",
    FailureReason.LINK_UNREACHABLE: "link unreachable",
    FailureReason.LINK_STATUS: "link answers with an error",
    FailureReason.LINK_NOT_IMAGE: "link is no image",
    FailureReason.IMAGE_TOO_LARGE: "image too large",
    FailureReason.UNDECODABLE: "image cannot be decoded",
    FailureReason.IMAGE_ERASED: "image was erased",
    FailureReason.WORKER_LOST: "workers lost on it",
    FailureReason.INTERNAL: "our own fault",
}


@pages.get("/dashboard/platforms/<uuid:tenant_id>/failures")
@requires_role(Role.LEAD)
def page(tenant_id: UUID) -> str:
    """The failed cases, newest first, by filter."""
    filter_, before = _filter(request.args), id_in(request.args, "before")
    with transaction() as session:
        counts = failures.counts(session, tenant_id, filter_)
        found = failures.page(session, tenant_id, filter_, before=before, limit=PAGE + 1)
    shown = found[:PAGE]
    return render_template(
        "failures/page.html",
        cases=shown,
        counts=counts,
        total=sum(counts.values()),
        most=MAX_RETRIED,
        reasons=REASONS,
        filter=filter_,
        since=filters.field_value(filter_.since),
        until=filters.field_value(filter_.until),
        query=_as_query(filter_),
        first=before is None,
        following=shown[-1].id if len(found) > PAGE else None,
    )


@pages.post("/dashboard/platforms/<uuid:tenant_id>/failures/retry")
@requires_role(Role.LEAD)
def retry_all(tenant_id: UUID) -> Response:
    """Try all of a filter again, as many as one transaction may hold."""
    filter_ = _filter(request.args)
    with transaction(wake=True) as session:
        count = failures.retry_all(session, tenant_id, filter_, actor=person().actor)
    return _back(tenant_id, "cases_retried" if count else "nothing_retried")


@pages.post("/dashboard/platforms/<uuid:tenant_id>/failures/<uuid:case_id>/retry")
@requires_role(Role.LEAD)
def retry(tenant_id: UUID, case_id: UUID) -> Response:
    """Try one again."""
    with transaction(wake=True) as session:
        cases.retry(session, tenant_id, case_id, actor=person().actor)
    return _back(tenant_id, "case_retried")


def _back(tenant_id: UUID, said: str) -> Response:
    query = _as_query(_filter(request.args))
    return redirect(url_for("platforms.failures.page", tenant_id=tenant_id, said=said, **query), 303)


def _filter(sent: Mapping[str, str]) -> Filter:
    return Filter(
        reason=filters.word_in(sent, "reason", FailureReason),
        since=filters.moment_in(sent, "since"),
        until=filters.moment_in(sent, "until"),
    )


def _as_query(filter_: Filter) -> dict[str, str]:
    return filters.as_query(reason=filter_.reason, since=filter_.since, until=filter_.until)
