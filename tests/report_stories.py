"""Stories for the tests of the report: one of a real network, one with hostile names, a big one."""

from collections.abc import Iterator
from functools import cache

import netir
from netir import passes
from netir.builtin import BUILTINS
from netir.cost import cost
from netir.ir import Graph
from netir.report import (
    Drawing,
    Epoch,
    Export,
    Growth,
    Measured,
    Stage,
    Story,
    Target,
    drawing,
)
from netir.report.drawing import Box, DrawnSpace

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!-- --> ]]> &lt;b&gt; \"quoted\" 'single' `back` {{data}} ${1}",
    "שלום \u202eevil\u202c عالم",
    "emoji 🧠 and \u2028 line \x00 zero",
    "constructor",
    "__proto__",
    "lone \ud800 half",
)


def _widths(graph: Graph) -> dict[str, int]:
    return {space.name: space.size for space in graph.spaces()}


def _measured(graph: Graph, metric: float, latency: float) -> Measured:
    counted = cost(graph)
    return Measured(counted.parameters, counted.macs, counted.parameter_bytes, latency,
                    latency / 2, metric)  # fmt: skip


def _trained(first: int, metric: float) -> tuple[Epoch, ...]:
    return tuple(Epoch(first + 10 * i, 1 / (i + 1), metric - 0.1 / (i + 1), 1.2 / (i + 1))
                 for i in range(4))  # fmt: skip


def _rewritten(graph: Graph) -> Iterator[tuple[Stage, Graph]]:
    _, args = BUILTINS["residual"]()
    for number, made in enumerate(
        (passes.Prune("layer*", amount=0.5), passes.Fold(), passes.Widen("layer1.*", factor=3.0))
    ):
        result = made.apply(graph)
        verdict = netir.verify(graph, result.graph, args)
        stage = Stage(
            "pass", made.name, str(made), "Do what `a pass` does.", "To see it.",
            result.report.contract.value, verdict.error, verdict.bound, 0.01,
            result.report.changed, result.report.skipped, _widths(graph), _widths(result.graph),
            _measured(result.graph, 0.95 - 0.01 * number, 2.0 - number / 4),
            drawing=drawing(result.graph),
        )  # fmt: skip
        yield stage, result.graph
        graph = result.graph


@cache
def real_story() -> Story:
    """A network that comes with netir, pruned, folded and widened; the training is made up."""
    model, args = BUILTINS["residual"]()
    graph = netir.trace(model, args)
    stages = [
        Stage("trace", "trace", widths_after=_widths(graph), drawing=drawing(graph),
              measured=_measured(graph, 0.1, 3.0)),
        Stage("train", "train", "train(epochs=4)", epochs=_trained(10, 0.97),
              measured=_measured(graph, 0.945, 3.0)),
    ]  # fmt: skip
    stages += [stage for stage, _ in _rewritten(graph)]
    return Story(
        "A smaller network",
        spec="netir_spec: 1\nmodel: residual\n",
        seed=3,
        versions={"netir": netir.__version__},
        machine="a machine",
        timing="median of 30 runs",
        started="2026-01-02T03:04:05+00:00",
        seconds=61.0,
        stages=tuple(stages),
        targets=(Target("accuracy", ">= 90 %", "93.0 %", True),
                 Target("macs", "<= 1 %", "50 %", False)),
        exports=(Export("net.onnx", "ONNX", 12_000, 18, "CPUExecutionProvider", 1e-7, 1e-5, 0.7),),
    )  # fmt: skip


