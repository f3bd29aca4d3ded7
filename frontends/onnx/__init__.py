"""ONNX files of any framework, read into netir's own ops.

`table.py` says which function reads which operator; there is one file for each family of them.
`walk.py` goes over the nodes, `sizes.py` follows what exporters compute with sizes, `builder.py`
makes nodes and computes constants, `modules.py` gives parameters the names of layers. A file is
data: reading one runs nothing in it and opens no file outside its folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from netir.errors import NetirError, blaming, first_line
from netir.frontends.onnx import names
from netir.frontends.onnx.load import Source, load_model, place_of
from netir.frontends.onnx.modules import with_modules
from netir.frontends.onnx.walk import Walk
from netir.ir import Graph, Node, Ref, Tree
from netir.verify import check


def from_onnx(
    model: Source,
    *,
    dynamic: Mapping[str, Mapping[int, str | int]] | None = None,
    batch: bool = False,
    outputs: Sequence[str] = (),
    name: str = "",
) -> Graph:
    """Read an ONNX model into a graph.

    `dynamic` names or fixes sizes of inputs, as in `{"tokens": {0: "batch", 1: 128}}`; `batch`
    opens the first axis of every input. `outputs` names what to return instead of what the file
    returns: any values in it. Several outputs come back as a dict by their names.
    """
    source = place_of(model)
    try:
        with blaming(_invalid):
            loaded, folder = load_model(model)
            walk = Walk(loaded, folder, outputs)
            graph = _read(walk, dynamic or {}, batch)
            graph = graph.replace(name=name or names.identifier(loaded.graph.name or "", "network"))
            graph = with_modules(graph, walk.build.kept)
            check(graph)
    except NetirError as error:
        place = f"{source}, {error.where}" if error.where else source
        raise NetirError(error.what, place, error.fix) from error.__cause__
    return graph


def _invalid(error: Exception) -> NetirError:
    return NetirError(
        f"this is no valid ONNX model: {first_line(error)}",
        fix="check the file with onnx.checker, or export the model again",
    )


def _read(walk: Walk, dynamic: Mapping[str, Mapping[int, str | int]], batch: bool) -> Graph:
    """The graph with the names of the file, without what its outputs do not need."""
    results, build = walk.read(dynamic, batch), walk.build
    called = walk.output_names()
    if len(set(called)) < len(called):
        raise NetirError("two outputs have one name", fix="name each output once")
    operands = [
        build.operand(r, names.identifier(n)) for r, n in zip(results, called, strict=True)
    ]
    nodes = _live(build.nodes, operands)
    read = {name for node in nodes.values() for name in node.params}
    read |= {o[1:] for o in operands if o[0] == "@"}
    refs = dict(zip(called, map(Ref, operands), strict=True))
    output: Tree = next(iter(refs.values())) if len(operands) == 1 else dict(refs)
    return Graph(
        name="",
        inputs=walk.inputs,
        nodes=nodes,
        params={n: p for n, p in build.params.items() if n in read},
        output=output,
        arguments={n: Ref(n) for n in walk.inputs},
    )


def _live(nodes: Mapping[str, Node], outputs: Iterable[str]) -> dict[str, Node]:
    """The nodes that the outputs depend on."""
    needed = set(outputs)
    kept = []
    for node in reversed(list(nodes.values())):
        if not needed.isdisjoint(node.results):
            needed.update(node.values)
            kept.append(node)
    return {node.name: node for node in reversed(kept)}
