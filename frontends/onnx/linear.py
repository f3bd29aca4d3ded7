"""ONNX operators that multiply matrices; with a constant matrix they are linear layers."""

from __future__ import annotations

from dataclasses import replace

from netir.dims import Dim
from netir.frontends.onnx.call import Call
from netir.frontends.onnx.value import Value, constant
from netir.ops import arithmetic, linear
from netir.ops.conv import Conv, ConvTranspose


def matmul(call: Call) -> Value:
    """A product of matrices; a constant one on the right is the weight of a linear layer."""
    x, weight = call[0], call[1]
    if weight.rank == 2 and x.rank and x.data is None:
        turned = _turned(call, weight)
        if turned is not None:
            return call.emit(linear.Linear(), x, turned)
    return call.emit(linear.MatMul(), x, weight)


def gemm(call: Call) -> Value:
    """`alpha * a @ b + beta * c`."""
    a, b = call[0], call[1]
    c = call.maybe(2)
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    if call.integer("transA"):
        a = call.permuted(a, (1, 0))
    weight = b if call.integer("transB") else _turned(call, b)
    if a.data is None and weight is not None and (weight.trained or weight.data is not None):
        bias = None if c is None else _bias(call, c, weight.shape[0])
        if (c is None or bias is not None) and (alpha, beta) == (1.0, 1.0):
            return call.emit(linear.Linear(), a, weight, bias)
    b = call.permuted(b, (1, 0)) if call.integer("transB") else b
    if c is not None:
        return call.emit(linear.AddMM(beta, alpha), c, a, b)
    found = call.emit(linear.MatMul(), a, b)
    return found if alpha == 1 else call.emit(arithmetic.Mul(other=alpha), found)


def einsum(call: Call) -> Value:
    """A sum of products, its result written out where the file leaves that to the reader."""
    equation = call.text("equation").replace(" ", "")
    if "->" not in equation:
        letters = [c for c in equation if c.isalpha()]
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        equation += "->" + ("..." if "." in equation else "") + "".join(once)
    return call.emit(linear.Einsum(equation), *call.tensors())


def with_bias(call: Call, layer: Value, bias: Value) -> Value | None:
    """The layer that made a value, with a constant vector as its bias, if it can have one."""
    made = call.build.nodes.get(layer.operand or "")
    if made is None or bias.data is None or not call.read_once(layer) or len(made.operands) != 2:
        return None
    match made.op:
        case linear.Linear():
            width, after = layer.shape[-1], 0
        case Conv() | ConvTranspose():
            width, after = layer.shape[1], layer.rank - 2
        case _:
            return None
    shape = bias.shape[: len(bias.shape) - after]
    fits = bias.rank <= layer.rank and all(s == 1 for s in bias.shape[len(shape) :])
    if not fits or not shape or shape[-1] != width or any(s != 1 for s in shape[:-1]):
        return None
    if bias.shared and bias.shape != (width,):
        return None
    vector = call.build.operand(call.reshaped(bias, (width,)), made.name)
    call.build.nodes[made.name] = replace(made, operands=(*made.operands, vector))
    return layer


def _bias(call: Call, c: Value, width: Dim) -> Value | None:
    if c.data is None or (c.shared and c.shape != (width,)):
        return None
    if c.shape == (width,):
        return c
    if c.data.numel() == 1 and isinstance(width, int) and not c.shared:
        return constant(c.data.reshape(1).expand(width).clone(), c.name, trained=True)
    return call.reshaped(c, (width,)) if c.shape == (1, width) else None


def _turned(call: Call, weight: Value) -> Value | None:
    """The transposed matrix, where the weight is constant and stays tied to its other readers."""
    if weight.transposed is None and weight.data is not None and not weight.shared:
        turned = constant(
            weight.data.t().contiguous(), weight.name, trained=weight.data.is_floating_point()
        )
        weight.transposed, turned.transposed = turned, weight
    return weight.transposed