def grown_story(spaces: int = 2, events: int = 6) -> Story:
    """A network that grows during its second training, after a pass that widens its first space."""
    names = [f"layers.{i}.units" for i in range(spaces)]
    growth = tuple(
        Growth(40 + 10 * n + (i % 5), name, 8 + 2 * n, 10 + 2 * n, 0.9 + n / 100, "select",
               "drawn" * (n == 0))
        for n in range(events) for i, name in enumerate(names)
    )  # fmt: skip
    first, second = dict.fromkeys(names, 4), dict.fromkeys(names, 8)
    last = dict.fromkeys(names, 8 + 2 * events)
    return Story("It grows", stages=(
        Stage("trace", "net", widths_after=first, measured=Measured(100, metric=0.1)),
        Stage("train", "train", widths_before=first, widths_after=first, epochs=_trained(0, 0.7),
              measured=Measured(100, metric=0.7)),
        Stage("pass", "widen", contract="exact", widths_before=first, widths_after=second,
              measured=Measured(200, metric=0.7)),
        Stage("train", "train", widths_before=second, widths_after=last, growth=growth,
              epochs=_trained(40 + 10 * events, 0.9), measured=Measured(400, metric=0.9)),
    ))  # fmt: skip


def hostile_story() -> Story:
    """Names that try to be markup, code, or something else that they are not."""
    boxes = tuple(Box(name, name, name, name, (name,), 1, 1, (i,))
                  for i, name in enumerate(HOSTILE))  # fmt: skip
    lines = tuple((i, i + 1) for i in range(len(boxes) - 1))
    spaces = tuple(DrawnSpace(name, 3, name) for name in HOSTILE)
    drawn = Drawing(boxes, lines, spaces)
    fewer = Drawing(boxes[:-1], lines[:-1], spaces)
    every = "\n".join(HOSTILE)
    widths = dict.fromkeys(HOSTILE, 3)
    return Story(
        every, every, every, versions=widths_as_text(widths), machine=every, timing=every,
        started=every, metric=every,
        stages=tuple(
            Stage(every, name, name, name, name, name, 1.0, 2.0, 3.0, HOSTILE, ((name, name),),
                  widths, dict.fromkeys(HOSTILE, 4), Measured(5, 6, 7, 8.0, 9.0, 0.5, 0.1),
                  (Epoch(1, 2.0, 0.3),), (Growth(1, name, 3, 4, 0.5, name, name),),
                  drawing=fewer if i % 2 else drawn)
            for i, name in enumerate(HOSTILE)
        ),
        targets=tuple(Target(name, name, name, False) for name in HOSTILE),
        exports=tuple(Export(name, name, provider=name) for name in HOSTILE),
    )  # fmt: skip


def widths_as_text(widths: dict[str, int]) -> dict[str, str]:
    return {name: str(width) for name, width in widths.items()}


def big_drawing(boxes: int, width: int) -> Drawing:
    """A chain of residual blocks."""
    made = [Box("x", "input", shape="f32[batch, 3, 32, 32]")]
    lines, spaces = [], []
    while len(made) < boxes:
        block, scope = len(made) - 1, f"stages.{len(spaces) // 50}.blocks.{len(spaces)}"
        own = (len(spaces),)
        spaces.append(DrawnSpace(f"{scope}.conv1", width))
        for op, name, weights in (("conv", "conv1", "64, 3, 3"), ("relu", "act", ""),
                                  ("conv", "conv2", "64, 3, 3"), ("add", "", "")):  # fmt: skip
            path = f"{scope}.{name}".rstrip(".")
            reads = (f"{path}.weight: f32[{width}, {weights}]",) if weights else ()
            shape = f"f32[batch, {width}, 32, 32]"
            costs = (36_864, 9_000_000) if weights else (0, 0)
            made.append(Box(f"{op}_{len(made)}", op, path, shape, reads, *costs, own))
            lines.append((len(made) - 2, len(made) - 1))
        lines.append((block, len(made) - 1))
    return Drawing(tuple(made), tuple(lines), tuple(spaces))


def big_story(boxes: int) -> Story:
    """A network of this many boxes in which every width changed."""
    before, after = big_drawing(boxes, 64), big_drawing(boxes, 48)
    stages = [
        Stage(kind, kind, drawing=drawn, widths_after={s.name: s.size for s in drawn.spaces})
        for kind, drawn in (("trace", before), ("pass", after))
    ]
    return Story("Big", stages=tuple(stages))
