"""The parts of the insight page: each is a plot, its numbers as a table, and how to read them in a sentence or two.

How things are counted is said in moderation/insight.py and moderation/accuracy.py, how shares are estimated in
moderation/estimates.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property

from sqlalchemy.orm import Session

from api.dashboard import figures, plots
from api.dashboard.figures import Table
from api.dashboard.plots import Plot, Series
from moderation import accuracy, insight
from moderation.accuracy import WithModel
from moderation.estimates import FEWEST, Interval, Share
from moderation.insight import Outcome, Selection, Speed
from moderation.vocabulary import Label

MOST_ROWS = 8
TONES = {
    Outcome.POLICY_REAL: "good",
    Outcome.POLICY_FAKE: "bad",
    Outcome.MODERATOR_REAL: "good-soft",
    Outcome.MODERATOR_FAKE: "bad-soft",
    Outcome.IN_REVIEW: "warn",
    Outcome.FAILED: "ink",
    Outcome.UNDER_WAY: "edge",
}
BLIND, SEEING = Series("had not seen the verdict", "accent", ()), Series("had seen it", "edge", ())
BY_POLICY = (Outcome.POLICY_REAL, Outcome.POLICY_FAKE)
BY_MODERATOR = (Outcome.MODERATOR_REAL, Outcome.MODERATOR_FAKE)


@dataclass(frozen=True)
class Part:
    """One part of the page: `says` is the plot in a sentence; `notes` how to read it, `method` how it is estimated."""

    title: str
    says: str
    table: Table
    plot: Plot | None = None
    notes: tuple[str, ...] = ()
    method: tuple[str, ...] = ()


class Found:
    """What was counted for a selection, each of it once however many parts show it."""

    def __init__(self, session: Session, selection: Selection) -> None:
        self._session = session
        self.selection = selection
        self.now = datetime.now(UTC)

    @cached_property
    def arrivals(self) -> insight.Arrivals:
        return insight.arrivals(self._session, self.selection)

    @property
    def volume(self) -> Sums:
        return Sums(dict(self.arrivals.by_day))

    @cached_property
    def backlog(self) -> insight.Backlog:
        return insight.backlog(self._session, self.selection, self.now)

    @property
    def automatic(self) -> Speed:
        return self.arrivals.automatic

    @cached_property
    def reviewed(self) -> Speed:
        return insight.review_speed(self._session, self.selection)

    @cached_property
    def audits(self) -> accuracy.Audits:
        return accuracy.audits(self._session, self.selection)

    @cached_property
    def reviewers(self) -> accuracy.Reviewers:
        return accuracy.reviewers(self._session, self.selection)


@dataclass(frozen=True)
class Sums:
    """What several parts show of the days: counts by outcome."""

    by_day: dict[date, Mapping[Outcome, int]]

    def of(self, *outcomes: Outcome) -> list[float | None]:
        """By day."""
        return [sum(counts.get(outcome, 0) for outcome in outcomes) for counts in self.by_day.values()]

    def all_of(self, *outcomes: Outcome) -> int:
        """Together."""
        return sum(counts.get(outcome, 0) for counts in self.by_day.values() for outcome in outcomes)


def _volume(found: Found) -> Part:
    sums = found.volume
    arrived = sums.all_of(*Outcome)
    shown = [outcome for outcome in Outcome if sums.all_of(outcome)]
    return Part(
        "Cases by day of arrival",
        f"{arrived:,} cases arrived; what has become of them since.",
        Table(
            "volume",
            "Cases by day of arrival and what has become of them",
            ["Day", *(outcome.value for outcome in Outcome)],
            [[str(day), *(counts.get(outcome, 0) for outcome in Outcome)] for day, counts in sums.by_day.items()],
        ),
        plots.bars(list(sums.by_day), [Series(one.value, TONES[one], sums.of(one)) for one in shown]),
    )


def _sources(found: Found) -> Part:
    sums = found.volume
    policy, people = sums.all_of(*BY_POLICY), sums.all_of(*BY_MODERATOR)
    decided = policy + people
    by = {"policy": sums.of(*BY_POLICY), "moderators": sums.of(*BY_MODERATOR)}
    return Part(
        "Who decided",
        f"The policy decided {figures.percent(policy / decided)} of {decided:,} decided cases."
        if decided
        else "Nothing has been decided.",
        Table(
            "sources",
            "Decided cases by day of arrival and by who decided them",
            ["Day", *by],
            [[str(day), *row] for day, *row in zip(sums.by_day, *by.values(), strict=True)],
        ),
        plots.bars(
            list(sums.by_day), [Series(name, tone, by[name]) for name, tone in zip(by, ("accent", "warn"), strict=True)]
        ),
    )


def _backlog(found: Found) -> Part:
    depths = found.backlog.depths
    now = depths[found.selection.last]
    return Part(
        "In review at the end of each day",
        f"{now:,} {'waits' if now == 1 else 'wait'} now.",
        Table(
            "backlog",
            "Cases in review at the end of each day, UTC; today: now",
            ["Day", "in review"],
            [[str(day), depth] for day, depth in depths.items()],
        ),
        plots.lines(list(depths), [Series("in review", "warn", list(depths.values()))]),
    )


def _waiting(found: Found) -> Part:
    waits, since = found.backlog.waits, found.backlog.oldest
    oldest = figures.span((found.now - since).total_seconds()) if since else None
    return Part(
        "How long they have waited",
        f"The oldest has waited for {oldest}." if oldest else "Nothing waits.",
        Table(
            "waiting",
            "Cases in review now, by how long they have waited",
            ["Waited", "cases"],
            list(waits.items()),
        ),
        plots.waits(waits, "warn"),
    )


def _automatic(found: Found) -> Part:
    what = "From arrival to the policy's decision."
    return _speed("automatic", "Time to automatic decision", found.automatic, found.selection, what)


def _reviewed(found: Found) -> Part:
    what = "From arrival to a person's answer."
    return _speed("reviewed", "Time to decision by review", found.reviewed, found.selection, what)


def _speed(name: str, title: str, speed: Speed, selection: Selection, what: str) -> Part:
    days = [speed.by_day.get(day) for day in selection.days]
    half, most = [day.p50 if day else None for day in days], [day.p95 if day else None for day in days]
    return Part(
        title,
        f"Half within {figures.span(speed.whole.p50)}, 19 of 20 within {figures.span(speed.whole.p95)}; "
        f"{speed.whole.n:,} decisions."
        if speed.whole
        else "Nothing was decided this way.",
        Table(
            name,
            f"{title}, seconds",
            ["Day", "decisions", "p50, s", "p95, s"],
            [
                [str(day), times.n if times else 0, p50 and round(p50, 2), p95 and round(p95, 2)]
                for day, times, p50, p95 in zip(selection.days, days, half, most, strict=True)
            ],
        ),
        plots.durations(selection.days, [Series("p50", "accent", half), Series("p95", "edge", most)])
        if speed.whole
        else None,
        (what,),
        ("Half of the decisions took at most p50, 19 of 20 at most p95; counted to half a hundredth.",),
    )


def _accuracy(found: Found) -> Part:
    audits = found.audits
    wrong, words = audits.errors.found, figures.too_few(audits.errors, "audits")
    right = Interval(1 - wrong.value, 1 - wrong.high, 1 - wrong.low) if wrong else None
    rows: list[tuple[str, Share, str]] = []
    for label, tone in ((Label.FAKE, "bad"), (Label.REAL, "good")):
        rows.append((f"Decided {label.value}, and is", audits.precision[label], tone))
        rows.append((f"Is {label.value}, and decided so", audits.recall[label], tone))
    drawn = [(name, [(one.found, figures.too_few(one, "audits"), tone)]) for name, one, tone in rows]
    aside = [f"{audits.waiting:,} sampled and not answered yet" if audits.waiting else "", _unclear(audits.unclear)]
    return Part(
        "How often automatic decisions are right",
        f"Wrong: {figures.share(audits.errors, 'audits')}, by {audits.errors.n:,} audits."
        if audits.errors.found
        else f"Nobody can tell yet: {figures.too_few(audits.errors, 'audits')}.",
        Table(
            "accuracy",
            "What audits say of automatic decisions",
            ["Share", "audits", "estimate", "95 % from", "95 % to"],
            [["Wrong, of all", *figures.cells(audits.errors)], *([name, *figures.cells(one)] for name, one, _ in rows)],
        ),
        plots.intervals([("Right, of all", [(right, words, "accent")]), *drawn], ()) if audits.errors.n else None,
        (
            "The rate of error of automated means that Article 15(1)(e) of the Digital Services Act asks for."
            + ("" if audits.errors.n else " No automatic decision has been audited: set an audit share."),
            *(f"Not counted: {note}." for note in aside if note),
        ),
        (
            "Decisions of the policy are sampled at random, and answered by people who do not see them.",
            "Estimate: ratio of weighted sums, each audit weighted with 1 / its sampling probability (Hájek 1971). "
            "Interval, 95 %: Wilson's score (1927) with Kish's effective sample size (1965). "
            f"Below {FEWEST} audits nothing is said.",
        ),
    )


def _unclear(count: int) -> str:
    return f"{count:,} of which nobody could tell" if count else ""


def _opinions(found: Found) -> Part:
    both = found.reviewers.opinions
    given = sorted(found.reviewers.pairs.items(), key=lambda pair: -pair[1])
    pairs = {f"{first} / {second}".replace("_", " "): count for (first, second), count in given}
    if both.kappa is not None:
        kappa = f"Cohen’s kappa {both.kappa.value:.2f} ({both.kappa.low:.2f} to {both.kappa.high:.2f})"
    elif both.n >= FEWEST:
        kappa = "Cohen’s kappa is not defined: everybody gave one and the same answer"
    else:
        kappa = f"Cohen’s kappa: {figures.too_few(both.share, 'second opinions')}"
    equal = f" The same answer in {figures.share(both.share)} of {both.n:,} pairs." if both.share.found else ""
    return Part(
        "Do reviewers agree with each other?",
        f"{kappa}.{equal}",
        Table(
            "opinions",
            "First and second opinions",
            ["First / second", "cases"],
            list(pairs.items()),
        ),
        plots.waits(pairs, "accent") if pairs else None,
        notes=(
            "Second opinions are given by somebody else, who has not seen the first. A kappa of 1 is always the same "
            "answer, 0 is what chance alone would do.",
        ),
        method=(
            "Kappa: Cohen (1960), of the answers real, fake and cannot tell. Its interval, 95 %: the large-sample "
            "variance of Fleiss, Cohen and Everitt (1969). Interval of the share: Wilson (1927).",
        ),
    )


def _categories(found: Found) -> Part:
    rows = {"all": found.reviewers.with_model, **found.reviewers.by_category}
    return _agreement("categories", "by category", rows)


def _versions(found: Found) -> Part:
    return _agreement("versions", "by model version", found.reviewers.by_version)


def _agreement(name: str, how: str, rows: Mapping[str, WithModel]) -> Part:
    drawn = [
        (
            row if len(row) <= 22 else f"{row[:21]}…",
            [
                (one.found, figures.too_few(one), tone)
                for one, tone in ((found.blind, "accent"), (found.seeing, "edge"))
            ],
        )
        for row, found in list(rows.items())[:MOST_ROWS]
    ]
    columns = [f"{who}: {what}" for who in ("blind", "seeing") for what in ("answers", "agree", "from", "to")]
    return Part(
        f"Do reviewers agree with the model? {how.capitalize()}",
        "How often a review’s answer is the verdict’s label."
        + (f" The first {MOST_ROWS} are drawn; all are in the table." if len(rows) > MOST_ROWS else ""),
        Table(
            name,
            f"Agreement of reviews with the model, {how}",
            [how.removeprefix("by ").capitalize(), *columns, "could not tell"],
            [
                [row, *figures.cells(found.blind), *figures.cells(found.seeing), found.unclear]
                for row, found in rows.items()
            ],
        ),
        plots.intervals(drawn, (BLIND, SEEING)) if any(row.blind.n + row.seeing.n for row in rows.values()) else None,
        (
            "Who has seen the verdict tends to follow it, so those answers are kept apart. Most reviewed cases are "
            "those the model was unsure of: this is not how often it is right.",
        ),
        (f"Answers of cannot tell are left out. Interval, 95 %: Wilson (1927). Below {FEWEST} nothing is said.",),
    )


PARTS: dict[str, Callable[[Found], Part]] = {
    "volume": _volume,
    "accuracy": _accuracy,
    "sources": _sources,
    "opinions": _opinions,
    "backlog": _backlog,
    "waiting": _waiting,
    "automatic": _automatic,
    "reviewed": _reviewed,
    "categories": _categories,
    "versions": _versions,
}
