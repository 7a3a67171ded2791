"""What the gate allows, in one place: shares are 0 to 1, so 0.02 is two points."""

from __future__ import annotations

from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class Margins:
    """How much may be lost, what must be gained, and what must be shown; a run keeps those it was judged by.

    A loss has two bounds. The measured one may not be beyond `allowed`; and it must be shown, by the 95 % interval,
    that the true one is not beyond `excluded`, or there are too few images to tell and a lead is asked. What is beyond
    `allowed` is a reason to reject once the whole interval is below zero, and before that one to ask.
    """

    # Old data and real photos: "not worse by more than 2 points". A loss of three times that must be ruled out.
    old_allowed: float = 0.02
    old_excluded: float = 0.06
    reals_allowed: float = 0.02
    reals_excluded: float = 0.06
    # Categories have few images: a loss of 5 points rejects once it is clear, for all categories together, and one of
    # 10 asks even if it is not. With 40 images and 5 % of verdicts changed by chance, 10 points are three standard
    # errors; a smaller one says nothing.
    category_allowed: float = 0.05
    category_suspect: float = 0.10
    # A gain this large that is not shown yet is worth a lead's time; a smaller one is no gain.
    smallest_gain: float = 0.02
    # Independent images of each class, new and old: below it a bootstrap knows too few different draws.
    least_of_class: int = 20
    # ROUGE-L, CSS, and the share of sentences graded right.
    texts_allowed: float = 0.02
    texts_excluded: float = 0.05
    # The share of verdicts with no answer to be read, and of explanations that say nothing.
    unreadable_allowed: float = 0.01
    empty_allowed: float = 0.01
    # Expected calibration error over ten bins, of all images.
    calibration_allowed: float = 0.10
    # Images per second, as a share of the champion's: below the first ask, below the second reject. Measured as
    # `evidence.speed` does it, the demo checkpoint against itself never came below 0.82 (120 times, 96 of them on an
    # idle machine and 24 at a load of 17 on two cores): what is below 0.80 is no chance.
    speed_asks_below: float = 0.80
    speed_rejects_below: float = 0.70
    # What the first adapter on a bare base takes of its speed, because it is not merged, so that the next one can take
    # its place within a batch; the next one costs the same, and is given nothing. Whoever has adapters trained has
    # decided that, no version is better or worse for it. On the demo checkpoint (rank 16 on every linear layer) 0.80 to
    # 0.85 of the speed are left. On 7B, rank 16 adds 0.5 to 0.8 % to a layer's multiplications, beside which its small
    # steps weigh less; that was not measured.
    adapter_share: float = 0.20
    # PDQ hashes this many bits apart or fewer are near-copies (the threshold that its authors recommend).
    near_copy_bits: int = 31
