"""What a process counts and times of its own work, under the names that dashboards and alerts know (docs/metrics.md).

A label has few values, all known beforehand or named by whoever runs the service: never a tenant, a person, an id or
an address. Counting costs a microsecond or two, so it may be done wherever something happens. What stands in Postgres
is not counted here but read there (moderation/measures.py). It does not know who serves the numbers, nor to whom.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram, disable_created_metrics

# When a counter began is told by its process's start; a series each would double what is stored.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Seconds. A request is answered in milliseconds or waits for a verdict; a task may judge a full batch, or read a link.
_OF_REQUESTS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OF_TASKS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_OF_BATCHES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_OF_TURNS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
# From moments to the days of the retry schedule (moderation/attempts.py).
_OF_DELIVERIES = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 36_000, 86_400, 259_200)

HTTP_REQUESTS = Counter(
    "telltale_http_requests_total",
    "Requests answered, by the rule of their route; `unknown` is every path that has none.",
    ["method", "route", "status"],
)
HTTP_REQUEST_SECONDS = Histogram(
    "telltale_http_request_seconds",
    "From the head of a request to the head of its answer, without what its sender asked to wait.",
    ["method", "route"],
    buckets=_OF_REQUESTS,
)

TASKS = Counter(
    "telltale_tasks_total",
    "Tasks that ended: done, lost (somebody else has it now) or failed.",
    ["task", "outcome"],
)
TASK_SECONDS = Histogram("telltale_task_seconds", "How long a task took.", ["task"], buckets=_OF_TASKS)

BATCH_IMAGES = Histogram(
    "telltale_batch_images", "Images in one batch of the model.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
BATCH_SECONDS = Histogram(
    "telltale_batch_seconds",
    "How long a batch took to be scored, and then to be explained where any of it was.",
    ["stage"],
    buckets=_OF_BATCHES,
)
IMAGES_JUDGED = Counter("telltale_images_judged_total", "Images that the model judged.", ["model_version", "engine"])
VERDICTS = Counter(
    "telltale_verdicts_total",
    "Verdicts by label; `none` is an answer in other words than real or fake, which is a review.",
    ["model_version", "label"],
)
P_FAKE = Histogram(
    "telltale_p_fake",
    "The calibrated scores of verdicts with a label.",
    ["model_version"],
    buckets=tuple(tenth / 10 for tenth in range(1, 11)),
)

DECISIONS = Counter(
    "telltale_decisions_total",
    "Decisions: by the policy, or by people in a review, a second opinion, an audit or an appeal.",
    ["by", "label"],
)
ABSTAINED = Counter("telltale_abstained_total", "Cases that the policy did not decide: they went to review.")

DELIVERY_ATTEMPTS = Counter(
    "telltale_delivery_attempts_total",
    "Attempts to deliver a webhook: delivered, refused (an answer other than 2xx), unreachable, or not_sent by us.",
    ["outcome"],
)
DELIVERY_LAG_SECONDS = Histogram(
    "telltale_delivery_lag_seconds",
    "From an event to its delivery, retries and replays included.",
    buckets=_OF_DELIVERIES,
)

RELAY_OFFERED = Counter("telltale_relay_offered_total", "What the broker was told of.", ["queue"])
RELAY_TURN_SECONDS = Histogram("telltale_relay_turn_seconds", "How long a turn of the relay took.", buckets=_OF_TURNS)
