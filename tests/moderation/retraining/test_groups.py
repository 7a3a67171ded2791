"""Which images belong together: the same bytes, near-copies, bursts; in any order the same groups."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.retraining.groups import MIN_QUALITY, NEAR_BITS, PDQ_BYTES, Sighting, grouped

TENANT, OTHER = uuid4(), uuid4()
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
BURST = timedelta(seconds=2)
FAR = timedelta(hours=1)
BLANK = bytes(PDQ_BYTES)


def flipped(pdq: bytes, bits: int) -> bytes:
    """The hash with its first so many bits turned over."""
    return (int.from_bytes(pdq, "big") ^ ((1 << bits) - 1)).to_bytes(PDQ_BYTES, "big")


def seen(
    name: str,
    after: timedelta = timedelta(0),
    *,
    tenant: UUID = TENANT,
    pdq: bytes | None = None,
    quality: int = 100,
) -> Sighting:
    return Sighting(uuid4(), name, tenant, NOON + after, pdq, quality)


def together(*sightings: Sighting, alike: tuple[tuple[UUID, UUID], ...] = (), burst: timedelta = BURST) -> list[int]:
    """Which share a group, as numbers in order of first appearance."""
    names = grouped(sightings, alike, burst)
    return [list(dict.fromkeys(names)).index(name) for name in names]


def test_the_same_bytes_belong_together_whoever_sent_them() -> None:
    assert together(seen("a"), seen("b", FAR), seen("a", FAR, tenant=OTHER)) == [0, 1, 0]


@pytest.mark.parametrize(
    ("bits", "quality", "groups"),
    [(NEAR_BITS, 100, [0, 0]), (NEAR_BITS + 1, 100, [0, 1]), (0, MIN_QUALITY - 1, [0, 1])],
)
def test_near_hashes_of_some_quality_belong_together_across_tenants(bits: int, quality: int, groups: list[int]) -> None:
    hashed = bytes(range(PDQ_BYTES))
    one = seen("a", pdq=hashed, quality=quality)
    assert together(one, seen("b", FAR, tenant=OTHER, pdq=flipped(hashed, bits))) == groups


def test_pairs_that_were_found_alike_belong_together_and_others_are_passed_over() -> None:
    one, two, three = seen("a"), seen("b", FAR), seen("c", 2 * FAR)
    assert together(one, two, three, alike=((two.image_id, three.image_id), (one.image_id, uuid4()))) == [0, 1, 1]


def test_a_burst_is_what_a_tenant_sends_within_seconds_of_its_first() -> None:
    second = timedelta(seconds=1)
    sent = [seen(f"{number}", number * second) for number in range(7)]
    assert together(*sent, seen("other", tenant=OTHER)) == [0, 0, 0, 1, 1, 1, 2, 3]


def test_a_tenant_that_sends_all_the_time_is_not_one_group() -> None:
    steady = [seen(f"{number:03}", number * timedelta(seconds=0.5)) for number in range(200)]
    assert len(set(together(*steady))) == 40


def test_without_a_burst_nothing_hangs_together_by_time() -> None:
    assert together(seen("a"), seen("b"), burst=timedelta(0)) == [0, 1]


def test_what_is_only_remembered_is_in_no_burst() -> None:
    remembered = Sighting(uuid4(), "a", TENANT, None)
    assert together(remembered, seen("b"), seen("c")) == [0, 1, 1]


SIGHTINGS = st.lists(
    st.builds(
        lambda name, seconds, tenant, bits: seen(
            name, timedelta(seconds=seconds), tenant=tenant, pdq=flipped(BLANK, bits) if bits is not None else None
        ),
        st.sampled_from("abcdefgh"),
        st.integers(0, 30),
        st.sampled_from([TENANT, OTHER]),
        st.one_of(st.none(), st.integers(0, 256)),
    ),
    max_size=25,
)


@given(SIGHTINGS, st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order(sightings: list[Sighting], shuffled: random.Random) -> None:
    names = dict(zip([each.image_id for each in sightings], grouped(sightings, (), BURST), strict=True))
    shuffled.shuffle(sightings)
    assert grouped(sightings, (), BURST) == [names[each.image_id] for each in sightings]


@given(SIGHTINGS)
def test_no_two_near_copies_are_in_different_groups(sightings: list[Sighting]) -> None:
    names = grouped(sightings, (), BURST)
    for one, its in zip(sightings, names, strict=True):
        for other, theirs in zip(sightings, names, strict=True):
            near = (
                one.pdq and other.pdq and (int.from_bytes(one.pdq) ^ int.from_bytes(other.pdq)).bit_count() <= NEAR_BITS
            )
            if near or one.sha256 == other.sha256:
                assert its == theirs
