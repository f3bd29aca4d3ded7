"""Activations: which ops bend values one by one, and which of them do nothing a second time."""

from __future__ import annotations

from netir.ir import Node

IDEMPOTENT = frozenset(
    {"abs", "clamp", "hardshrink", "hardtanh", "identity", "relu", "relu6", "threshold"}
)
"""Ops φ with φ(φ(x)) = φ(x). To be piecewise linear is not enough: leaky ReLU fails."""

INTERVAL = IDEMPOTENT - {"hardshrink", "threshold"}
"""Idempotent ops whose fixed points are an interval, so that a mean of fixed points is one too."""

_OTHERS = frozenset(
    {
        "celu", "elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "logsigmoid", "mish",
        "prelu", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "tanh",
    }
)  # fmt: skip
_STANDING = frozenset({"contiguous", "identity"})
_DROPPING = frozenset({"alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout"})


def activates(node: Node) -> bool:
    """Whether a node is an activation."""
    name = node.op.name
    return name != "identity" and (name in IDEMPOTENT or name in _OTHERS)


def stands(node: Node) -> bool:
    """Whether a node gives what it reads, in train mode too."""
    return node.op.name in _STANDING


def drops(node: Node) -> bool:
    """Whether a node gives what it reads in eval mode, and drops parts of it in train mode."""
    return node.op.name in _DROPPING


__all__ = ["IDEMPOTENT", "INTERVAL", "activates", "drops", "stands"]
