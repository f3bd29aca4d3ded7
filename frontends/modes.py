"""Does a model compute something else in train mode, beyond batch norm and dropout?

A graph is the network of eval mode; lowering gives batch norm and dropout their modes back. For
other differences (stochastic depth, auxiliary heads, power iterations) the calls of torch
functions in both modes are compared, module by module, and the user is told. Only models whose
code asks for the mode are run at all. Dropout inside attention is carried over to the graph.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from netir.errors import NetirWarning
from netir.frontends.inputs import Call
from netir.ir import Graph, Node
from netir.kernels.group_calls import recorded
from netir.ops import Op
from netir.ops.activation import Dropout, LeakyRelu, Rrelu
from netir.ops.attention import Attention
from netir.ops.reduce import Softmax

_FLAGGED = frozenset({"batch_norm", "instance_norm", "multi_head_attention_forward", "lstm", "gru",
                      "rnn_tanh", "rnn_relu", "field_norm"})  # fmt: skip
_HARMLESS = frozenset({"__get__", "__set__", "__bool__", "size", "dim", "float", "to", "clone",
                       "detach", "contiguous", "isfinite", "isinf", "isnan", "all",
                       "any"})  # fmt: skip
DROPPING = frozenset({"dropout", "dropout_", "alpha_dropout", "feature_alpha_dropout", "dropout1d",
                      "dropout2d", "dropout3d", "feature_dropout"})  # fmt: skip
_ATTENTION = "scaled_dot_product_attention"


def warn_of_modes(model: nn.Module, call: Call, graph: Graph) -> Graph:
    """Warn of what train mode does differently; gives the graph with dropout inside attention."""
    rectified = any(isinstance(node.op, Rrelu) for node in graph.nodes.values())
    if not rectified and not any(_asks(module) for module in model.modules()):
        return graph
    try:
        plain, trained = _record(model, call, False), _record(model, call, True)
    except Exception as error:  # noqa: BLE001
        _warn(f"the model cannot be run in train mode on these inputs ({error}), so that what it "
              "does there was not compared; the graph is the network of eval mode")  # fmt: skip
        return graph
    differs = _compare(model, plain, trained)
    return _with_dropout(model, graph, trained.rates, quiet=differs)


@dataclass
class _Record(TorchFunctionMode):
    """The calls of torch functions in each module, and the rates of dropout in order."""

    calls: dict[str, Counter[Any]] = field(default_factory=dict)
    rates: dict[type, list[float]] = field(
        default_factory=lambda: {Attention: [], Dropout: [], Rrelu: []}
    )
    stack: list[str] = field(default_factory=lambda: [""])

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name not in _HARMLESS:
            self.calls.setdefault(self.stack[-1], Counter())[self._key(name, args, kwargs)] += 1
        return func(*args, **kwargs)

    def _key(self, name: str, args: Any, kwargs: Any) -> Any:
        if name == _ATTENTION:
            self.rates[Attention].append(float(_given(args, kwargs, 4, "dropout_p", 0)))
            return name
        if name in _FLAGGED:
            return name
        if name in DROPPING:
            self.rates[Dropout].append(float(_given(args, kwargs, 1, "p", 0.5)))
            if not _given(args, kwargs, 2, "training", True):
                self.rates[Dropout][-1] = 0.0
            return name
        if name == "rrelu":
            self.rates[Rrelu].append(float(_given(args, kwargs, 3, "training", False)))
            return name
        numbers = tuple(a for a in args if isinstance(a, (int, float, str)))
        named = ((k, v) for k, v in kwargs.items() if isinstance(v, (int, float, str)))
        return (name, *numbers, *sorted(named, key=str))


def _given(args: Any, kwargs: Any, position: int, name: str, default: Any) -> Any:
    return kwargs.get(name, args[position] if len(args) > position else default)


def _record(model: nn.Module, call: Call, training: bool) -> _Record:
    """Run the model on copies of the inputs, all its state left as it is."""
    record = _Record()
    args, kwargs = call.copied()
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=sorted(filter(None, devices))))
        stack.enter_context(_state_kept(model))
        for path, module in model.named_modules():
            module.training = training and not isinstance(module, nn.modules.batchnorm._NormBase)
            enter = module.register_forward_pre_hook(_enter(record, path))
            leave = module.register_forward_hook(_leave(record), always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        with recorded(), record:
            model(*args, **kwargs)
    return record


def _enter(record: _Record, path: str) -> Any:
    def hook(module: nn.Module, args: Any) -> None:
        record.stack.append(path)

    return hook


def _leave(record: _Record) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        record.stack.pop()

    return hook


@contextmanager
def _state_kept(model: nn.Module) -> Iterator[None]:
    """Buffers, modes and Python's random numbers are afterwards what they were."""
    modules = list(model.modules())
    modes = [m.training for m in modules]
    buffers = [dict(m._buffers) for m in modules]
    numbers = random.getstate()
    for module in modules:
        copies = {k: b if b is None else b.clone() for k, b in module._buffers.items()}
        module._buffers.update(copies)
    try:
        yield
    finally:
        random.setstate(numbers)
        for module, mode, kept in zip(modules, modes, buffers, strict=True):
            module.training = mode
            module._buffers.update(kept)


