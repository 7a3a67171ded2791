"""The reckoning: what Postgres, the object store, the broker and the receivers hold, against what clients were told.

Everything that was accepted must have ended once, been told of, and left nothing behind. Times that the service set
itself for a later attempt are brought forward, so that minutes show what days would.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.chaos.platforms import Platform
from benchmarks.chaos.receivers import Received, Receivers
from benchmarks.chaos.stream import Shipment
from moderation import orphans
from moderation.db import transaction
from moderation.errors import NotFound
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.vocabulary import OUTBOUND, EventType

QUIET_PATIENCE_S = 150.0
LISTED = 1000
OF_IMAGES = ("originals/", "renditions/", "views/")
QUEUES = ("screening", "fetching", "delivery", "reviews", "housekeeping")
SETTLED = ("decided", "in_review")
LAST_WORDS = (EventType.DECISION_CREATED.value, EventType.CASE_IN_REVIEW.value)
TOLD = (EventType.SUBMISSION_ACCEPTED.value, EventType.VERDICT_COMPLETED.value)

# What must come to nothing before the reckoning begins.
UNDER_WAY = {
    "cases that wait": "SELECT count(*) FROM cases WHERE status IN ('fetching', 'queued', 'screening')",
    "cases that are leased": "SELECT count(*) FROM cases WHERE lease_until IS NOT NULL",
    "deliveries that are due": """
        SELECT count(*) FROM deliveries d JOIN endpoints e ON e.id = d.endpoint_id
        WHERE d.status = 'pending' AND e.disabled_at IS NULL""",
    "deliveries that are leased": "SELECT count(*) FROM deliveries WHERE lease_until > now()",
    "explanations asked for": "SELECT count(*) FROM explanation_requests",
    "second verdicts asked for": "SELECT count(*) FROM rejudgings",
}
# Which the service set itself; an endpoint that is disabled is left alone.
BROUGHT_FORWARD = (
    """UPDATE deliveries d SET next_attempt_at = now() FROM endpoints e
       WHERE e.id = d.endpoint_id AND e.disabled_at IS NULL AND d.status = 'pending' AND d.next_attempt_at > now()""",
    "UPDATE endpoints SET paused_until = NULL WHERE paused_until > now()",
    """UPDATE cases SET next_attempt_at = now()
       WHERE status IN ('fetching', 'queued', 'screening') AND next_attempt_at > now()""",
)


@dataclass(frozen=True)
class Violation:
    """One thing that must not be: of which kind, what, and the id by which to look for it in logs and audit trail."""

    kind: str
    what: str
    id: str | None = None


def under_way(settings: Settings) -> dict[str, int]:
    """What is still to be done, by kind; raises DBAPIError or RedisError while a service is away."""
    with transaction() as session:
        left = {name: int(session.execute(text(query)).scalar_one()) for name, query in UNDER_WAY.items()}
    with redis.Redis.from_url(settings.redis_url, socket_timeout=5, socket_connect_timeout=5) as broker:
        left["messages in the broker"] = sum(int(broker.llen(queue)) for queue in QUEUES)
    return {name: count for name, count in left.items() if count}


def wait_for_quiet(
    settings: Settings, busy: Callable[[], bool], meanwhile: Callable[[dict[str, int]], None]
) -> dict[str, int]:
    """Return once nothing is under way, or patience ends; what is left then."""
    deadline = time.monotonic() + QUIET_PATIENCE_S
    left = {"nothing known": 1}
    while time.monotonic() < deadline:
        try:
            bring_forward()
            left = under_way(settings)
        except (DBAPIError, redis.RedisError) as error:
            left = {f"{type(error).__name__}": 1}
        meanwhile(left)
        if not left and not busy():
            return {}
        time.sleep(1)
    return left


def bring_forward() -> None:
    """Make everything due that waits for a later attempt."""
    with transaction(wake=True) as session:
        for statement in BROUGHT_FORWARD:
            session.execute(text(statement))


class Ledger:
    """What the service holds at the end, read once."""

    def __init__(self, platforms: Sequence[Platform]) -> None:
        self.tenants = {platform.tenant_id: platform.name for platform in platforms}
        with transaction() as session:
            self.cases = session.execute(
                text("""
                SELECT c.id, s.external_id, c.tenant_id, c.status, c.verdict_id, c.failure_reason, c.failure_detail,
                       c.sequence, i.sha256
                FROM cases c JOIN submissions s ON s.id = c.submission_id LEFT JOIN images i ON i.id = c.image_id""")
            ).all()
            self.events = session.execute(
                text("""SELECT id, tenant_id, case_id, sequence, type, actor FROM events ORDER BY id""")
            ).all()
            self.endpoints = session.execute(
                text("SELECT id, tenant_id, url, created_at, disabled_at FROM endpoints ORDER BY id")
            ).all()
            self.verdicts = Counter(session.execute(text("SELECT image_id, model_version_id FROM verdicts")).all())
            self.images = session.execute(text("SELECT id, tenant_id, sha256, s3_key, bytes FROM images")).all()
        self.types: dict[UUID, Counter[str]] = defaultdict(Counter)
        for event in self.events:
            if event.case_id is not None:
                self.types[event.case_id][event.type] += 1


def reckon(
    shipments: Sequence[Shipment],
    ledger: Ledger,
    receivers: Receivers,
    steady: Mapping[str, Sequence[str]],
    storage: Storage,
) -> list[Violation]:
    """Everything that is not as it must be. `steady`: each platform's endpoints that were never gone."""
    return [
        *cases_of(shipments, ledger),
        *decisions_of(ledger),
        *told_of(shipments, ledger, receivers, steady),
        *ids_of(receivers),
        *stored(ledger, storage),
    ]


