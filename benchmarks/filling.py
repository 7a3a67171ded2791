"""A database full of cases, written by the database itself: what a busy year leaves, a fifth of it in review.

The spread of priorities, reasons, ages and the rest is drawn, always the same way. Nothing has bytes behind it.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from moderation import backlog, model_versions
from moderation.db import engine, transaction

VERSIONS = ("2026-10", "2026-11", "2026-12")
# Each with how many of a hundred cases have it.
CATEGORIES = {"people": 35, "products": 20, "news": 12, "art": 8, "animals": 3, "documents": 1, "maps": 1}

# Drawn first, so that all that belongs to one case is drawn once.
DRAWN = """
CREATE TEMPORARY TABLE drawn ON COMMIT DROP AS
SELECT n, gen_random_uuid() AS image_id, gen_random_uuid() AS submission_id, gen_random_uuid() AS verdict_id,
       uuidv7(make_interval(secs => -(2000000 - n))) AS case_id,
       (SELECT ids[1 + floor(cardinality(ids) * random() ^ 1.6 + 0 * n)::int] FROM tenants_) AS tenant_id,
       (SELECT ids[(ARRAY[1, 1, 1, 1, 1, 1, 1, 2, 2, 3])[1 + floor(10 * random() + 0 * n)::int]] FROM versions)
           AS version_id,
       (ARRAY[0, 1, 1, 1, 1, 1, 1, 1, 2, CASE WHEN random() < 0.2 THEN 3 ELSE 1 END])[1 + floor(10 * random())::int]
           AS priority,
       n % 5 = 0 AS in_review,
       CASE WHEN random() < 0.85 THEN 'uncertain'
            ELSE (ARRAY['unparsable', 'appeal', 'second_opinion', 'audit'])[1 + floor(4 * random())::int] END AS reason,
       (CAST(:categories AS text[]))[1 + floor(100 * random())::int] AS category,
       0.15 + 0.7 * random() AS score,
       now() - interval '30 days' * random() ^ 2 AS settled_at,
       random() < 0.01 AS restricted, random() < 0.02 AS escalated, random() < 0.005 AS held, random() < 0.1 AS blind
FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
"""
SOURCES = """
CREATE TEMPORARY TABLE tenants_ ON COMMIT DROP AS SELECT array_agg(id ORDER BY name) AS ids FROM tenants;
CREATE TEMPORARY TABLE versions ON COMMIT DROP AS SELECT array_agg(id ORDER BY name) AS ids FROM model_versions;
SELECT setseed(0.5)
"""
FILL = (
    """
INSERT INTO images (id, tenant_id, sha256, s3_key, media_type, width, height, frames, bytes)
SELECT image_id, tenant_id, encode(sha256(image_id::text::bytea), 'hex'), 'originals/' || image_id, 'image/jpeg', 1024,
       768, 1, 200000
FROM drawn
""",
    """
INSERT INTO submissions (id, tenant_id, external_id, metadata, request_id)
SELECT submission_id, tenant_id, 'post-' || n, json_build_object('category', category, 'page', n), 'req_' || n
FROM drawn
""",
    """
INSERT INTO verdicts (id, image_id, model_version_id, label, p_fake, logit, pair_mass, engine, dtype)
SELECT verdict_id, image_id, version_id, CASE WHEN score < 0.5 THEN 'real' ELSE 'fake' END, score, score - 0.5, 0.99,
       'transformers', 'bfloat16'
FROM drawn
""",
    """
INSERT INTO explanations (id, verdict_id, model_version_id, text)
SELECT gen_random_uuid(), verdict_id, version_id,
       'This is a fake image. The left hand has six fingers. Light falls from two sides. The text is not legible.'
FROM drawn
""",
    """
INSERT INTO cases (id, tenant_id, submission_id, image_id, verdict_id, model_version_id, status, priority, sequence,
                   review_reason, label, decided_by, policy_label, category, restricted, score, blind,
                   blind_probability, held_until, escalated_at, assigned_to, settled_at, queued_at, created_at)
SELECT case_id, tenant_id, submission_id, image_id, verdict_id, version_id,
       CASE WHEN in_review THEN 'in_review' ELSE 'decided' END, priority, 3, CASE WHEN in_review THEN reason END,
       CASE WHEN NOT in_review OR reason IN ('appeal', 'audit') THEN 'fake' END,
       CASE WHEN NOT in_review OR reason IN ('appeal', 'audit') THEN 'policy' END,
       CASE WHEN NOT in_review OR reason IN ('appeal', 'audit') THEN 'fake' END,
       category, restricted, CASE WHEN reason <> 'unparsable' THEN score END, CASE WHEN in_review THEN blind END,
       CASE WHEN in_review THEN 0.1 END,
       CASE WHEN in_review AND held THEN now() + interval '1 day' END,
       CASE WHEN in_review AND escalated THEN settled_at END,
       CASE WHEN in_review AND n % 2500 = 0 THEN (SELECT id FROM users LIMIT 1) END,
       settled_at, settled_at, settled_at
FROM drawn
""",
    """
INSERT INTO events (id, tenant_id, case_id, sequence, type, actor, before, after, created_at)
SELECT gen_random_uuid(), tenant_id, case_id, sequence,
       (ARRAY['submission.accepted', 'verdict.completed',
              CASE WHEN in_review THEN 'case.in_review' ELSE 'decision.created' END])[sequence],
       'worker', '{"status": "screening"}', '{"status": "screening", "attempt": 1}', settled_at
FROM drawn, generate_series(1, 3) AS sequence
""",
)
CHANGED = """
INSERT INTO queue_changes (tenant_id, for_leads, priority, settled_at, amount)
SELECT id, false, 1, now(), 0 FROM tenants
"""


def make_versions(session: Session) -> None:
    """Model versions, the last of them champion."""
    for name in VERSIONS:
        manifest = {
            "name": name,
            "kind": "fakevlm",
            "prompt": {"text": "<image>Does the image looks real/fake?"},
            "calibration": {"method": "none"},
        }
        digest = hashlib.sha256(name.encode()).hexdigest()
        version = model_versions.register(session, checkpoint=f"/nowhere/{name}", manifest=manifest, digest=digest)
        model_versions.promote(session, version.id, actor="benchmark")


def fill(connection: Connection, first: int, last: int) -> None:
    """Add the cases from number `first` to just before `last`."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    # Without foreign keys and triggers, which would look at each row: instead, the queue is said to have changed.
    connection.execute(text("SET LOCAL session_replication_role = replica"))
    for statement in SOURCES.split(";"):
        connection.execute(text(statement))
    categories = [name for name, share in CATEGORIES.items() for _ in range(share)]
    connection.execute(text(DRAWN), {"first": first, "last": last - 1, "categories": categories})
    for statement in (*FILL, CHANGED):
        connection.execute(text(statement))


def settle_down() -> None:
    """What housekeeping and autovacuum do meanwhile."""
    with transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        backlog.summarise(session)
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM (ANALYZE)"))
        connection.execute(text("CHECKPOINT"))
        connection.execute(text("RESET statement_timeout"))
