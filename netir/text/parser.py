"""Text to graph. Nothing in a text is run, and all of it is checked.

    graph  = "graph" NAME "(" argument, … ")" "{" line… "return" tree "}"
    line   = "step" STRING "keeps" NAME
           | ("param" | "buffer" | "const") @name ":" type ["frozen" | "trainable"]
           | "alias" @name "=" @name
           | %name "=" OP "(" operand, … ")" ["{" attribute "=" value, … "}"]
             ":" type, … ["in_place"] ["at" STRING]

An argument is `%x: f32[batch, 3]`, or `name=tree` where it is more than one tensor of its own
name. The types of all results are inferred anew, and must be those that the text gives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from netir.dims import same
from netir.errors import NetirError, blaming
from netir.ir import Graph, Kind, Node, Param, Ref, Step, TensorType, Tree
from netir.ops import OPS, Op
from netir.ops.opaque import Opaque
from netir.text.checks import (
    attributes,
    check_axes,
    check_opaque,
    check_operands,
    describe,
    fits,
)
from netir.text.lexer import Tokens
from netir.text.values import read_type, read_value, show_type

_KINDS = ("param", "buffer", "const")
_LINES = ("step", *_KINDS, "alias", "return")


def parse_graph(
    text: str, params: Mapping[str, Tensor] | None = None, *, allow_ops: Collection[str] = ()
) -> Graph:
    """Read what `print_graph` printed.

    Without `params`, every parameter is zero (one zero seen through its shape: it takes no
    memory). Opaque nodes may call pure operators of torch itself, and those of `allow_ops`:
    `namespace.operator.overload` or a namespace.
    """
    return _Parser(text, params, allow_ops).graph()


class _Parser:
    """One pass over the tokens, building the graph's parts as they come."""

    def __init__(
        self, text: str, tensors: Mapping[str, Tensor] | None, allow_ops: Collection[str]
    ) -> None:
        self._tokens = Tokens(text)
        self._tensors = tensors
        self._allow_ops = allow_ops
        self._inputs: dict[str, TensorType] = {}
        self._nodes: dict[str, Node] = {}
        self._params: dict[str, Param] = {}
        self._aliases: dict[str, str] = {}
        self._history: list[Step] = []
        self._types: dict[str, TensorType] = {}

    def graph(self) -> Graph:
        tokens = self._tokens
        tokens.word("graph")
        name = tokens.name("word", "the graph's name")
        arguments = self._arguments()
        tokens.need("{")
        output = self._lines()
        tokens.need("}", "the output")
        if tokens.kind != "end":
            tokens.expected("the end of the text")
        self._check_tensors()
        return Graph(
            name=name,
            inputs=self._inputs,
            nodes=self._nodes,
            params=self._params,
            output=output,
            arguments=arguments,
            aliases=self._aliases,
            history=tuple(self._history),
        )

    def _arguments(self) -> dict[str, Tree]:
        tokens = self._tokens
        found: dict[str, Tree] = {}
        tokens.need("(", "the graph's name")
        while not tokens.at(")"):
            place = tokens.place()
            if tokens.kind == "value":
                ref = self._input(tokens)
                name, tree = ref.name, cast(Tree, ref)
            else:
                name = tokens.name("word", "an argument")
                tokens.need("=", "an argument's name")
                tree = self._tree(self._input)
            if name in found:
                tokens.fail(f"argument '{name}' is given twice", "keep one of them", place)
            found[name] = tree
            if not tokens.take(","):
                break
        tokens.need(")", "the arguments")
        return found

    def _input(self, tokens: Tokens) -> Ref:
        """A leaf of the arguments: an input with its type, or again without."""
        place = tokens.place()
        name = tokens.name("value", "an input")
        if name in self._types and not tokens.at(":"):
            return Ref(name)
        tokens.need(":", "an input")
        self._define(name, read_type(tokens), place)
        self._inputs[name] = self._types[name]
        return Ref(name)

    def _tree(self, leaf: Any) -> Tree:
        place = self._tokens.place()
        tree = read_value(self._tokens, leaf)
        if not _is_tree(tree):
            self._tokens.fail(
                "a size or element type cannot stand in a structure", "write a number", place
            )
        return cast(Tree, tree)

    def _lines(self) -> Tree:
        """All lines up to the output, and that."""
        tokens = self._tokens
        while True:
            if tokens.kind == "value":
                self._node()
                continue
            match tokens.word(*_LINES) if tokens.kind == "word" else tokens.expected("a line"):
                case "return":
                    return self._tree(self._output)
                case "step":
                    text = tokens.string("a pass in quotes")
                    tokens.word("keeps")
                    self._history.append(Step(text, tokens.name("word", "a contract")))
                case "alias":
                    self._alias()
                case kind:
                    self._param(cast(Kind, kind))

    def _output(self, tokens: Tokens) -> Ref:
        return Ref(cast(str, self._operand()))

    def _param(self, kind: Kind) -> None:
        tokens = self._tokens
        place = tokens.place()
        name = tokens.name("param", "a parameter such as @name")
        if name in self._params or name in self._aliases:
            tokens.fail(f"there is a parameter '@{name}' already", "rename one of them", place)
        tokens.need(":", "a parameter")
        wanted = read_type(tokens)
        trainable = kind == "param"
        if tokens.kind == "word" and tokens.text in ("frozen", "trainable"):
            trainable = tokens.next() == "trainable"
        self._params[name] = Param(self._tensor(name, wanted, place), kind, trainable)

    def _tensor(self, name: str, wanted: TensorType, place: int) -> Tensor:
        shape = [d for d in wanted.shape if isinstance(d, int)]
        total = 1
        for size in shape:
            total *= max(size, 1)
        if len(shape) < wanted.rank or total >= 2**60:
            self._tokens.fail(f"no tensor has type {wanted}", "write sizes as numbers", place)
        if self._tensors is None:
            return torch.zeros((), dtype=wanted.dtype).expand(shape)
        if name not in self._tensors:
            self._tokens.fail(f"there is no tensor for '@{name}'", "pass it in params", place)
        tensor = self._tensors[name].detach()
        if (tensor.dtype, list(tensor.shape)) != (wanted.dtype, shape):
            have = show_type(TensorType(tensor.dtype, tuple(tensor.shape)))
            self._tokens.fail(f"the tensor for '@{name}' is {have}", f"pass {wanted}", place)
        return tensor

    def _check_tensors(self) -> None:
        extra = [name for name in self._tensors or () if name not in self._params]
        if extra:
            raise NetirError(
                f"there is a tensor '{extra[0]}', but no such parameter in the text",
                fix="declare it with `param`, `buffer` or `const`, or leave it out",
            )

    def _alias(self) -> None:
        tokens = self._tokens
        place = tokens.place()
        alias = tokens.name("param", "a parameter such as @name")
        if alias in self._params or alias in self._aliases:
            tokens.fail(f"there is a parameter '@{alias}' already", "rename one of them", place)
        tokens.need("=", "an alias")
        place = tokens.place()
        name = tokens.name("param", "a parameter such as @name")
        if name not in self._params:
            tokens.unknown("there is no parameter", name, self._params, place)
        self._aliases[alias] = name

    def _node(self) -> None:
        tokens = self._tokens
        place = tokens.place()
        name = tokens.name("value", "a node")
        if name in self._nodes or name in self._inputs:
            tokens.fail(f"there is a node or an input '%{name}' already", "rename one", place)
        tokens.need("=", "a node's name")
        op_place = tokens.place()
        op_name = tokens.name("word", "an op")
        if op_name not in OPS:
            tokens.unknown("there is no op", op_name, OPS, op_place)
        operands = self._operands()
        op = self._op(OPS[op_name], op_place)
        tokens.need(":", "a node's operands and attributes")
        types = [read_type(tokens)]
        while tokens.take(","):
            types.append(read_type(tokens))
        in_place = tokens.kind == "word" and tokens.text == "in_place"
        if in_place:
            tokens.next()
        scope = ""
        if tokens.kind == "word" and tokens.text == "at":
            tokens.next()
            scope = tokens.string("a path in quotes")
        node = Node(name, op, operands, tuple(types), scope, in_place)
        self._check(node, op_place)
        self._nodes[name] = node
        for result, kind in zip(node.results, node.types, strict=True):
            self._define(result, kind, place)

    def _define(self, name: str, kind: TensorType, place: int) -> None:
        if name in self._types:
            self._tokens.fail(f"there is a value '%{name}' already", "rename one of them", place)
        self._types[name] = kind

    def _operands(self) -> tuple[str | None, ...]:
        tokens = self._tokens
        found: list[str | None] = []
        tokens.need("(", "an op")
        while not tokens.at(")"):
            found.append(self._operand())
            if not tokens.take(","):
                break
        tokens.need(")", "the operands")
        return tuple(found)

    def _operand(self) -> str | None:
        tokens = self._tokens
        place = tokens.place()
        if tokens.kind == "value":
            name = tokens.name("value", "a value")
            if name not in self._types:
                tokens.unknown("nothing before makes the value", name, self._types, place)
            return name
        if tokens.kind == "param":
            name = tokens.name("param", "a parameter")
            if name not in self._params:
                tokens.unknown("there is no parameter", name, self._params, place)
            return f"@{name}"
        if tokens.kind == "word" and tokens.text == "_":
            tokens.next()
            return None
        tokens.expected("an operand: %value, @parameter, or _")

    def _op(self, cls: type[Op], op_place: int) -> Op:
        tokens = self._tokens
        known = attributes(cls)  # type: ignore[arg-type]
        given: dict[str, Any] = {}
        if tokens.take("{"):
            while not tokens.at("}"):
                place = tokens.place()
                name = tokens.name("word", "an attribute")
                if name not in known:
                    tokens.unknown(f"{cls.name} has no attribute", name, known, place)
                if name in given:
                    tokens.fail(f"attribute '{name}' is given twice", "keep one", place)
                tokens.need("=", "an attribute")
                place = tokens.place()
                given[name] = read_value(tokens)
                if not fits(given[name], known[name]):
                    wanted = describe(known[name])
                    what = f"attribute '{name}' of {cls.name} is {wanted}"
                    tokens.fail(what, "correct it", place)
                if not tokens.take(","):
                    break
            tokens.need("}", "the attributes")
        return cast(Op, self._guarded(lambda: cls(**given), cls.name, op_place))

    def _check(self, node: Node, place: int) -> None:
        """Infer the results anew; they must be what the text says."""
        inferred = self._guarded(lambda: self._infer(node), node.op.name, place)
        if inferred is None:
            return
        if len(inferred) != len(node.types) or not all(map(_agree, inferred, node.types)):
            what = f"{node.op.name} gives {', '.join(map(str, inferred[:8]))}"
            told = ", ".join(map(str, node.types[:8]))
            self._tokens.fail(f"{what}, but the text says {told}", "correct the types", place)

    def _infer(self, node: Node) -> tuple[TensorType, ...] | None:
        op, operands = node.op, node.operands
        if isinstance(op, Opaque):
            if None in operands:
                raise NetirError("an opaque call leaves no operand out")
            check_opaque(op, len(operands), self._allow_ops)
            return None
        check_operands(op, operands)
        types = [None if o is None else self._type_of(o) for o in operands]
        check_axes(op, (t for t in (*types, *node.types) if t is not None))
        found = op.infer(*types)
        return (found,) if isinstance(found, TensorType) else found

    def _type_of(self, operand: str) -> TensorType:
        return self._params[operand[1:]].type if operand[0] == "@" else self._types[operand]

    def _guarded(self, call: Any, name: str, place: int) -> Any:
        """Call a rule of an op, which may fail in any way on numbers that nobody tried."""
        try:
            with blaming(lambda error: NetirError(
                f"{name} cannot have these operands and attributes "
                f"({f'{type(error).__name__}: {error}'[:200]})"
            )):  # fmt: skip
                return call()
        except NetirError as error:
            self._tokens.fail(error.what, error.fix or "correct operands or attributes", place)


def _agree(inferred: TensorType, told: TensorType) -> bool:
    if inferred.dtype != told.dtype or inferred.rank != told.rank:
        return False
    try:
        return all(map(same, inferred.shape, told.shape))
    except ZeroDivisionError:
        return False


def _is_tree(value: Any) -> bool:
    match value:
        case tuple() | list():
            return all(map(_is_tree, value))
        case dict():
            return all(map(_is_tree, value.values()))
        case None | bool() | int() | float() | str() | Ref():
            return True
    fields = getattr(value, "fields", None)
    return fields is not None and all(map(_is_tree, fields.values()))