def _compare(model: nn.Module, plain: _Record, trained: _Record) -> bool:
    """Warn once for every class of modules that differ; says whether any does."""
    differing: set[str] = set()
    found: dict[str, tuple[list[str], dict[str, None]]] = {}
    for path, module in model.named_modules():
        before = plain.calls.get(path, Counter())
        after = trained.calls.get(path, Counter())
        keys = [*(before - after), *(after - before)]
        if not keys and _draws(type(module)):
            keys = ["random"]
        if keys and not ((not before or not after) and _inside(path, differing)):
            differing.add(path)
            paths, names = found.setdefault(type(module).__name__, ([], {}))
            paths.append(path)
            names.update(dict.fromkeys(k if isinstance(k, str) else k[0] for k in keys))
    for cls, (paths, names) in found.items():
        where = ", ".join(f"'{p}'" for p in paths[:3] if p)
        more = ", …" if len(paths) > 3 else ""
        _warn(
            f"{cls}{f' ({where}{more})' if where else ''} computes something else in train mode "
            f"({', '.join(list(names)[:6])}); the graph is the network of eval mode"
        )
    return bool(found)


def _inside(path: str, others: set[str]) -> bool:
    """Whether a module stands in one of the others."""
    parts = path.split(".")
    return any(".".join(parts[:count]) in others for count in range(len(parts)))


def _with_dropout(
    model: nn.Module, graph: Graph, rates: dict[type, list[float]], quiet: bool
) -> Graph:
    """The graph with the rates of dropout that train mode has, where eval mode passes 0."""
    own = {p: m.dropout for p, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    nodes = dict(graph.nodes)
    for kind, change in _CHANGES.items():
        found = [n for n in graph.nodes.values() if isinstance(n.op, kind)]
        called = [n for n in found if n.scope not in own]
        given = rates[kind]
        if len(called) != len(given):
            if any(given) and not quiet:
                _warn("the model has dropout in train mode that the graph has not everywhere")
            continue
        wanted = {n.name: rate for n, rate in zip(called, given, strict=True)}
        wanted |= {n.name: own[n.scope] for n in found if n.scope in own and kind is Attention}
        for node in found:
            nodes[node.name] = replace(node, op=change(node.op, wanted.get(node.name, 0.0)))
    return _dropped_weights(graph.replace(nodes=nodes), own)


def _rectified(op: Any, rate: float) -> Op:
    """A randomised ReLU that is never random has the slope between its bounds."""
    return op if rate else LeakyRelu((op.lower + op.upper) / 2)


_CHANGES: dict[type, Callable[[Any, float], Op]] = {
    Attention: lambda op, rate: op if op.dropout_p == rate else replace(op, dropout_p=rate),
    Dropout: lambda op, rate: op if op.p == rate else replace(op, p=rate),
    Rrelu: _rectified,
}
"""For each op that is random in train mode: what it is at a rate, 0 for never."""


def _dropped_weights(graph: Graph, own: dict[str, float]) -> Graph:
    """Dropout after the softmax of attention that returns its weights."""
    renamed: dict[str | None, str] = {}
    nodes: dict[str, Node] = {}
    for node in graph.nodes.values():
        operands = tuple(renamed.get(o, o) for o in node.operands)
        nodes[node.name] = replace(node, operands=operands) if renamed else node
        if isinstance(node.op, Softmax) and own.get(node.scope):
            name = f"{node.name}_dropout"
            while name in graph.nodes or name in graph.inputs:
                name += "_"
            renamed[node.name] = name
            nodes[name] = Node(name, Dropout(own[node.scope]), (node.name,), node.types, node.scope)
    return graph.replace(nodes=nodes) if renamed else graph


def _asks(module: nn.Module) -> bool:
    """Whether a module may behave differently in train mode, and not as a graph can."""
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout)
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if any("training" in _names(type(hook)) for hook in hooks):  # type: ignore[arg-type]
        return True
    return not type(module).__module__.startswith("torch.nn.modules.") and (
        "training" in _names(type(module))  # type: ignore[arg-type]
    )


def _draws(cls: type) -> bool:
    """Whether a class uses Python's own random numbers where it asks for the mode."""
    return any({"training", "random"} <= names for names in _names_by_method(cls))


@lru_cache(maxsize=4096)
def _names(cls: Hashable) -> frozenset[str]:
    return frozenset().union(*_names_by_method(cls))


@lru_cache(maxsize=4096)
def _names_by_method(cls: Hashable) -> tuple[frozenset[str], ...]:
    """The names that calling a module uses, for each of its methods that are not torch.nn's own."""
    found: dict[str, frozenset[str]] = {}
    waiting = ["forward", "__call__"]
    while waiting:
        method = waiting.pop()
        function = inspect.unwrap(getattr(cls, method, None) or print)
        if method in found or not isinstance(function, FunctionType):
            continue
        if (function.__module__ or "").startswith("torch.nn.modules."):
            continue
        found[method] = frozenset(_used(function.__code__)) - _checkpointing(function)
        waiting.extend(found[method])
    return tuple(found.values())


def _checkpointing(function: FunctionType) -> frozenset[str]:
    """Recomputing activations asks for the mode, and computes the same."""
    names = function.__code__.co_names
    only = function.__name__ == "__call__" and "gradient_checkpointing" in names
    return frozenset({"training"}) if only else frozenset()


def _used(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


def _warn(message: str) -> None:
    warnings.warn(message, NetirWarning, stacklevel=4)
