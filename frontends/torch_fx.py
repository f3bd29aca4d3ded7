"""The frontend for torch.fx: a GraphModule, or a model that `symbolic_trace` can trace.

Tracing symbolically fixes Python's control flow before anything runs; torch.export then reads the
operators of the result, and all names stay those of the model.
"""

from __future__ import annotations

import sys

from torch import fx, nn

from netir.errors import NetirError
from netir.frontends.inputs import Call
from netir.frontends.torch_export import read_model
from netir.ir import Graph


def read_traced(model: nn.Module, call: Call, name: str = "") -> Graph:
    """The graph of a model, by way of torch.fx."""
    traced = model if isinstance(model, fx.GraphModule) else _symbolic(model)
    return read_model(traced, call, name or type(model).__name__, state=model)


def _symbolic(model: nn.Module) -> fx.GraphModule:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return fx.symbolic_trace(model)
    except RecursionError as error:
        raise NetirError(
            f"torch.fx cannot trace {type(model).__name__}: it nests deeper than "
            f"{sys.getrecursionlimit()} calls",
            fix='use frontend="torch_export"',
        ) from error
    except Exception as error:
        raise NetirError(
            f"torch.fx cannot trace {type(model).__name__}: {error}",
            fix='use frontend="torch_export", which follows control flow',
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