def cases_of(shipments: Sequence[Shipment], ledger: Ledger) -> Iterator[Violation]:
    """Every submission that was accepted has its one case, with its image and a verdict."""
    by_external_id: dict[str, list[Any]] = defaultdict(list)
    for opened in ledger.cases:
        by_external_id[opened.external_id].append(opened)
    for shipment in shipments:
        found = by_external_id[shipment.external_id]
        if shipment.refusal is not None:
            yield Violation("refused", f"a {shipment.way} was refused: {shipment.refusal}", shipment.external_id)
        if len(found) > 1:
            ids = ", ".join(str(case.id) for case in found)
            yield Violation("accepted twice", f"submission {shipment.external_id} has the cases {ids}", ids[:36])
        if shipment.case_id is None:
            continue
        case = next((one for one in found if str(one.id) == shipment.case_id), None)
        if case is None:
            yield Violation("lost", f"accepted as case {shipment.case_id}, which is not there", shipment.case_id)
        elif case.status not in SETTLED:
            why = f" ({case.failure_reason}: {case.failure_detail})" if case.failure_reason else ""
            yield Violation("lost", f"case {case.id} is {case.status}{why}", str(case.id))
        elif case.sha256 != shipment.sha256:
            yield Violation("lost", f"case {case.id} is of another image than was sent", str(case.id))


def decisions_of(ledger: Ledger) -> Iterator[Violation]:
    """Every case was judged once and settled once; every image has one verdict of each version."""
    for case in ledger.cases:
        types = ledger.types[case.id]
        settled = sum(types[word] for word in LAST_WORDS)
        if case.status in SETTLED and (settled, types["verdict.completed"]) != (1, 1):
            told = f"{types['verdict.completed']} verdicts and {settled} decisions"
            yield Violation("decided twice", f"case {case.id} has {told}", str(case.id))
        if case.status in SETTLED and case.verdict_id is None:
            yield Violation("lost", f"case {case.id} is {case.status} without a verdict", str(case.id))
    for (image_id, version), count in ledger.verdicts.items():
        if count > 1:
            yield Violation(
                "decided twice", f"image {image_id} has {count} verdicts of version {version}", str(image_id)
            )


