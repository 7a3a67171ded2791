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
from api.dashboard import statements
from api.dashboard.access import person, person_or_none
from api.dashboard.csrf import OutdatedPage
from api.dashboard.queue import PRIORITIES, REASONS, SPANS, as_query, filter_of, id_in, to_next
from moderation import claims, likeness, rejudging, restrictions, reviews, sights, wellness
from moderation.accounts import Person
from moderation.db import transaction
from moderation.errors import Conflict, Forbidden, InvalidRequest, LostLease, NotFound, TelltaleError
from moderation.reviews import Reply, Sentence
from moderation.sights import Sight
from moderation.tables import Review, Verdict
from moderation.vocabulary import Answer, Artifact, CaseStatus, EventType, Grade, Hidden, ReviewReason, Role

pages = Blueprint("review", __name__)

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
    EventType.CASE_PRIORITISED: "changed its priority",
    EventType.CASE_SAMPLED: "picked it to be looked at again",
    EventType.CASE_RESTRICTED: "reported it as illegal",
    EventType.CASE_UNRESTRICTED: "found it not to be illegal",
    EventType.REVIEW_ANSWERED: "answered",
    EventType.REVIEW_UNDONE: "took the answer back",
    EventType.REVIEW_UPHELD: "agreed with the decision",
    EventType.EXPLANATION_REQUESTED: "asked why",
    EventType.EXPLANATION_COMPLETED: "explained it",
    EventType.EXPLANATION_FAILED: "could not explain it",
    EventType.DECISION_CREATED: "decided it",
    EventType.DECISION_REVERSED: "reversed the decision",
    EventType.APPEAL_DECIDED: "decided the appeal",
}
# Of a decided case: why it is here again, and what its moderator does not see before they have answered.
WHYS = {
    ReviewReason.AUDIT: (
        "Audit.",
        "The policy has decided this case, and nobody has looked at it: you see its verdict and decision when your "
        "answer has taken effect, so that audits tell how often the policy is wrong.",
    ),
    ReviewReason.SECOND_OPINION: (
        "Second opinion.",
        "Somebody has answered this case: you see what, and who it was, when your answer has taken effect.",
    ),
    ReviewReason.APPEAL: (
        "Appeal.",
        "The platform says that the decision is wrong: you see it, who made it and the verdict when your answer has "
        "taken effect.",
    ),
}
Action = Callable[[Session, Person, UUID, int], object]
# What is sent with the answer's form, with all that is typed in it.
FORMS = frozenset({"review.answer", "review.skip", "review.hold", "review.escalate", "review.reassign"})
# The fields of a case's forms that take words, and what they are called.
WORDS = {
    "note": "Note",
    "message": "Message to the platform",
    "additions": "What the explanation misses",
    "what": "What you reported",
}


@pages.get("/dashboard/cases/<uuid:case_id>")
@requires_role(Role.MODERATOR)
def page(case_id: UUID) -> str:
    """The page. Looking claims nothing."""
    return _page(case_id)


@pages.post("/dashboard/cases/<uuid:case_id>/claim")
@requires_role(Role.MODERATOR)
def claim(case_id: UUID) -> AnyResponse:
    """Take the case. A page that lost it asks for JSON, and goes on with what is typed in it."""
    refused: Conflict | Forbidden | None = None
    try:
        with transaction() as session:
            fence = claims.claim(session, person(), case_id).fence
    except (Conflict, Forbidden) as error:
        refused = error
    if request.accept_mimetypes.best == "application/json":
        return _as_json(refused) if refused else jsonify(fence=fence)
    # The page says who has it, or whose it is.
    return redirect(url_for("review.page", case_id=case_id, **as_query(filter_of(request.args))), 303)


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
    """Answer, and on to the next case; where only the verdict was hidden, first to what the model said.

    A late answer is a 409 and everything that was filled in.
    """
    filter_ = filter_of(request.args)
    try:
        with transaction() as session:
            shown = sights.sentences_for(session, person(), case_id)
            review = reviews.answer(session, person(), case_id, _fence(), _reply(shown))
    except NotFound as error:
        return _kept(error)
    except (LostLease, InvalidRequest) as error:
        return problems.beside(error, _page(case_id, error=error, typed=request.form))
    if reviews.reveals(review):
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
    if hours not in SPANS:
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


@pages.post("/dashboard/cases/<uuid:case_id>/report")
@requires_role(Role.MODERATOR)
def report(case_id: UUID) -> AnyResponse:
    """It is illegal: from now on only leads see it."""
    try:
        with transaction() as session:
            restrictions.report(session, person(), case_id, request.form.get("what"))
    except NotFound as error:
        return _kept(error)
    return to_next(filter_of(request.args), said="case_reported")


@pages.post("/dashboard/cases/<uuid:case_id>/lift")
@requires_role(Role.MODERATOR)
def lift(case_id: UUID) -> AnyResponse:
    """It is not illegal after all, says a lead."""
    with transaction() as session:
        restrictions.lift(session, person(), case_id)
    query = as_query(filter_of(request.args))
    return redirect(url_for("review.page", case_id=case_id, said="case_lifted", **query), 303)


