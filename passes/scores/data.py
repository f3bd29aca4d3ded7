"""Scores that look at calibration data: gradients of a loss, or activations."""

from __future__ import annotations

from torch import Tensor

from netir.passes.scores.evidence import Evidence
from netir.spaces import Space

_UNREAD = "no value of numbers that has it is read"


def taylor(space: Space, evidence: Evidence) -> Tensor | str:
    """How much the loss would change, to first order: |sum of w * dL/dw| (Molchanov et al. 2019).

    The loss is the mean over all batches.
    """
    rows = evidence.salience(space, "the score 'taylor'")
    return rows.mean(0).abs() if bool(rows.any()) else "the loss does not depend on it"


def fisher(space: Space, evidence: Evidence) -> Tensor | str:
    """The mean over batches of (sum of w * dL/dw) squared (Theis et al. 2018, Liu et al. 2021).

    With batches of one sample this is the diagonal of the empirical Fisher matrix for factors on
    the indices; larger batches make it coarser.
    """
    rows = evidence.salience(space, "the score 'fisher'")
    return rows.square().mean(0) if bool(rows.any()) else "the loss does not depend on it"


def dormancy(space: Space, evidence: Evidence) -> Tensor | str:
    """The share of inputs on which an index is awake (Sokar et al. 2023).

    It sleeps where the mean of its absolute activations is at most 0.025 times that of the space.
    """
    found = evidence.activity(space, "the score 'dormancy'")
    return _UNREAD if found is None else 1 - found.dormant


def apoz(space: Space, evidence: Evidence) -> Tensor | str:
    """The share of an index's activations that are not zero (Hu et al. 2016)."""
    found = evidence.activity(space, "the score 'apoz'")
    return _UNREAD if found is None else 1 - found.zero


def activation(space: Space, evidence: Evidence) -> Tensor | str:
    """The mean of an index's absolute activations."""
    found = evidence.activity(space, "the score 'activation'")
    return _UNREAD if found is None else found.size


__all__ = ["activation", "apoz", "dormancy", "fisher", "taylor"]
