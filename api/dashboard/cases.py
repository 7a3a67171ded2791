"""`/dashboard/cases/{id}`: one case as its reviewer sees it, and everything they can do with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, jsonify, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.datastructures import MultiDict
from werkzeug.wrappers import Response as AnyResponse

from api import problems
from api.auth import requires_role
from api.dashboard.access import person
from api.dashboard.queue import PRIORITIES, REASONS, as_query, filter_of, id_in, to_next
from api.process import current
from moderation import claims, renditions, reviews
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, InvalidRequest, LostLease
from moderation.reviews import Reply, Sentence, Sight
from moderation.vocabulary import Answer, Artifact, CaseStatus, EventType, Grade, Role

pages = Blueprint("review", __name__)

HOLDS = {1: "1 hour", 4: "4 hours", 24: "1 day", 72: "3 days", 168: "1 week"}
# In the past tense, after who did it.
HISTORY = {
    EventType.SUBMISSION_ACCEPTED: "accepted the submission",
    EventType.CASE_FETCHED: "fetched the image from its link",
    EventType.CASE_TAKEN: "took it up",
    EventType.CASE_RELEASED: "gave it back, to be tried again",
    EventType.CASE_RETRIED: "asked for another try",
    EventType.VERDICT_COMPLETED: "judged it",
    EventType.VERDICT_FAILED: "could not judge it",
    EventType.CASE_REJUDGED: "judged it with a newer model version too",
    EventType.CASE_IN_REVIEW: "sent it to review",
    EventType.CASE_APPEALED: "appealed the decision",
    EventType.CASE_CLAIMED: "began to review it",
    EventType.CASE_UNCLAIMED: "left it",
    EventType.CASE_SKIPPED: "skipped it",
    EventType.CASE_HELD: "put it aside",
    EventType.CASE_ESCALATED: "handed it to the leads",
    EventType.CASE_REASSIGNED: "handed it to a colleague",
    EventType.REVIEW_ANSWERED: "answered",
    EventType.REVIEW_UNDONE: "took the answer back",
    EventType.DECISION_CREATED: "decided it",
    EventType.DECISION_REVERSED: "reversed the decision",
    EventType.APPEAL_DECIDED: "decided the appeal",
}
Action = Callable[[Session, Person, UUID, int], object]


@pages.get("/dashboard/cases/<uuid:case_id>")
@requires_role(Role.MODERATOR)
def page(case_id: UUID) -> str:
    """The page. Looking claims nothing."""
    return _page(case_id)


@pages.get("/dashboard/cases/<uuid:case_id>/rendition")
@requires_role(Role.MODERATOR)
def rendition(case_id: UUID) -> Response:
    """The picture, for this person alone: no browser or proxy keeps it."""
    with transaction() as session:
        image = claims.case_for(session, person(), case_id).image
    if image is None:
        raise InvalidRequest("This case has no image: its link has not been fetched.")
    return Response(renditions.read(current().storage, image), mimetype=renditions.MEDIA_TYPE)


@pages.post("/dashboard/cases/<uuid:case_id>/claim")
@requires_role(Role.MODERATOR)
def claim(case_id: UUID) -> AnyResponse:
    """Take the case. A page that lost it asks for JSON, and goes on with what is typed in it."""
    filter_ = filter_of(request.args)
    wants_json = request.accept_mimetypes.best == "application/json"
    try:
        with transaction() as session:
            fence = claims.claim(session, person(), case_id).fence
    except Conflict as error:
        if wants_json:
            return _as_json(error)
        return redirect(url_for("review.page", case_id=case_id, **as_query(filter_)), 303)
    if wants_json:
        return jsonify(fence=fence)
    return redirect(url_for("review.page", case_id=case_id, **as_query(filter_)), 303)


@pages.post("/dashboard/cases/<uuid:case_id>/heartbeat")
@requires_role(Role.MODERATOR)
def heartbeat(case_id: UUID) -> AnyResponse:
    """The page is still open; 409 with a reason where the case is no longer its."""
    try:
        with transaction() as session:
            claims.renew(session, person(), case_id, _fence())
    except LostLease as error:
        return _as_json(error)
    return Response(status=HTTPStatus.NO_CONTENT)


@pages.post("/dashboard/cases/<uuid:case_id>/release")
@requires_role(Role.MODERATOR)
def release(case_id: UUID) -> AnyResponse:
    """The page was left."""
    with transaction() as session:
        claims.release(session, person(), case_id, _fence())
    return Response(status=HTTPStatus.NO_CONTENT)


@pages.post("/dashboard/cases/<uuid:case_id>/answer")
@requires_role(Role.MODERATOR)
def answer(case_id: UUID) -> AnyResponse:
    """Answer, and on to the next case; after a blind answer, first to what the model said.

    A late answer is a 409 and everything that was filled in.
    """
    filter_ = filter_of(request.args)
    try:
        with transaction() as session:
            shown = reviews.sight(session, person(), case_id).sentences
            review = reviews.answer(session, person(), case_id, _fence(), _reply(shown))
    except (LostLease, InvalidRequest) as error:
        return problems.beside(error, _page(case_id, error=error, typed=request.form))
    if review.blind:
        return redirect(url_for("review.page", case_id=case_id, undo=case_id, **as_query(filter_)), 303)
    return to_next(filter_, undo=case_id)


@pages.post("/dashboard/cases/<uuid:case_id>/undo")
@requires_role(Role.MODERATOR)
def undo(case_id: UUID) -> AnyResponse:
    """Take the answer back, and open the case with everything that was filled in."""
    filter_ = filter_of(request.args)
    with transaction() as session:
        reviews.undo(session, person(), case_id)
    return redirect(url_for("review.page", case_id=case_id, said="answer_undone", **as_query(filter_)), 303)


@pages.post("/dashboard/cases/<uuid:case_id>/skip")
@requires_role(Role.MODERATOR)
def skip(case_id: UUID) -> AnyResponse:
    """Leave it to others."""
    return _do(case_id, reviews.skip, said="case_skipped")


@pages.post("/dashboard/cases/<uuid:case_id>/hold")
@requires_role(Role.MODERATOR)
def hold(case_id: UUID) -> AnyResponse:
    """Put it aside for a number of hours."""
    hours = request.form.get("hours", type=int)
    if hours not in HOLDS:
        raise InvalidRequest("Choose for how long.")
    span = timedelta(hours=hours)
    return _do(case_id, lambda *who: reviews.hold(*who, span), said="case_held")


@pages.post("/dashboard/cases/<uuid:case_id>/escalate")
@requires_role(Role.MODERATOR)
def escalate(case_id: UUID) -> AnyResponse:
    """Hand it to the leads."""
    return _do(case_id, reviews.escalate, said="case_escalated")


@pages.post("/dashboard/cases/<uuid:case_id>/reassign")
@requires_role(Role.MODERATOR)
def reassign(case_id: UUID) -> AnyResponse:
    """Hand it to a colleague."""
    to = id_in(request.form, "to")
    if to is None:
        raise InvalidRequest("Choose to whom.")
    return _do(case_id, lambda *who: reviews.reassign(*who, to), said="case_reassigned")


def _do(case_id: UUID, action: Action, *, said: str) -> AnyResponse:
    filter_ = filter_of(request.args)
    with transaction() as session:
        action(session, person(), case_id, _fence())
    return to_next(filter_, said=said)


def _fence() -> int:
    """Which claim the page stands for. Raises InvalidRequest."""
    fence = request.form.get("fence", type=int)
    if fence is None:
        raise InvalidRequest("The page does not say which claim it stands for: load it again.")
    return fence


def _reply(shown: tuple[str, ...]) -> Reply:
    """The form as a reply. Raises InvalidRequest for what no form of ours says."""
    sent = request.form
    try:
        graded = [
            Sentence(said, Grade(sent[f"grade-{number}"]), sent.get(f"written-{number}"))
            for number, said in enumerate(shown)
            if sent.get(f"grade-{number}")
        ]
        added = [Sentence(written=line) for line in sent.get("additions", "").splitlines() if line.strip()]
        artifacts = frozenset(Artifact(word) for word in sent.getlist("artifact"))
        return Reply(Answer(sent.get("answer", "")), artifacts, (*graded, *added), sent.get("note"))
    except ValueError as error:
        raise InvalidRequest("Answer real, fake or cannot tell.") from error


def _as_json(error: Conflict) -> AnyResponse:
    response = problems.beside(error, json.dumps({"detail": error.message}))
    response.mimetype = "application/json"
    return response


def _page(
    case_id: UUID, *, error: LostLease | InvalidRequest | None = None, typed: MultiDict[str, str] | None = None
) -> str:
    undo_id = id_in(request.args, "undo")
    with transaction() as session:
        seen = reviews.sight(session, person(), case_id)
        mine = seen.claim is not None and seen.claim.user_id == person().user_id
        colleagues = reviews.colleagues(session, seen.case) if mine else ()
        undoable = reviews.undoable(session, person(), undo_id) if undo_id else None
        before = reviews.last_of(session, person(), case_id) if mine and typed is None else None
        return render_template(
            "cases/page.html",
            seen=seen,
            case=seen.case,
            mine=mine,
            fence=_fence_shown(seen, mine=mine),
            may_claim=claims.may_claim(person(), seen.case),
            waits=seen.case.status is CaseStatus.IN_REVIEW and seen.pending is None,
            colleagues=[user for user in colleagues if user.id != person().user_id],
            undoable=undoable,
            error=error,
            typed=typed if typed is not None else _typed_before(before, seen),
            query=as_query(filter_of(request.args)),
            heartbeat_s=int(claims.HEARTBEAT.total_seconds()),
            history=HISTORY,
            holds=HOLDS,
            reasons=REASONS,
            priorities=PRIORITIES,
            artifacts=list(Artifact),
            grades=list(Grade),
        )


def _fence_shown(seen: Sight, *, mine: bool) -> int | None:
    """Of the claim that this page stands for. A late answer's page stands for none until the case is taken again."""
    if request.method == "POST":
        return request.form.get("fence", type=int)
    return seen.claim.fence if mine and seen.claim else None


def _typed_before(review: reviews.Review | None, seen: Sight) -> MultiDict[str, Any]:
    """What this person said of the case before they took it back, as the form has it."""
    typed: MultiDict[str, Any] = MultiDict()
    if review is None or review.undone_at is None:
        return typed
    typed.setlist("artifact", list(review.artifacts))
    typed["note"] = review.note or ""
    typed["additions"] = "\n".join(s.written or "" for s in review.sentences if s.said is None)
    graded = {s.said: s for s in review.sentences if s.said is not None}
    for number, said in enumerate(seen.sentences):
        if said in graded:
            typed[f"grade-{number}"] = graded[said].grade
            typed[f"written-{number}"] = graded[said].written or ""
    return typed
