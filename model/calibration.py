"""From raw logits to chances: which curve makes p_fake true, chosen on images that nothing else was fitted on.

Three curves, from stiff to free: a temperature (Guo et al. 2017), Platt scaling (Platt 1999) and isotonic regression
(Zadrozny and Elkan 2002). Images count 1/probability where they were sampled. It knows nothing of images, models or
moderators; the detector applies what comes out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.isotonic import IsotonicRegression

from model.detector import calibrate
from model.evaluate import metrics
from model.evaluate.intervals import Flags, Groups, Numbers
from model.manifest import Calibration

Method = Literal["none", "temperature", "platt", "isotonic"]

# Images of each class that a curve needs: ten for each of its numbers (Peduzzi et al. 1996, events per variable).
LEAST_OF_CLASS: dict[Method, int] = {"none": 10, "temperature": 10, "platt": 20, "isotonic": 20}
# And in all: isotonic regression beats Platt scaling from about 1000 images on (Niculescu-Mizil and Caruana 2005).
LEAST: dict[Method, int] = {"none": 20, "temperature": 20, "platt": 40, "isotonic": 1000}
METHODS: tuple[Method, ...] = ("none", "temperature", "platt", "isotonic")

FOLDS = 5
STEEPEST = 7.0  # of the scale's logarithm, both ways: e^7 is 1100
SMALLEST_CHANCE = 1e-6  # what a held-out image that was called impossible costs is bounded by it


class CannotCalibrate(ValueError):
    """These images do not say what a score means; the message says why, and what is needed."""


@dataclass(frozen=True)
class Scores:
    """One entry per image: its raw logit, whether it is fake, what it counts, and its group of alike images.

    `weight` is 1/probability where images were sampled, all ones where it is left out.
    """

    logit: Numbers
    fake: Flags
    weight: Numbers = field(default_factory=lambda: np.ones(0))
    groups: Groups | None = None

    def __post_init__(self) -> None:
        if not len(self.weight):
            object.__setattr__(self, "weight", np.ones(len(self.logit)))
        if not (np.isfinite(self.logit).all() and np.isfinite(self.weight).all() and (self.weight > 0).all()):
            raise CannotCalibrate("Logits and weights must be numbers, and weights positive.")

    def __len__(self) -> int:
        return len(self.logit)

    @property
    def units(self) -> Groups:
        """Each image's group, or itself."""
        return np.arange(len(self)) if self.groups is None else self.groups

    def where(self, which: Flags) -> Self:
        groups = None if self.groups is None else self.groups[which]
        return type(self)(self.logit[which], self.fake[which], self.weight[which], groups)

    def effective(self, which: Flags | None = None) -> float:
        """How many equally weighted images these are worth (Kish 1965)."""
        weight = self.weight if which is None else self.weight[which]
        return float(weight.sum() ** 2 / (weight**2).sum()) if len(weight) else 0.0


@dataclass(frozen=True)
class Candidate:
    """One curve, by what it does on images it was not fitted on: loss in nats, error as `metrics` has it.

    `behind` is how much more it loses than the best, and `spread` the standard error of that.
    """

    method: Method
    log_loss: float
    calibration_error: float
    behind: float
    spread: float


@dataclass(frozen=True)
class Choice:
    """The curve that is kept, all that were tried, and in words why it is this one."""

    calibration: Calibration
    candidates: tuple[Candidate, ...]
    reason: str


def choose(scores: Scores, fitted_on: str) -> Choice:
    """The simplest curve that loses, out of fold, no more than one standard error more than the best.

    The rule of one standard error is Breiman et al.'s (1984), here of the paired difference by groups; the loss is
    cross entropy, in five folds that keep groups together. What the data is too small for is not tried, and the reason
    says so. Raises CannotCalibrate where there is one class, hardly an image of it, or no use in the score.
    """
    require_use(scores)
    tried = [method for method in METHODS if _is_enough(scores, method)]
    losses = {method: _held_out(scores, method) for method in tried}
    mean = {method: float(loss[0] @ scores.weight / scores.weight.sum()) for method, loss in losses.items()}
    best = min(tried, key=mean.__getitem__)
    candidates = tuple(_candidate(scores, method, losses[method], losses[best][0]) for method in tried)
    kept = next(each for each in candidates if each.behind <= each.spread)
    return Choice(fit(scores, kept.method, fitted_on), candidates, _reason(scores, kept, best, tried))


