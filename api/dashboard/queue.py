"""`/dashboard/queue`: the cases in review that wait for this person, by filter or by name, and the next of them.

Leads do the same to many at once (`/dashboard/queue/bulk`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from api.auth import requires_role
from api.dashboard.access import person
from moderation import bulk, claims, queue, reviews, sights
from moderation.bulk import Outcome
from moderation.db import transaction
from moderation.errors import InvalidRequest
from moderation.queue import Entry, Filter, Place
from moderation.reviews import Reply
from moderation.vocabulary import Answer, CaseStatus, Priority, ReviewReason, Role

pages = Blueprint("queue", __name__)

REASONS = {
    ReviewReason.UNCERTAIN: "uncertain",
    ReviewReason.UNPARSABLE: "no clear answer",
    ReviewReason.APPEAL: "appeal",
    ReviewReason.SECOND_OPINION: "second opinion",
    ReviewReason.AUDIT: "audit",
}
PRIORITIES = list(Priority)
# Hours, in words: how old cases are, and for how long they are put aside.
SPANS = {1: "1 hour", 4: "4 hours", 24: "1 day", 72: "3 days", 168: "1 week"}


@dataclass(frozen=True)
class Choice:
    """One list of the filter; `options` are values and their words."""

    name: str
    label: str
    value: str
    options: Mapping[str, str]


@pages.get("/dashboard/queue")
@requires_role(Role.MODERATOR)
def page() -> str:
    """One page of the queue, or what was searched for."""
    return _page()


@pages.post("/dashboard/queue/bulk")
@requires_role(Role.LEAD)
def act_on_many() -> str:
    """Do something to the selected cases, and show the same page again with what became of it."""
    action = _ACTIONS.get(request.form.get("do", ""))
    if action is None:
        raise InvalidRequest("Choose what to do with the selected cases.")
    try:
        chosen = [UUID(id_) for id_ in request.form.getlist("case")]
    except ValueError as error:
        raise InvalidRequest("A selected case is not one of the queue's: load the page again.") from error
    return _page(bulk.do(person(), chosen, action()))


def _page(outcome: Outcome | None = None) -> str:
    filter_ = filter_of(request.args)
    after = request.args.get("after")
    term = request.args.get("q", "").strip().replace("\x00", "")
    answered = id_in(request.args, "undo")
    with transaction() as session:
        totals = queue.totals(session, person(), filter_)
        if term:
            shown = queue.found(session, person(), term)
            swaying = sights.swaying(session, person(), {one.image_id for one in shown if one.image_id})
            shown = [_unswayed(one, swaying) for one in shown]
        else:
            place = _place(after)
            shown = queue.page(session, person(), filter_, after=place, limit=queue.PAGE + 1, rare=totals.count)
        entries = shown[: queue.PAGE]
        return render_template(
            "cases/queue.html",
            entries=entries,
            totals=totals,
            filter=filter_,
            query=as_query(filter_),
            choices=_choices(queue.choices(session, person()), as_query(filter_)),
            stranded=queue.stranded(session, person()),
            term=term,
            after=after,
            following=_cursor(entries[-1].place) if not term and len(shown) > queue.PAGE else None,
            # The answer just given, where the queue was empty after it.
            undoable=reviews.undoable(session, person(), answered) if answered else None,
            # What leads may select, and to whom they may hand it.
            led=person().tenant_ids_as(Role.LEAD),
            colleagues=queue.colleagues(session, person()),
            outcome=outcome,
            platforms=platforms(),
            reasons=REASONS,
            priorities=PRIORITIES,
            spans=SPANS,
            most=bulk.MOST,
        )


def platforms() -> dict[UUID, str]:
    """The names of those that the person works for: looked up for each line of a list."""
    return {member.tenant_id: member.tenant for member in person().memberships}


def _unswayed(entry: Entry, swaying: set[UUID]) -> Entry:
    """Without how it ended, where that would tell what is hidden of another case of such an image."""
    tells = entry.status is CaseStatus.DECIDED and entry.image_id in swaying
    return replace(entry, score=None, hidden=True) if tells else entry


def _choices(there: queue.Choices, query: Mapping[str, str]) -> list[Choice]:
    """The lists of the filter. One with nothing to choose between is left out, unless it is what is filtered by."""
    lists = {
        "tenant": ("Platform", {str(id_): name for id_, name in platforms().items()}),
        "reason": ("Reason", {reason.value: words for reason, words in REASONS.items()}),
        "category": ("Category", {category: category for category in there.categories}),
        "version": ("Model", {str(id_): name for id_, name in there.versions.items()}),
        "priority": ("Priority", {priority.value: priority.value for priority in reversed(PRIORITIES)}),
        "age": ("Older than", {str(hours): words for hours, words in SPANS.items()}),
    }
    made = [Choice(name, label, query.get(name, ""), options) for name, (label, options) in lists.items()]
    return [choice for choice in made if choice.value or len(choice.options) > 1]


def _hand_on() -> bulk.Action:
    to = id_in(request.form, "to")
    if to is None:
        raise InvalidRequest("Choose to whom.")
    return bulk.hand_on(to)


def _hold() -> bulk.Action:
    hours = request.form.get("hours", type=int)
    if hours not in SPANS:
        raise InvalidRequest("Choose for how long.")
    return bulk.hold(timedelta(hours=hours))


def _prioritise() -> bulk.Action:
    try:
        return bulk.prioritise(Priority(request.form.get("priority", "")))
    except ValueError as error:
        raise InvalidRequest("Choose a priority.") from error


def _answer() -> bulk.Action:
    try:
        return bulk.answer(Reply(Answer(request.form.get("answer", "")), note=request.form.get("note")))
    except ValueError as error:
        raise InvalidRequest("Answer real, fake or cannot tell.") from error


_ACTIONS: Mapping[str, Callable[[], bulk.Action]] = {
    "reassign": _hand_on,
    "hold": _hold,
    "escalate": bulk.to_lead,
    "prioritise": _prioritise,
    "answer": _answer,
}


@pages.post("/dashboard/queue/next")
@requires_role(Role.MODERATOR)
def take_next() -> AnyResponse:
    """Claim the next case and open it."""
    return to_next(filter_of(request.args))


def to_next(filter_: Filter, *, said: str | None = None, undo: UUID | None = None) -> AnyResponse:
    """On to the next case, or to the queue where none is left; `said` and `undo` are for what was done before."""
    with transaction() as session:
        taken = claims.claim_next(session, person(), filter_)
    known = {**as_query(filter_), **({"undo": str(undo)} if undo else {})}
    if taken is None:
        return redirect(url_for("queue.page", said=said or ("queue_done" if not undo else None), **known), 303)
    return redirect(url_for("review.page", case_id=taken.case_id, said=said, **known), 303)


def filter_of(sent: Mapping[str, str]) -> Filter:
    """The filter in an address. Raises InvalidRequest for what no link or form of ours says."""
    try:
        return Filter(
            tenant_id=id_in(sent, "tenant"),
            reason=ReviewReason(sent["reason"]) if sent.get("reason") else None,
            category=sent["category"].replace("\x00", "") if sent.get("category") else None,
            model_version_id=id_in(sent, "version"),
            priority=Priority(sent["priority"]).rank if sent.get("priority") else None,
            score_from=_score(sent.get("from")),
            score_to=_score(sent.get("to")),
            older_than=_age(sent.get("age")),
            mine=sent.get("mine") == "1",
            held=sent.get("held") == "1",
        )
    except ValueError as error:
        raise InvalidRequest("This filter is not one of the queue's: choose anew.") from error


def as_query(filter_: Filter) -> dict[str, str]:
    """A filter as the parameters of an address."""
    said = {
        "tenant": filter_.tenant_id,
        "reason": filter_.reason,
        "category": filter_.category,
        "version": filter_.model_version_id,
        "priority": None if filter_.priority is None else PRIORITIES[filter_.priority],
        "from": filter_.score_from,
        "to": filter_.score_to,
        "age": filter_.older_than // timedelta(hours=1) if filter_.older_than else None,
        "mine": "1" if filter_.mine else None,
        "held": "1" if filter_.held else None,
    }
    return {name: str(value) for name, value in said.items() if value is not None}


def id_in(sent: Mapping[str, str], name: str) -> UUID | None:
    """An id that may be there. Raises InvalidRequest for what is none."""
    value = sent.get(name)
    try:
        return UUID(value) if value else None
    except ValueError as error:
        raise InvalidRequest(f"{name} is not an id.") from error


def _score(text: str | None) -> float | None:
    if not text:
        return None
    score = float(text)
    if not 0 <= score <= 1:
        raise ValueError("a score lies between 0 and 1")
    return score


def _age(text: str | None) -> timedelta | None:
    if not text:
        return None
    if int(text) not in SPANS:
        raise ValueError("an age is one of those that the form offers")
    return timedelta(hours=int(text))


def _cursor(place: Place) -> str:
    return f"{place.case_id}~{PRIORITIES[place.priority].value}~{place.since.isoformat()}"


def _place(cursor: str | None) -> Place | None:
    """Raises InvalidRequest for a cursor that is not one of ours. It grants nothing: only one's own cases are shown."""
    if cursor is None:
        return None
    try:
        case_id, priority, since = cursor.split("~")
        return Place(UUID(case_id), Priority(priority).rank, datetime.fromisoformat(since))
    except ValueError as error:
        raise InvalidRequest("This page of the queue is not known: begin with the first.") from error
