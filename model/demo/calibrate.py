"""Platt scaling of raw logits, fitted on validation photos. Knows nothing of images."""

from __future__ import annotations

import torch

from model.demo.evaluate import Scored
from model.manifest import Calibration

STEPS = 100


def fit(scored: Scored, fitted_on: str) -> Calibration:
    """The scale and bias that make sigmoid(scale · logit + bias) most likely (Platt 1999).

    The scale is fitted as its logarithm, so that it stays positive and the order of images is kept.
    """
    logits = torch.from_numpy(scored.logit)
    targets = torch.from_numpy(scored.fake).double()
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(log_scale.exp() * logits + bias, targets)
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Calibration(
        method="platt", scale=float(log_scale.detach().exp()), bias=float(bias.detach()), fitted_on=fitted_on
    )
