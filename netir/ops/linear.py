"""Products of matrices: linear layers, matmul, einsum, and tables looked up by index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from netir.ops.base import (
    AtenCall,
    Dim,
    Op,
    Tensor,
    TensorType,
    broadcast,
    expect,
    product,
    promote,
)

if TYPE_CHECKING:
    from netir.lower.tape import OnnxValue, Tape


@dataclass(frozen=True)
class Linear(Op):
    """`x @ weight.T + bias` over the last axis."""

    name = "linear"
    overwritable = True
    aten = ("linear.default",)

    @property
    def axes(self) -> str:
        return "... i, o i, o -> ... o"

    def linear(self) -> bool:
        return True

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        made, read = weight.shape
        expect(x.shape[-1] == read, f"input has {x.shape[-1]} features, weight reads {read}")
        expect(bias is None or bias.shape == (made,), "bias and weight differ in features")
        return x.with_shape((*x.shape[:-1], made))

    def macs(self, out: TensorType, x: TensorType, weight: TensorType, *_: TensorType) -> Dim:
        return product(out.shape) * weight.shape[1]

    def to_torch(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def to_onnx(
        self, g: Tape, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | None = None
    ) -> Any:
        return linear_in_onnx(g, x, weight, bias)


@lru_cache
def _product(left: int, right: int) -> str:
    """The axis rule for matrices of these ranks; vectors have 1."""
    operands = "k" if left == 1 else "... m k", "k" if right == 1 else "... k n"
    there = {"...": max(left, right) > 2, "m": left > 1, "n": right > 1}
    return f"{', '.join(operands)} -> {' '.join(axis for axis in there if there[axis])}"


@dataclass(frozen=True)
class MatMul(Op):
    """The product of matrices, leading axes broadcast."""

    name = "matmul"
    aten = ("matmul.default", "bmm.default", "mm.default", "mv.default", "dot.default",
            "vdot.default")  # fmt: skip

    def layouts(self, site: Any) -> Any:
        return site.apply(_product(len(site.shape(0)), len(site.shape(1))))

    def linear(self) -> bool:
        return True

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        left = a.shape if len(a.shape) > 1 else (1, *a.shape)
        right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
        expect(left[-1] == right[-2], f"matrices {left} and {right} do not fit")
        lead = broadcast(left[:-2], right[:-2]) if len(left) > 2 or len(right) > 2 else ()
        tail = (*left[-2:-1][: len(a.shape) > 1], *right[-1:][: len(b.shape) > 1])
        return TensorType(promote(a, b), (*lead, *tail))

    def macs(self, out: TensorType, a: TensorType, b: TensorType) -> Dim:
        return product(out.shape) * a.shape[-1]

    def to_torch(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a, b)

    def to_onnx(self, g: Tape, a: OnnxValue, b: OnnxValue) -> Any:
        return g.op("MatMul", g.promoted(a, b))

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        conjugates = call.base == "vdot" and call.types[0].dtype.is_complex
        return None if conjugates else cls()


@dataclass(frozen=True)
class Outer(Op):
    """Every product of an element of one vector and an element of another."""

    name = "outer"
    aten = ("outer.default", "ger.default")

    @property
    def axes(self) -> str:
        return "a, b -> a b"

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        return TensorType(promote(a, b), (*a.shape, *b.shape))

    def to_torch(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.outer(a, b)

    def to_onnx(self, g: Tape, a: OnnxValue, b: OnnxValue) -> Any:
        a, b = g.promoted(a, b)
        return g.op("Mul", [g.unsqueeze(a, [1]), b])


@dataclass(frozen=True)
class AddMM(Op):
    """`beta * x + alpha * (a @ b)`, on matrices or on batches of them."""

    name = "addmm"
    aten = ("addmm.default", "baddbmm.default")
    beta: float = 1
    alpha: float = 1
    batched: bool = False

    def layouts(self, site: Any) -> Any:
        lead = "b " if self.batched else ""
        out = f"{lead}m n".split()
        shape = site.shape(0)
        added = [
            letter if layout else "_"
            for letter, layout in zip(out[len(out) - len(shape) :], shape, strict=True)
        ]
        return site.apply(f"{' '.join(added)}, {lead}m k, {lead}k n -> {' '.join(out)}")

    def infer(self, x: TensorType, a: TensorType, b: TensorType) -> TensorType:
        expect(a.shape[-1] == b.shape[-2], f"matrices {a} and {b} do not fit")
        return a.with_shape((*a.shape[:-1], b.shape[-1]))

    def macs(self, out: TensorType, x: TensorType, a: TensorType, b: TensorType) -> Dim:
        return product(out.shape) * a.shape[-1]

    def to_torch(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        function = torch.baddbmm if self.batched else torch.addmm
        return function(x, a, b, beta=self.beta, alpha=self.alpha)

    def to_onnx(self, g: Tape, x: OnnxValue, a: OnnxValue, b: OnnxValue) -> Any:
        found = g.op("MatMul", [a, b])
        found = found if self.alpha == 1 else g.binary("Mul", found, self.alpha)
        if self.beta == 0:
            return found
        added = x if self.beta == 1 else g.binary("Mul", x, self.beta)
        return g.op("Add", [found, added])

    @classmethod
    def from_aten(cls, call: AtenCall) -> Op | None:
        return cls(batched=call.base == "baddbmm", **call.options)


@dataclass(frozen=True)
class Einsum(Op):
    """A sum of products in index notation; its equation is nearly its axis rule."""

    name = "einsum"
    aten = ("einsum.default",)
    equation: str = ""

    @property
    def axes(self) -> str:
        left, _, right = self.equation.replace(" ", "").partition("->")
        terms = [*left.split(","), right]
        if "->" not in self.equation or any(len(set(t)) < len(t) for t in terms if "." not in t):
            return ""
        spaced = [" ".join(t.replace("...", "@")).replace("@", "...") for t in terms]
        return f"{', '.join(spaced[:-1])} -> {spaced[-1]}".lower() if _one_case(left) else ""

    def infer(self, *operands: TensorType) -> TensorType:
        left, _, right = self.equation.replace(" ", "").partition("->")
        expect("->" in self.equation, "the equation has no '->'")
        sizes: dict[str, Dim] = {}
        dots: list[tuple[Dim, ...]] = []
        for term, operand in zip(left.split(","), operands, strict=True):
            head, found, tail = term.partition("...")
            count = len(operand.shape) - len(head) - len(tail)
            expect(count >= 0, f"operand of shape {operand} has too few axes for '{term}'")
            stop = len(operand.shape) - len(tail)
            if found:
                dots.append(operand.shape[len(head) : stop])
            pairs = (*zip(head, operand.shape, strict=False),
                     *zip(tail, operand.shape[stop:], strict=True))  # fmt: skip
            for letter, size in pairs:
                sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
        lead = broadcast(*dots) if dots else ()
        head, found, tail = right.partition("...")
        shape = (*(sizes[c] for c in head), *(lead if found else ()), *(sizes[c] for c in tail))
        return TensorType(promote(*operands), shape)

    def macs(self, out: TensorType, *operands: TensorType) -> Dim:
        left, _, right = self.equation.replace(" ", "").partition("->")
        sizes: dict[str, Dim] = {}
        for term, operand in zip(left.split(","), operands, strict=True):
            if "." not in term:
                sizes |= dict(zip(term, operand.shape, strict=True))
        return product(out.shape) * product(s for c, s in sizes.items() if c not in right)

    def to_torch(self, *operands: Tensor) -> Tensor:
        return torch.einsum(self.equation, *operands)

    def to_onnx(self, g: Tape, *operands: OnnxValue) -> Any:
        return g.op("Einsum", g.promoted(*operands), {"equation": self.equation})


@dataclass(frozen=True)
class Embedding(Op):
    """Rows of a table, looked up by index."""

    name = "embedding"
    aten = ("embedding.default",)
    padding_idx: int = -1
    scale_grad_by_freq: bool = False
    sparse: bool = False

    @property
    def axes(self) -> str:
        return "_ d, ... -> ... d"

    def linear(self) -> bool:
        return True

    def infer(self, weight: TensorType, index: TensorType) -> TensorType:
        return weight.with_shape((*index.shape, weight.shape[1]))

    def to_torch(self, weight: Tensor, index: Tensor) -> Tensor:
        padding = None if self.padding_idx == -1 else self.padding_idx
        return F.embedding(
            index, weight, padding, None, 2.0, self.scale_grad_by_freq, self.sparse
        )

    def to_onnx(self, g: Tape, weight: OnnxValue, index: OnnxValue) -> Any:
        return g.gather(weight, index, 0)


@dataclass(frozen=True)
class Bilinear(Op):
    """`x @ weight @ y` for every output, plus a bias."""

    name = "bilinear"
    aten = ("bilinear.default",)

    @property
    def axes(self) -> str:
        return "... i, ... j, o i j, o -> ... o"

    def infer(
        self, x: TensorType, y: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        expect(x.shape[-1] == weight.shape[1], "the first input and weight differ in features")
        expect(y.shape[-1] == weight.shape[2], "the second input and weight differ in features")
        return x.with_shape((*x.shape[:-1], weight.shape[0]))

    def macs(self, out: TensorType, x: TensorType, y: TensorType, *rest: TensorType) -> Dim:
        return product(out.shape) * x.shape[-1] * (y.shape[-1] + 1)

    def to_torch(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.bilinear(x, y, weight, bias)

    def to_onnx(
        self, g: Tape, x: OnnxValue, y: OnnxValue, weight: OnnxValue, bias: OnnxValue | None = None
    ) -> Any:
        rows = g.op("MatMul", [g.unsqueeze(x, [x.rank - 1, x.rank]), weight])
        both = g.op("MatMul", [rows, g.unsqueeze(y, [y.rank - 1, y.rank + 1])])
        found = g.squeeze(both, [-2, -1])
        return found if bias is None else g.op("Add", [found, bias])


def linear_in_onnx(g: Tape, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | None) -> OnnxValue:
    """`x @ weight.T + bias`; ONNX Runtime transposes a stored weight once, when it loads it."""
    shape = (*x.shape[:-1], weight.shape[0])
    if x.rank == 2 and bias is not None:
        return g.op("Gemm", [x, weight, bias], {"transB": 1}, shape=shape)  # type: ignore[no-any-return]
    found: OnnxValue = g.op("MatMul", [x, g.transpose(weight, (1, 0))], shape=shape)
    return found if bias is None else g.op("Add", [found, bias], shape=shape)


def _one_case(text: str) -> bool:
    return len({c.lower() for c in text if c.isalpha()}) == len({c for c in text if c.isalpha()})