def fit(scores: Scores, method: Method, fitted_on: str | None = None) -> Calibration:
    """One curve. Raises CannotCalibrate where the classes are not both there, or a higher score does not mean fake."""
    require_use(scores, least=1)
    return FITS[method](scores).model_copy(update={"fitted_on": fitted_on})


def fit_platt(scores: Scores, *, with_bias: bool = True) -> Calibration:
    """The scale (and bias) under which these labels are most likely (Platt 1999), the scale positive.

    Labels are moved inwards as Platt has it, (N + 1) / (N + 2) for fakes, so that classes that do not overlap give a
    finite scale.
    """
    weight = scores.weight * scores.effective() / scores.weight.sum()
    fakes, reals = weight[scores.fake].sum(), weight[~scores.fake].sum()
    target = np.where(scores.fake, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def loss(at: Numbers) -> tuple[float, Numbers]:
        scale, bias = math.exp(at[0]), at[1] if with_bias else 0.0
        value = scale * scores.logit + bias
        gap = weight * (expit(value) - target)
        total = -(weight * (target * log_expit(value) + (1 - target) * log_expit(-value))).sum()
        return float(total), np.array([gap @ scores.logit * scale, gap.sum()])[: len(at)]

    bounds = [(-STEEPEST, STEEPEST), (None, None)][: 1 + with_bias]
    found = minimize(loss, np.zeros(1 + with_bias), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12).x
    bias = float(found[1]) if with_bias else 0.0
    return Calibration(method="platt" if with_bias else "temperature", scale=math.exp(found[0]), bias=bias)


def fit_isotonic(scores: Scores) -> Calibration:
    """Rising steps (Zadrozny and Elkan 2002), joined at the middle of each (Oron and Flournoy 2017).

    A fake is thought of below all scores and a real one above, so that no step says 0 or 1 for certain.
    """
    logit = np.concatenate([[scores.logit.min() - 1e-9], scores.logit, [scores.logit.max() + 1e-9]])
    fake = np.concatenate([[1.0], scores.fake, [0.0]])
    weight = np.concatenate([[1.0], scores.weight * scores.effective() / scores.weight.sum(), [1.0]])
    chance = IsotonicRegression().fit(logit, fake, weight).predict(logit)
    knots = []
    for level in np.unique(chance):
        step = chance == level
        knots.append((float(np.average(logit[step], weights=weight[step])), float(level)))
    return Calibration(method="isotonic", knots=tuple(knots))


FITS: dict[Method, Callable[[Scores], Calibration]] = {
    "none": lambda _: Calibration(),
    "temperature": lambda scores: fit_platt(scores, with_bias=False),
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def hold_reals(calibration: Calibration, scores: Scores, share: float) -> Calibration:
    """The same curve, moved along the logit until at least `share` (0 to 1) of these reals are called real.

    What a new type of fake teaches costs real images first. Moving the boundary pays for them with fakes, and with
    calibration: what that costs is measured like everything else. Unchanged where enough reals are right already.
    """
    reals = scores.where(~scores.fake)
    if not len(reals):
        raise CannotCalibrate("No real image to hold the boundary by.")
    order = np.argsort(reals.logit)
    covered = np.cumsum(reals.weight[order]) / reals.weight.sum()
    last = reals.logit[order][min(int(np.searchsorted(covered, share - 1e-12)), len(order) - 1)]
    distance = float(last) - _boundary(calibration, scores)
    if distance < 0 or share <= 0:
        return calibration
    distance += 1e-6 * max(1.0, abs(float(last)))
    note = f"{calibration.fitted_on}; moved by {distance:.3f} so that {share:.1%} of its reals stay real"
    if calibration.method == "isotonic":
        moved = tuple((logit + distance, chance) for logit, chance in calibration.knots)
        return calibration.model_copy(update={"knots": moved, "fitted_on": note})
    bias = calibration.bias - calibration.scale * distance
    return calibration.model_copy(update={"method": "platt", "bias": bias, "fitted_on": note})


def apply(calibration: Calibration, logit: Numbers) -> Numbers:
    """p_fake of each, as the detector gives it."""
    return np.array([calibrate(calibration, float(each)) for each in logit], dtype=np.float64)


def require_use(scores: Scores, least: int = LEAST_OF_CLASS["none"]) -> None:
    """Raise CannotCalibrate, with the reason."""
    fakes, reals = scores.effective(scores.fake), scores.effective(~scores.fake)
    if min(fakes, reals) < least - 1e-9:
        raise CannotCalibrate(
            f"The score can be calibrated with at least {least} images of each class, and here are {fakes:.0f} fake "
            f"and {reals:.0f} real ones (weighted images count for less): review more, or keep it as it is."
        )
    area = metrics.weighted_area(scores.fake, scores.logit)(scores.weight)
    if area <= 0.5:
        raise CannotCalibrate(
            f"A higher score does not mean fake here (AUC {area:.3f}): there is nothing to calibrate. Look at how this "
            "version was trained."
        )


def _boundary(calibration: Calibration, scores: Scores) -> float:
    """The logit from which on images are called fake, between a little below and above all of these scores."""
    if calibration.method != "isotonic":
        return -calibration.bias / calibration.scale
    low, high = float(scores.logit.min()) - 1, float(scores.logit.max()) + 1
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if calibrate(calibration, middle) >= 0.5 else (middle, high)
    return high


def _is_enough(scores: Scores, method: Method) -> bool:
    rarer = min(scores.effective(scores.fake), scores.effective(~scores.fake))
    return rarer >= LEAST_OF_CLASS[method] - 1e-9 and scores.effective() >= LEAST[method] - 1e-9


def _held_out(scores: Scores, method: Method) -> tuple[Numbers, Numbers]:
    """Each image's loss, and its p_fake, by a curve fitted on the other folds."""
    folds = _folds(scores)
    chance = np.empty(len(scores))
    for fold in np.unique(folds):
        rest = scores.where(folds != fold)
        if not rest.fake.any() or rest.fake.all():
            raise CannotCalibrate("All images of one class are alike: what a curve is worth cannot be seen on others.")
        chance[folds == fold] = apply(FITS[method](rest), scores.logit[folds == fold])
    bounded = np.clip(chance, SMALLEST_CHANCE, 1 - SMALLEST_CHANCE)
    return -np.log(np.where(scores.fake, bounded, 1 - bounded)), chance


def _folds(scores: Scores) -> NDArray[np.int64]:
    """A fold for each image, whole groups together, those with fakes dealt out evenly; the same every time."""
    names, member = np.unique(scores.units, return_inverse=True)
    has_fakes = np.bincount(member, scores.fake) > 0
    order = sorted(range(len(names)), key=lambda at: (has_fakes[at], hashlib.sha256(str(names[at]).encode()).digest()))
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[order] = np.arange(len(names)) % FOLDS
    return dealt[member]


def _candidate(scores: Scores, method: Method, held_out: tuple[Numbers, Numbers], best: Numbers) -> Candidate:
    loss, chance = held_out
    total, more = scores.weight.sum(), loss - best
    behind = float(more @ scores.weight / total)
    _, member = np.unique(scores.units, return_inverse=True)
    by_group = np.bincount(member, scores.weight * (more - behind))
    error = metrics.weighted_calibration_error(scores.fake, chance)(scores.weight)
    log_loss = float(loss @ scores.weight / total)
    return Candidate(method, log_loss, error, behind, float(np.sqrt((by_group**2).sum()) / total))


def _reason(scores: Scores, kept: Candidate, best: Method, tried: Sequence[Method]) -> str:
    why = (
        f"{kept.method} loses least on held-out images ({kept.log_loss:.4f} nats)"
        if kept.method == best
        else f"{kept.method} is the simplest that cannot be told from the best, {best} ({kept.behind:.4f} nats behind)"
    )
    missing = [method for method in METHODS if method not in tried]
    if not missing:
        return why + "."
    first = missing[0]
    return (
        f"{why}; {' and '.join(missing)} not tried: {first} needs {LEAST[first]} images and {LEAST_OF_CLASS[first]} of "
        f"each class, and these are worth {scores.effective():.0f}."
    )