@pages.errorhandler(OutdatedPage)
def outdated(error: OutdatedPage) -> AnyResponse:
    """Whoever has signed in again meanwhile gets the form again, with all that was typed; nothing is done."""
    case_id = (request.view_args or {}).get("case_id")
    if request.endpoint not in FORMS or case_id is None or person_or_none() is None:
        return problems.of(error)
    said = Forbidden("You have signed in again since this page was opened: send it once more.")
    try:
        return problems.beside(said, _page(case_id, error=said, typed=request.form))
    except TelltaleError:
        return _kept(error)


def _kept(error: TelltaleError) -> AnyResponse:
    """What was written in a form, and nothing of the case: it is not this person's to see, or not any more."""
    sent = request.form
    written = {words: sent[name] for name, words in WORDS.items() if sent.get(name, "").strip()}
    for name in sorted(name for name in sent if name.startswith("written-") and sent[name].strip()):
        written[f"Better words ({name.removeprefix('written-')})"] = sent[name]
    if not written:
        return problems.of(error)
    return problems.beside(error, render_template("cases/kept.html", error=error, written=written))


def _do(case_id: UUID, action: Action, *, said: str) -> AnyResponse:
    """What was filled in stays where it is too late."""
    try:
        with transaction() as session:
            action(session, person(), case_id, _fence())
    except NotFound as error:
        return _kept(error)
    except (LostLease, InvalidRequest) as error:
        return problems.beside(error, _page(case_id, error=error, typed=request.form))
    return to_next(filter_of(request.args), said=said)


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
        return Reply(
            Answer(sent.get("answer", "")),
            artifacts,
            (*graded, *added),
            sent.get("note"),
            sent.get("message"),
            disturbing=sent.get("disturbing") == "1",
        )
    except ValueError as error:
        raise InvalidRequest("Answer real, fake or cannot tell.") from error


def _as_json(error: Conflict | Forbidden) -> AnyResponse:
    response = problems.beside(error, json.dumps({"detail": error.message}))
    response.mimetype = "application/json"
    return response


def _page(case_id: UUID, *, error: TelltaleError | None = None, typed: MultiDict[str, str] | None = None) -> str:
    undo_id = id_in(request.args, "undo")
    with transaction() as session:
        seen = sights.sight(session, person(), case_id)
        mine = seen.claim is not None and seen.claim.user_id == person().user_id
        colleagues = reviews.colleagues(session, seen.case) if mine else ()
        # Of the case before, or of this one: answered with others, or loaded again.
        undoable = reviews.undoable(session, person(), undo_id or case_id)
        before = reviews.last_of(session, person(), case_id) if mine and typed is None else None
        is_lead = seen.case.tenant_id in person().tenant_ids_as(Role.LEAD)
        return render_template(
            "cases/page.html",
            seen=seen,
            other_verdicts=_other_verdicts(session, seen),
            others=likeness.others(session, seen.case, restricted=is_lead),
            case=seen.case,
            mine=mine,
            fence=_fence_shown(seen, mine=mine),
            waits=seen.case.status is CaseStatus.IN_REVIEW and seen.pending is None,
            colleagues=[user for user in colleagues if user.id != person().user_id],
            undoable=undoable,
            error=error,
            typed=typed if typed is not None else _typed_before(before, seen),
            query=as_query(filter_of(request.args)),
            stretch=wellness.stretch(session, person()) if mine else None,
            long_stretch=wellness.LONG_STRETCH,
            has_statement=statements.is_there(seen, is_lead=is_lead),
            may_lift=person().tenant_ids_as(Role.LEAD) >= {seen.case.tenant_id},
            heartbeat_s=int(claims.HEARTBEAT.total_seconds()),
            history=HISTORY,
            holds=SPANS,
            reasons=REASONS,
            whys={reason.value: words for reason, words in WHYS.items()},
            priorities=PRIORITIES,
            artifacts=list(Artifact),
            grades=list(Grade),
        )


def _other_verdicts(session: Session, seen: Sight) -> list[Verdict]:
    """What other versions said of the image, for whoever may see what the case's own said."""
    if Hidden.VERDICT in seen.hidden:
        return []
    return [each for each in rejudging.verdicts_of(session, seen.case) if each.id != seen.case.verdict_id]


def _fence_shown(seen: Sight, *, mine: bool) -> int | None:
    """Of the claim that this page stands for. A late answer's page stands for none until the case is taken again."""
    if request.method == "POST":
        return request.form.get("fence", type=int)
    return seen.claim.fence if mine and seen.claim else None


def _typed_before(review: Review | None, seen: Sight) -> MultiDict[str, Any]:
    """What this person said of the case before they took it back, as the form has it."""
    typed: MultiDict[str, Any] = MultiDict()
    if review is None or review.undone_at is None:
        return typed
    typed.setlist("artifact", list(review.artifacts))
    typed["note"] = review.note or ""
    typed["message"] = review.message or ""
    typed["disturbing"] = "1" if review.disturbing else ""
    typed["additions"] = "\n".join(s.written or "" for s in review.sentences if s.said is None)
    graded = {s.said: s for s in review.sentences if s.said is not None}
    for number, said in enumerate(seen.sentences):
        if said in graded:
            typed[f"grade-{number}"] = graded[said].grade
            typed[f"written-{number}"] = graded[said].written or ""
    return typed
