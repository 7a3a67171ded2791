"""What a demo run showed: a table for a terminal of 100 columns, and one line of counts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from infra.demo.shipments import Shipment
from infra.printing import COLOURS

# About three lines of the explanation's column at 100 columns.
SHORT = 96
OPENING = re.compile(r"\AThis is a (real|fake) image\.\s*")
WIDTH = 100


def results(shipments: Sequence[Shipment], *, columns: int, wide: bool) -> Table:
    """A row for each shipment, in at most `columns` or WIDTH; `wide` takes all columns and keeps explanations whole."""
    width = columns if wide else min(columns, WIDTH)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, width=width)
    made.add_column("image\n(truth, sent by)", overflow="fold", max_width=24)
    made.add_column("label")
    made.add_column("p_fake", justify="right")
    made.add_column("explanation", ratio=1)
    made.add_column("decision", no_wrap=True)
    made.add_column("ms", justify="right")
    made.add_column("webhook\nverified")
    for shipment in shipments:
        made.add_row(*_cells(shipment, wide=wide))
    return made


def _cells(shipment: Shipment, *, wide: bool) -> list[Text]:
    verdict = shipment.verdict
    took = shipment.milliseconds
    return [
        _two_lines(Text(shipment.sample.name), f"{shipment.sample.truth}, {shipment.way}"),
        _word(verdict.get("label")),
        Text(f"{verdict['p_fake']:.3f}" if verdict else ""),
        _explanation(shipment, wide=wide),
        _decision(shipment),
        Text("" if took is None else str(took)),
        Text("yes", "green") if shipment.verified else Text("no", "red"),
    ]


def _explanation(shipment: Shipment, *, wide: bool) -> Text:
    complaint = shipment.complaint()
    if complaint:
        return Text(complaint, "red")
    text = shipment.verdict["explanation"]
    return Text(text if wide else shortened(text))


def shortened(explanation: str) -> str:
    """Its first sentence beyond the one that repeats the label, with … where there is more."""
    text = OPENING.sub("", explanation) or explanation
    first, more, _ = text.partition(". ")
    return textwrap.shorten(f"{first}. …" if more else first, SHORT, placeholder=" …")


def _decision(shipment: Shipment) -> Text:
    case = shipment.case
    if case.get("decision"):
        return _two_lines(_word(case["decision"]["label"]), f"by {case['decision']['by']}")
    if case.get("review_reason"):
        return _two_lines(Text("in review", COLOURS["in_review"]), case["review_reason"])
    return _word(case.get("status") or "refused")


def _word(word: str | None) -> Text:
    return Text(word or "", COLOURS.get(word or "", ""))


def _two_lines(first: Text, second: str) -> Text:
    return Text.assemble(first, "\n", (second, "dim"))


def last_line(shipments: Sequence[Shipment]) -> str:
    """The counts, in words that scripts may rely on."""
    return (
        f"demo: {sum(s.submitted for s in shipments)} submitted, {sum(s.settled for s in shipments)} settled, "
        f"{sum(s.explained for s in shipments)} explained, {sum(s.verified for s in shipments)} webhooks verified, "
        f"{sum(not s.succeeded for s in shipments)} failed"
    )
