"""Reading the image of a case that came as a link, in a worker and never in a request.

A link that cannot be read ends the case with a reason; one that may yet be read (a time-out, a server error, our own
store away) is tried again later. The worker calls `begin`, and `read` while it keeps the lease. It knows nothing of
judging.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from moderation import cases, images, logs, originals, outbound, sealing, storage
from moderation.db import insistent, transaction
from moderation.dispatch import FETCHING
from moderation.errors import (
    AddressRefused,
    BadStatus,
    ImageTooLarge,
    NotFound,
    ResponseTooLarge,
    StorageUnavailable,
    TelltaleError,
    Undecodable,
    Unreachable,
    Unreadable,
    UnsupportedType,
)
from moderation.leases import Lease
from moderation.originals import Original
from moderation.sandbox import Sandbox, SandboxClosed, SandboxCrash, SandboxMemory, SandboxTimeout
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.tables import Case, Image, Source
from moderation.vocabulary import FailureReason

log = logging.getLogger(__name__)

# After the first, second, … lost attempt.
RETRY_AFTER = (timedelta(seconds=5), timedelta(seconds=60), timedelta(minutes=10))
# While our own store is away no link is to blame.
STORE_RETRY_AFTER = timedelta(seconds=10)
# A status that may be gone by the next attempt.
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Errand:
    """A leased case and where its image is."""

    lease: Lease
    tenant_id: UUID
    url: str | None
    bucket: str | None
    key: str | None
    source: Source | None


def begin(case_id: UUID, settings: Settings) -> Errand | None:
    """Lease a case for this worker, which renews the lease; None where there is nothing left to do.

    A case that lost its worker on every attempt fails here.
    """
    with transaction() as session:
        lease = cases.take(session, case_id, statuses=FETCHING, lease=timedelta(seconds=settings.case_lease_s))
        if lease is None:
            return None
        case = session.get_one(Case, case_id)
        sent = case.submission
        if lease.attempt > settings.case_attempts:
            attempts = settings.case_attempts
            cases.fail(session, case, FailureReason.WORKER_LOST, f"The worker was lost on each of {attempts} attempts.")
            return None
        source = session.get(Source, sent.source_id) if sent.source_id else None
        return Errand(lease, case.tenant_id, sent.image_url, sent.s3_bucket, sent.s3_object, source)


def read(errand: Errand, *, store: Storage, sandbox: Sandbox, settings: Settings) -> bool:
    """Read the link and queue the case, end it with the reason, or give it back for later.

    Returns whether our own store answered: it is not asked before a link was read, nor for bytes that it holds.

    Raises LostLease, and StorageUnavailable where our own store is away: the case has been given back then.
    """
    try:
        data = _bytes_of(errand, settings)
        facts = sandbox.call(images.inspect, data, settings.max_image_pixels)
        original = originals.keep(store, errand.tenant_id, data, facts)
    except TelltaleError as error:
        _end_or_retry(errand, error, settings)
        if isinstance(error, StorageUnavailable):
            raise
        return False
    originals.discard_duplicate(store, original, _queue(errand, original))
    return original.put


@insistent
def give_back(errand: Errand) -> None:
    """Whoever reads the link must stop; no attempt was made. Raises LostLease."""
    with transaction() as session:
        cases.postpone(session, errand.lease, timedelta(0), counts=False)


@insistent
def _queue(errand: Errand, original: Original) -> Image:
    with transaction(wake=True) as session:
        image = originals.attach(session, original)
        cases.fetched(session, errand.lease, image)
    return image


def _bytes_of(errand: Errand, settings: Settings) -> bytes:
    if errand.url is not None:
        return outbound.fetch_image(errand.url, settings).data
    if errand.source is None or errand.bucket is None or errand.key is None:
        raise Undecodable("The image's link was erased before it was read; submit it again.")
    sealed = errand.source.s3_secret_key
    return storage.foreign_object(
        settings,
        endpoint_url=errand.source.s3_endpoint_url,
        region=errand.source.s3_region,
        access_key=errand.source.s3_access_key,
        secret_key=sealed and sealing.unseal(sealed, errand.source.id),
        bucket=errand.bucket,
        key=errand.key,
    )


@insistent
def _end_or_retry(errand: Errand, error: TelltaleError, settings: Settings) -> None:
    attempt = errand.lease.attempt
    # Why, in a word: the whole of it stands on the case, and may name what the platform keeps to itself.
    log.info("the link was not read: %s", failure_of(error).value, extra=logs.Fields(attempt=attempt))
    with transaction(wake=True) as session:
        # Our store is away, or this process lacks a key: neither is the link's fault.
        if isinstance(error, StorageUnavailable | Unreadable):
            cases.postpone(session, errand.lease, STORE_RETRY_AFTER, counts=False)
        elif isinstance(error, SandboxClosed):
            cases.postpone(session, errand.lease, timedelta(0), counts=False)
        elif _may_pass(error) and attempt < settings.case_attempts:
            cases.postpone(session, errand.lease, RETRY_AFTER[min(attempt, len(RETRY_AFTER)) - 1], counts=True)
        else:
            cases.fail(session, cases.held(session, errand.lease), failure_of(error), error.message)


def _may_pass(error: TelltaleError) -> bool:
    """Whether the next attempt may go better.

    A time-out or crash of the decoder may be the machine's bad moment, as when its memory is short.
    """
    if isinstance(error, BadStatus):
        return error.status in TRANSIENT_STATUSES
    return isinstance(error, Unreachable | SandboxTimeout | SandboxCrash)


def failure_of(error: TelltaleError) -> FailureReason:
    """The stable reason for an error, as the API and webhooks name it."""
    reasons: dict[type[TelltaleError], FailureReason] = {
        AddressRefused: FailureReason.LINK_REFUSED,
        Unreachable: FailureReason.LINK_UNREACHABLE,
        BadStatus: FailureReason.LINK_STATUS,
        NotFound: FailureReason.LINK_STATUS,
        ResponseTooLarge: FailureReason.IMAGE_TOO_LARGE,
        ImageTooLarge: FailureReason.IMAGE_TOO_LARGE,
        UnsupportedType: FailureReason.LINK_NOT_IMAGE,
        Undecodable: FailureReason.UNDECODABLE,
        SandboxTimeout: FailureReason.UNDECODABLE,
        SandboxMemory: FailureReason.IMAGE_TOO_LARGE,
        SandboxCrash: FailureReason.UNDECODABLE,
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    return FailureReason.INTERNAL