def told_of(
    shipments: Sequence[Shipment], ledger: Ledger, receivers: Receivers, steady: Mapping[str, Sequence[str]]
) -> Iterator[Violation]:
    """Every endpoint that was there all along was told of every event; and of each case what clients expect."""
    for name, endpoints in steady.items():
        sent = {str(event.id): event for event in ledger.events if event.type in OUTBOUND}
        expected = {id_ for id_, event in sent.items() if ledger.tenants.get(event.tenant_id) == name}
        # What is not settled is lost, and need not be called missing too.
        settled = {str(case.id) for case in ledger.cases if case.status in SETTLED}
        accepted = {one.case_id for one in shipments if one.platform == name and one.case_id} & settled
        for endpoint in endpoints:
            got = list(receivers.of(endpoint))
            for id_ in expected - {one.webhook_id for one in got}:
                event = sent[id_]
                what = f"{event.type} {id_} of case {event.case_id} never came to {endpoint}"
                yield Violation("event missing", what, str(event.case_id or id_))
            yield from _unheard(accepted, got, endpoint)


def _unheard(accepted: set[str], got: Sequence[Received], endpoint: str) -> Iterator[Violation]:
    """Independently of what the service wrote down: acceptance, verdict and outcome of everything accepted."""
    heard: dict[str | None, set[str]] = defaultdict(set)
    for one in got:
        heard[one.case_id].add(one.type)
    for case_id in accepted:
        missing = [word for word in TOLD if word not in heard[case_id]]
        if heard[case_id].isdisjoint(LAST_WORDS):
            missing.append("the outcome")
        if missing:
            yield Violation("event missing", f"{endpoint} never heard {', '.join(missing)} of case {case_id}", case_id)


def ids_of(receivers: Receivers) -> Iterator[Violation]:
    """One event has one id and one body, however often it comes, and goes to its own tenant alone."""
    ids, bodies = defaultdict(set), defaultdict(set)
    for one in receivers.received:
        bodies[one.endpoint, one.webhook_id].add(one.body)
        if one.case_id is not None and one.sequence is not None:
            ids[one.endpoint, one.case_id, one.sequence].add(one.webhook_id)
        if one.tenant is not None and one.tenant != one.endpoint.partition(".")[0]:
            yield Violation("leaked", f"{one.endpoint} was sent event {one.webhook_id} of {one.tenant}", one.case_id)
    for (endpoint, webhook_id), seen in bodies.items():
        if len(seen) > 1:
            yield Violation("two bodies", f"event {webhook_id} came to {endpoint} with {len(seen)} bodies", webhook_id)
    for (endpoint, case_id, sequence), seen in ids.items():
        if len(seen) > 1:
            what = f"event {sequence} of case {case_id} came to {endpoint} under the ids {', '.join(sorted(seen))}"
            yield Violation("two ids", what, case_id)
    for refusal in receivers.refused:
        yield Violation("bad signature", refusal)


def stored(ledger: Ledger, storage: Storage) -> Iterator[Violation]:
    """Every image is there as it was sent."""
    for image in ledger.images:
        try:
            data = storage.get(image.s3_key, max_bytes=image.bytes)
        except NotFound:
            yield Violation("image lost", f"image {image.id} has no object {image.s3_key}", str(image.id))
            continue
        if hashlib.sha256(data).hexdigest() != image.sha256:
            yield Violation("image damaged", f"image {image.id} is not what was sent", str(image.id))


def sweep(ledger: Ledger, storage: Storage) -> tuple[int, list[Violation]]:
    """Sweep as if a day had passed; how many orphans there were, and those that are still there."""
    before = strangers(ledger, storage)
    sweeping = orphans.Sweep(older_than=timedelta(0))
    sweeping.turn(storage)
    while not sweeping.at_start:
        sweeping.turn(storage)
    left = strangers(ledger, storage)
    return len(before), [Violation("orphan", f"{key} is of no image, and was not swept", key) for key in left]


def strangers(ledger: Ledger, storage: Storage) -> list[str]:
    """What is in the bucket under the keys of images, and of none that there is."""
    images, found = {str(image.id) for image in ledger.images}, []
    for kind in OF_IMAGES:
        page = storage.listed(kind, after="", limit=LISTED)
        while page:
            found += [one.key for one in page if one.key.split("/")[2] not in images]
            page = storage.listed(kind, after=page[-1].key, limit=LISTED)
    return found
