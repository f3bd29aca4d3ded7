"""The forward of a lowered module as Python source, with short names that follow its modules."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import fx, nn

from netir.errors import NetirError
from netir.ir import Record, Tree
from netir.lower.source import Code, attribute, call, identifier, invoked, literal, quoted
from netir.lower.torch import Lowered, class_name
from netir.lower.writer import expect_fixed, field_of

_RESERVED = frozenset({"self", "torch", "nn", "F", "Any", "Tensor", "Path", "NamedTuple", "Group",
                       "getattr", "slice", "float", "isinstance", "dict", "weights", "load",
                       "constants", "type", "print", "super"})  # fmt: skip


class Records:
    """The classes of returned records, written as named tuples where their fields allow it."""

    def __init__(self, output: Tree, taken: set[str]) -> None:
        self.names: dict[tuple[str, tuple[str, ...]], str] = {}
        self._taken = taken
        self._find(output)

    def _find(self, tree: Tree) -> None:
        match tree:
            case Record(type_name=label, fields=parts):
                key = (label, tuple(parts))
                plain = all(identifier(n) and n[0] != "_" and not hasattr(tuple, n) for n in parts)
                if plain and parts and key not in self.names:
                    name = class_name(label.rpartition(".")[2])
                    while name in self._taken | _RESERVED:
                        name += "_"
                    self._taken.add(name)
                    self.names[key] = name
                for part in parts.values():
                    self._find(part)
            case dict():
                for part in tree.values():
                    self._find(part)
            case tuple() | list():
                for part in tree:
                    self._find(part)

    def made(self, make: Any, fields: Mapping[str, Any]) -> str:
        """The expression for a record."""
        label = f"{make.__module__}.{make.__qualname__}"
        name = self.names.get((label, tuple(fields)))
        return invoked(name, (), fields) if name else literal(dict(fields))

    def lines(self) -> Iterator[str]:
        """The classes."""
        for (_, fields), name in self.names.items():
            yield f"class {name}(NamedTuple):"
            yield '    """What the network returns."""'
            yield ""
            yield from (f"    {field}: Any" for field in fields)
            yield ""
            yield ""


class Forward:
    """Writes the method line by line; a name is used again once its value is read no more."""

    def __init__(self, module: Lowered, records: Records) -> None:
        self._module = module
        self._records = records
        self._nodes = list(module.graph.nodes)
        self._last: dict[fx.Node, int] = {}
        self._last_use: dict[str, int] = {}
        for number, node in enumerate(self._nodes):
            self._last[node] = max(number, self._last.get(node, 0))
            for given in node.all_input_nodes:
                self._last[given] = number
            if node.op in ("call_module", "get_attr"):
                self._last_use[_item(module, str(node.target))] = number
        self._texts: dict[fx.Node, Code] = {}
        self._items: dict[str, str] = {}
        self._new: list[str] = []
        self._free_at: dict[str, int] = {}

    def lines(self) -> list[str]:
        """The method."""
        inputs = [n for n in self._nodes if n.op == "placeholder"]
        arguments = ["self", *(self._argument(node) for node in inputs)]
        body = [
            f"        {line}"
            for number, node in enumerate(self._nodes)
            for line in self._lines(number, node)
        ]
        return [f"    def forward({', '.join(arguments)}) -> Any:", *body]

    def _argument(self, node: fx.Node) -> str:
        name = str(node.target)
        if not identifier(name):
            raise NetirError(f"'{name}' cannot be the name of an argument", fix="rename the input")
        self._texts[node] = Code(name)
        self._free_at[name] = len(self._nodes)
        return f"{name}: Any = {literal(node.args[0])}" if node.args else f"{name}: Any"

    def _lines(self, number: int, node: fx.Node) -> Iterator[str]:
        match node.op:
            case "placeholder":
                return
            case "get_attr":
                self._texts[node] = Code(self._place(number, str(node.target)))
                yield from self._introduced()
            case "output":
                yield f"return {literal(self._filled(node.args[0]))}"
            case _ if node.target is expect_fixed:
                yield from self._fixed(node)
            case _:
                text = self._expression(number, node)
                yield from self._introduced()
                name = self._name(number, self._wanted(node), self._last[node])
                self._texts[node] = Code(name)
                yield f"{name} = {text}"

    def _fixed(self, node: fx.Node) -> Iterator[str]:
        given, name, constant = node.args
        text = self._filled(given)
        differs = f"{text} is not None" if constant is None else f"{text} != {literal(constant)}"
        message = f"{name} must be {literal(constant)}, as when the network was traced"
        yield f"if {differs}:"
        yield f"    raise ValueError({quoted(message)})"

    def _introduced(self) -> Iterator[str]:
        """The names for members of lists that the next line needs."""
        yield from self._new
        self._new.clear()

    def _place(self, number: int, path: str) -> str:
        """The expression for a module or tensor, from the innermost list member that it is in."""
        item = _item(self._module, path)
        if not item or item == path:
            return reach(self._module, path)
        if item not in self._items or self._free_at.get(self._items[item], -1) < number:
            parts = item.split(".")
            stem = "_".join(parts[-2:]) if identifier(parts[-2]) else f"item_{parts[-1]}"
            name = self._name(number, stem, self._last_use[item])
            self._items[item] = name
            self._new.append(f"{name} = {reach(self._module, item)}")
        return reach(self._module, path, item, self._items[item])

    def _expression(self, number: int, node: fx.Node) -> str:
        args, kwargs = self._filled(node.args), self._filled(node.kwargs)
        if node.op == "call_module":
            return invoked(self._place(number, str(node.target)), args, kwargs)
        if node.op == "call_method":
            return invoked(attribute(args[0], str(node.target)), args[1:], kwargs)
        if node.target is field_of:
            inner = f"{args[0]}[{literal(args[1])}] if isinstance({args[0]}, dict) else "
            return inner + attribute(args[0], args[1])
        if inspect.isclass(node.target):
            return self._records.made(node.target, kwargs)
        return call(node.target, args, kwargs)

    def _filled(self, value: Any) -> Any:
        """An argument with expressions for the values of nodes."""
        match value:
            case fx.Node():
                return self._texts[value]
            case tuple() | list():
                return (list if isinstance(value, list) else tuple)(map(self._filled, value))
            case dict():
                return {key: self._filled(part) for key, part in value.items()}
            case slice():
                return slice(*map(self._filled, (value.start, value.stop, value.step)))
        return value

    def _wanted(self, node: fx.Node) -> str:
        if inspect.isclass(node.target):
            return "output"
        parts = [p for p in str(node.target).split(".") if identifier(p)]
        wanted = parts[-1] if node.op == "call_module" and parts else node.name
        return re.sub(r"(_\d+|_)+$", "", wanted) or "value"

    def _name(self, number: int, wanted: str, last: int) -> str:
        """A name whose value is read no more, or a new one."""
        name, count = wanted, 1
        while name in _RESERVED or not identifier(name) or self._free_at.get(name, -1) > number:
            count += 1
            name = f"{wanted}_{count}"
        self._free_at[name] = last
        return name


def is_list(module: nn.Module) -> bool:
    """Whether a container is written as a list: its members are numbered from 0."""
    names = list(module._modules)
    plain = type(module) is nn.Module and not module._parameters and not module._buffers
    return plain and bool(names) and names == [str(i) for i in range(len(names))]


def _item(module: nn.Module, path: str) -> str:
    """The path of the innermost member of a list that a path leads through."""
    parts, current, found = path.split("."), module, ""
    for count, part in enumerate(parts, 1):
        if current is not module and is_list(current):
            found = ".".join(parts[:count])
        current = current._modules.get(part) or nn.Module()
    return found


def reach(module: nn.Module, path: str, item: str = "", text: str = "self") -> str:
    """The expression for what stands at a path, in a method of the root.

    `text` is what stands at `item`, which the path begins with.
    """
    current = module.get_submodule(item)
    rest = path[len(item) :].lstrip(".")
    for part in rest.split(".") if rest else ():
        numbered = current is not module and is_list(current)
        text = f"{text}[{int(part)}]" if numbered else attribute(text, part)
        current = current._modules.get(part) or nn.Module()
    return text
