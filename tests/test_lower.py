"""Lowered modules against the models that they came from: values, gradients, names, tools."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import netir
from netir.ir import Graph
from netir.lower.torch import to_torch
from tests.zoo.sample import Sample
from tests.zoo.traced import NAMES, fresh, traced

INEXACT = {"beit": "the program that torch.export gives differs from the model by as much"}
"""Samples whose float32 outputs are not the same bits, and why."""

TIED_ORDER = {"tied_layers", "t5_encoder", "t5", "bart"}
"""Samples whose state dict lists a tied parameter's second name later than the original does."""

TRAIN_MODE = {
    "stochastic_depth": "drops branches",
    "spectral_norm": "takes a step of the power iteration",
    "swin": "drop path", "swinv2": "drop path", "segformer": "drop path", "cvt": "drop path",
    "focalnet": "drop path", "beit": "drop path", "data2vec_vision": "drop path",
    "wav2vec2": "masks and drops layers", "wav2vec2_stable": "masks and drops layers",
    "hubert": "masks and drops layers", "data2vec_audio": "masks and drops layers",
    "auxiliary_head": "has one more output",
}  # fmt: skip
"""Samples that compute something else in train mode; tracing warns of it."""

OWN_BACKWARD = {"own_function"}
"""Samples with an autograd function, of which a graph has only the forward; tracing warns."""


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a structure."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest entry."""
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a.detach().to(wide), b.detach().to(wide)
    return ((x - y).abs().max() / x.abs().max().clamp_min(1e-30)).item()


@pytest.mark.parametrize("name", NAMES)
def test_equal_outputs_and_names(name: str) -> None:
    sample, graph = traced(name)
    module = to_torch(graph)
    with torch.no_grad():
        expected, found = sample.run(), module(*sample.args, **sample.kwargs)
    assert type(expected) is type(found)
    for a, b in zip(tensors(expected), tensors(found), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert name in INEXACT or torch.equal(a, b) or bool(a.isnan().any()), distance(a, b)
        assert distance(a, b) < 1e-5
    names, kept = list(sample.model.state_dict()), list(module.state_dict())
    assert sorted(names) == sorted(kept)
    assert name in TIED_ORDER or names == kept
    original = [(n, p.requires_grad) for n, p in sample.model.named_parameters()]
    assert original == [(n, p.requires_grad) for n, p in module.named_parameters()]
    assert not module.training


@pytest.mark.parametrize("name", NAMES[::4])
def test_equal_in_float64(name: str) -> None:
    sample = fresh(name).in_float64()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", netir.NetirWarning)
        graph = netir.trace(sample.model, sample.args, sample.kwargs, dynamic=sample.dynamic)
    module = to_torch(graph)
    with torch.no_grad():
        pairs = zip(
            tensors(sample.run()), tensors(module(*sample.args, **sample.kwargs)), strict=True
        )
    assert all(distance(a, b) <= 1e-12 for a, b in pairs)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in TRAIN_MODE])
def test_equal_gradients_in_train_mode(name: str) -> None:
    if name == "opaque_several" and torch.__version__ < "2.13":
        pytest.skip("this torch has no derivative of aminmax")
    sample, graph = traced(name)
    model, module = copy.deepcopy(sample.model).train(), to_torch(graph).train()
    expected, found = gradients(model, sample), gradients(module, sample)
    for (key, a), (other, b) in zip(expected, found, strict=True):
        assert key == other
        assert (a is None) == (b is None), key
        if a is not None and b is not None and name not in OWN_BACKWARD:
            assert distance(a, b) < 2e-4, key
    for (key, a), (other, b) in zip(buffers(model), buffers(module), strict=True):
        assert key == other
        assert distance(a, b) < 1e-5, key


def gradients(module: nn.Module, sample: Sample) -> list[tuple[str, Tensor | None]]:
    """The gradients of a fixed function of the outputs, the same random numbers each time."""
    torch.manual_seed(5)
    outputs = tensors(module(*sample.args, **sample.kwargs))
    loss = sum((o.float() * torch.linspace(0.5, 1.5, o.numel()).view(o.shape)).sum()
               for o in outputs if o.requires_grad)  # fmt: skip
    if isinstance(loss, Tensor):
        loss.backward()
    return [(name, p.grad) for name, p in sorted(module.named_parameters())]


def buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    state = module.state_dict()
    yield from sorted((n, b) for n, b in module.named_buffers() if n in state)


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_rereading(name: str) -> None:
    sample, graph = traced(name)
    module = to_torch(graph)
    twin = copy.deepcopy(module)
    assert list(twin.state_dict()) == list(module.state_dict())
    again = netir.trace(twin)
    assert (again.inputs, again.nodes) == (graph.inputs, graph.nodes)
    assert (again.arguments, again.output, again.aliases) == (
        graph.arguments, graph.output, graph.aliases
    )  # fmt: skip
    assert list(again.params) == list(graph.params)
    own = {t.data_ptr() for t in (*twin.parameters(), *twin.buffers())}
    assert all(p.data.data_ptr() in own for p in again.params.values())
    assert all(torch.equal(p.data, graph.params[n].data) or p.data.isnan().any()
               for n, p in again.params.items())  # fmt: skip
    with torch.no_grad():
        first, second = (m(*sample.args, **sample.kwargs) for m in (module, twin))
    assert all(distance(a, b) == 0 for a, b in zip(tensors(first), tensors(second), strict=True))


class Plain(nn.Module):
    """Most kinds of modules, an unused parameter, a tie, buffers of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.head.weight
        self.unused = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("scale", torch.full((8,), 0.5))
        self.register_buffer("shift", torch.full((8,), 0.25), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.tied(self.drop(self.head(x * self.scale + self.shift)))


@pytest.fixture
def plain() -> tuple[Plain, Tensor, Graph]:
    model, x = Plain().eval(), torch.randn(4, 3, 6, 6)
    return model, x, netir.trace(model, (x,))


def test_modules_stand_where_they_stood(plain: tuple[Plain, Tensor, Graph]) -> None:
    module = to_torch(plain[2])
    kinds = {n: type(m) for n, m in module.named_modules() if n}
    assert kinds == {"conv": nn.Conv2d, "norm": nn.BatchNorm2d, "drop": nn.Dropout,
                     "head": nn.Linear, "tied": nn.Linear}  # fmt: skip
    assert module.head.weight is module.tied.weight
    assert list(module.state_dict()) == list(plain[0].state_dict())


def test_weights_are_copies_unless_shared(plain: tuple[Plain, Tensor, Graph]) -> None:
    model, _, graph = plain
    assert to_torch(graph).conv.weight.data_ptr() != model.conv.weight.data_ptr()
    assert to_torch(graph, copy=False).conv.weight.data_ptr() == model.conv.weight.data_ptr()


def test_hooks_on_the_modules_run(plain: tuple[Plain, Tensor, Graph]) -> None:
    _, x, graph = plain
    module, seen = to_torch(graph), []
    module.conv.register_forward_hook(lambda *call: seen.append(call[2].shape))
    module(x)
    assert seen == [(4, 8, 6, 6)]


def test_state_dict_and_conversions(plain: tuple[Plain, Tensor, Graph], tmp_path: Any) -> None:
    model, x, graph = plain
    module = to_torch(graph)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    module.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(module(x), model(x))
    assert module.double()(x.double()).dtype == torch.float64
    assert next(module.half().parameters()).dtype == torch.float16
    assert all(t.is_meta for t in (*module.to("meta").parameters(), *module.buffers()))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["lstm", "bidirectional_lstm", "gru", "vit"])
def test_converted_as_the_original(name: str, kind: torch.dtype) -> None:
    """Also what starts from zeros that the network makes."""
    sample, graph = fresh(name), traced(name)[1]
    args = pytree.tree_map_only(Tensor, lambda t: t.to(kind) if t.is_floating_point() else t,
                                (sample.args, sample.kwargs))  # fmt: skip
    model, module = sample.model.to(kind).eval(), to_torch(graph).to(kind)
    with torch.no_grad():
        expected, found = model(*args[0], **args[1]), module(*args[0], **args[1])
    for a, b in zip(tensors(expected), tensors(found), strict=True):
        assert a.dtype == b.dtype
        assert distance(a, b) < (1e-9 if kind == torch.float64 else 0.05)


def test_compiles_without_a_break(plain: tuple[Plain, Tensor, Graph]) -> None:
    model, x, graph = plain
    compiled = torch.compile(to_torch(graph), fullgraph=True, backend="aot_eager")
    assert distance(model(x), compiled(x)) < 1e-6
    compiled.train()
    compiled(x).sum().backward()


@pytest.mark.parametrize("name", ["bert", "batch_arithmetic", "nested_inputs", "swin"])
def test_samples_compile_without_a_break(name: str) -> None:
    sample, graph = traced(name)
    compiled = torch.compile(to_torch(graph), fullgraph=True, backend="eager")
    with torch.no_grad():
        pairs = zip(tensors(sample.run()), tensors(compiled(*sample.args, **sample.kwargs)),
                    strict=True)  # fmt: skip
    assert all(distance(a, b) < 1e-6 for a, b in pairs)


def test_trains_in_parallel(plain: tuple[Plain, Tensor, Graph], tmp_path: Any) -> None:
    from torch import distributed

    _, x, graph = plain
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        module = nn.parallel.DistributedDataParallel(to_torch(graph).train())
        module(x).sum().backward()
        assert module.module.conv.weight.grad is not None
    finally:
        distributed.destroy_process_group()


class Around(nn.Module):
    """What dropout reads is read once more afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(5, 5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        dropped: Tensor = self.drop(input=y)
        return dropped + nn.functional.dropout(y, 0.25, self.training) * torch.exp(y)


def test_dropout_is_around_what_it_was() -> None:
    x = torch.randn(64, 5)
    model = Around()
    module = to_torch(netir.trace(model, (x,))).train()
    found = []
    for each in (model.train(), module):
        torch.manual_seed(0)
        found.append(each(x))
    assert torch.equal(*found)


RESHAPES = {
    ".flatten(1, -1)": lambda x: x.reshape(x.shape[0], 12),
    ".flatten(1, -2)": lambda x: x.reshape(x.shape[0], 12, 1),
    ".flatten(2, -1)": lambda x: x.reshape(x.shape[0], 3, 4),
    ".flatten(0, -3)": lambda x: x.reshape(x.shape[0] * 3, 4, 1),
    ".reshape((-1, 4, 3))": lambda x: x.reshape(x.shape[0], 4, 3),
    ".reshape((-1, 3, 2, 2, 1))": lambda x: x.reshape(x.shape[0], 3, 2, 2, 1),
}
"""What is written, and what is traced with 3 x 4 x 1 for each sample."""


class Reshapes(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.call = RESHAPES[name]

    def forward(self, x: Tensor) -> Any:
        return self.call(x.exp())


@pytest.mark.parametrize("name", RESHAPES)
def test_axes_are_joined_without_a_size(name: str) -> None:
    x = torch.randn(2, 3, 4, 1)
    module = to_torch(netir.trace(Reshapes(name), (x,)))
    assert name in module.code
    for given in (x, x[:1], torch.cat([x, x])):
        assert torch.equal(module(given), Reshapes(name)(given))


def test_deep_networks() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + 0.01 * torch.relu(self.inner(x))

    model = nn.Sequential(*(Block() for _ in range(800))).eval()
    x = torch.randn(2, 4)
    module = to_torch(netir.trace(model, (x,)))
    assert torch.equal(module(x), model(x))
    assert len(netir.trace(copy.deepcopy(module)).nodes) == 3200


def test_a_changed_module_is_traced_again(plain: tuple[Plain, Tensor, Graph]) -> None:
    _, x, graph = plain

    def changed(change: Any) -> Graph:
        module = to_torch(graph)
        change(module)
        again = netir.trace(module, (x,))
        assert torch.allclose(netir.run(again, x), module.eval()(x), atol=1e-5)
        return again

    def replace_head(module: Any) -> None:
        module.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def shift_padding(module: Any) -> None:
        module.conv.padding = (0, 0)

    assert changed(replace_head).params.keys() != graph.params.keys()
    assert changed(shift_padding).nodes["conv2d"].op != graph.nodes["conv2d"].op
    assert len(changed(lambda m: m.tied.register_forward_hook(lambda *c: c[2] * 2)).nodes) > len(
        graph.nodes
    )


def test_another_dtype_is_traced_again(plain: tuple[Plain, Tensor, Graph]) -> None:
    _, x, graph = plain
    again = netir.trace(to_torch(graph).double(), (x.double(),))
    assert again.inputs["x"].dtype == torch.float64


def test_fixed_arguments_are_checked() -> None:
    sample, graph = traced("none_input")
    module = to_torch(graph)
    x = sample.args[0]
    with pytest.raises(netir.NetirError, match="traced with 2"):
        module(x, None, 3, kind="relu")
    with pytest.raises(netir.NetirError, match="mask"):
        module(x, x, 2, kind="relu")


@pytest.mark.parametrize("name", ["a b", "x);import os;(", 'a"b', "class", "self", "a.b", ""])
def test_argument_names_cannot_be_code(name: str) -> None:
    _, graph = traced("one_example")
    (tree,) = graph.arguments.values()
    with pytest.raises(netir.NetirError, match="argument"):
        to_torch(graph.replace(arguments={name: tree}))


@pytest.mark.parametrize("name", ["graph.weight", 'a")#.weight', "a\nb.weight", "forward"])
def test_parameter_names_cannot_be_code(name: str) -> None:
    _, graph = traced("one_example")
    params = {**graph.params, name: next(iter(graph.params.values()))}
    with pytest.raises(netir.NetirError, match="cannot be the name"):
        to_torch(graph.replace(params=params))


class OnePiece(nn.Module):
    """Operators that give tuples, here of one tensor each."""

    def forward(self, x: Tensor) -> Tensor:
        (row,) = x.split(3, 1)[0].unbind(2)
        (grid,) = torch.meshgrid(row[:, 0], indexing="ij")
        return grid + 1


def test_tuples_of_one_tensor_are_unpacked() -> None:
    model, x = OnePiece(), torch.randn(2, 3, 1)
    assert torch.equal(to_torch(netir.trace(model, (x,)))(x), model(x))
