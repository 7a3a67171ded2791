"""What a screening worker counts of its work: batches, and what was said of the images in them."""

from __future__ import annotations

from model.batcher import Ran
from model.detector import Verdict
from moderation import metrics, policy
from moderation.policy import Thresholds
from moderation.vocabulary import ReviewReason

NO_LABEL = "none"


def ran(batch: Ran) -> None:
    """A batch has been judged."""
    metrics.BATCH_IMAGES.observe(batch.images)
    metrics.BATCH_SECONDS.labels("score").observe(batch.score_s)
    if batch.explain_s is not None:
        metrics.BATCH_SECONDS.labels("explain").observe(batch.explain_s)


def judged(verdict: Verdict, thresholds: Thresholds) -> None:
    """An image has been judged. A score that its policy takes for none is in no histogram."""
    metrics.IMAGES_JUDGED.labels(verdict.model_version, verdict.engine).inc()
    is_none = policy.judge(verdict.p_fake, verdict.pair_mass, thresholds).review is ReviewReason.UNPARSABLE
    metrics.VERDICTS.labels(verdict.model_version, NO_LABEL if is_none else verdict.label).inc()
    if not is_none:
        metrics.P_FAKE.labels(verdict.model_version).observe(verdict.p_fake)
