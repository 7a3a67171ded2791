"""An image that was trained on is found in the holdout under another name, other bytes, or as a near-copy."""

from __future__ import annotations

import random

from model.gate.leaks import Fingerprint, Leak, leaks

BITS = 31


def flipped(pdq: str, bits: int) -> str:
    """The same hash with so many bits changed."""
    number = int(pdq, 16)
    for place in random.Random(0).sample(range(256), bits):
        number ^= 1 << place
    return f"{number:064x}"


PDQ = f"{random.Random(1).getrandbits(256):064x}"
TRAINED = [Fingerprint("a", "1", "g", PDQ), Fingerprint("b", "2")]


def test_nothing_in_common_is_no_leak() -> None:
    other = f"{random.Random(2).getrandbits(256):064x}"
    assert leaks(TRAINED, [Fingerprint("c", "3", "h", other), Fingerprint("d", "4")], BITS) == []


def test_ids_bytes_and_groups() -> None:
    held = [Fingerprint("a", "9"), Fingerprint("c", "2"), Fingerprint("d", "8", "g")]
    assert leaks(TRAINED, held, BITS) == [Leak("a", "a", "id"), Leak("c", "b", "sha256"), Leak("d", "a", "group")]


def test_near_copies_up_to_the_stated_distance() -> None:
    near, far = Fingerprint("n", "5", None, flipped(PDQ, 31)), Fingerprint("f", "6", None, flipped(PDQ, 32))
    assert leaks(TRAINED, [near, far], BITS) == [Leak("n", "a", "PDQ, 31 bits apart")]


def test_images_without_a_group_are_no_group() -> None:
    assert leaks([Fingerprint("a", "1")], [Fingerprint("b", "2")], BITS) == []


def test_many_are_compared_in_chunks() -> None:
    rng = random.Random(3)
    trained = [Fingerprint(f"t{each}", f"t{each}", None, f"{rng.getrandbits(256):064x}") for each in range(50)]
    held = [Fingerprint(f"h{each}", f"h{each}", None, f"{rng.getrandbits(256):064x}") for each in range(1100)]
    held[1050] = Fingerprint("copy", "copy", None, flipped(trained[7].pdq or "", 3))
    assert leaks(trained, held, BITS) == [Leak("copy", "t7", "PDQ, 3 bits apart")]
