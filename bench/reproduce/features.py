"""Do widths follow the data? NORTH-Select on inputs with 1 to 64 independent features.

Maile (2023), section 6.3.2, with the data of the authors' code: of 64 inputs some are independent
and the others mixtures of those; the class is the sign of their sum, with a little noise. Two
hidden layers start with 4 units and may grow to 512. Expected: the final widths follow the number
of independent features, at an accuracy of 97 % and more.

The published trigger reads activations. It is compared with the same count of what the layer makes
before its activation, which is a trigger of our own: any function of a reading is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil

import torch
from torch import Tensor

from bench.measure import Options, Table, options, report
from bench.reproduce.drawing import COLOURS, Point, Series, chart, write
from bench.reproduce.growing import Data, Trained, figure, mlp, over_seeds, point, trained
from netir.kernels.rank import effective_rank
from netir.passes.growth.triggers import Activations, Reading, Trigger
from netir.passes.methods import Grower

INPUTS, CLASSES, START, MOST, GAMMA, EPSILON = 64, 2, 4, 512, 0.97, 0.01
FEATURES = (1, 2, 4, 8, 16, 32, 64)


def mixed(features: int, count: int, generator: torch.Generator) -> Tensor:
    """Normal inputs of which so many are independent, and the others linear in those."""
    x = torch.randn(count, INPUTS, generator=generator)
    x[:, features:] = x[:, :features] @ torch.randn(features, INPUTS - features,
                                                    generator=generator)  # fmt: skip
    return x


def generated(features: int, seed: int, count: int) -> Data:
    """Inputs, and whether their sum is above its mean; a fifth is for testing."""
    generator = torch.Generator().manual_seed(seed)
    x = mixed(features, count, generator)
    total = 0.9 * x.sum(1) + 0.1 * torch.randn(count, generator=generator)
    y, cut = (total > total.mean()).long(), count * 4 // 5
    return Data((x[:cut], y[:cut]), (x[cut:], y[cut:]))


def before(reading: Reading) -> int:
    """The rank of what the layer makes before its activation against γ times its first share."""
    layer = reading.layer
    (maker,) = layer.makers
    x = torch.cat([batch[maker.x] for batch in reading.seen.values]).double()
    if len(x) <= layer.width:
        return 0
    made = x @ layer.rows(maker).flatten(1).mT
    share = effective_rank(made, EPSILON).count / layer.width
    first: float = reading.memory.setdefault("first", share)
    reading.memory["value"] = share
    return max(0, ceil(round(layer.width * (share - GAMMA * first), 9)))


TRIGGERS: dict[str, Trigger] = {
    "activations, as published": Activations(GAMMA, EPSILON), "before the activation": before,
}  # fmt: skip


def run(given: Options) -> list[Table]:
    seeds = (1,) if given.quick else (1, 2, 3, 4, 5)
    count, epochs = (5_000, 4) if given.quick else (25_000, 8)
    every = 1 if given.large else 4
    counts = (2, 64) if given.quick else FEATURES
    found: dict[tuple[str, int], list[Trained]] = {}
    for name, trigger in TRIGGERS.items():
        for features in counts:
            def one(seed: int, n: int = features, t: Trigger = trigger) -> Trained:
                grower = Grower(t, "select", most=MOST, every=every, seed=seed,
                                candidates=1000 if given.large else 100)  # fmt: skip
                data = generated(n, seed, count).to(given.device)
                return trained(mlp(INPUTS, (START, START), CLASSES), data, grower, epochs=epochs,
                               seed=seed, size=128, rate=3e-3)  # fmt: skip

            found[name, features] = over_seeds(seeds, one)
            print(_row(name, features, found[name, features]), flush=True)
    if not given.quick:
        write(given.results, given.named("reproduce_features"), drawn(found))
    note = (
        f"Mean and standard deviation over {len(seeds)} seeds. Inputs of {INPUTS} numbers, "
        f"{count * 4 // 5:,} samples, {epochs} epochs of batches of 128, Adam 3e-3; two hidden "
        f"layers from {START} units to at most {MOST}; γ = {GAMMA}, ε = {EPSILON}; a reading every "
        f"{every} steps on the newest {2 * MOST:,} inputs."
    )
    columns = ("the trigger reads", "independent features", "units, first layer",
               "units, second layer", "accuracy %", "thousand parameters")  # fmt: skip
    rows = [_row(name, features, runs) for (name, features), runs in found.items()]
    return [Table("NORTH-Select on generated data", columns, rows, (note,)), ranks(seeds)]


def _row(name: str, features: int, runs: Sequence[Trained]) -> list[str | int]:
    return [
        name, features, figure([r.widths[0] for r in runs], 0),
        figure([r.widths[1] for r in runs], 0), figure([100 * r.accuracy for r in runs]),
        figure([r.parameters / 1e3 for r in runs]),
    ]  # fmt: skip


def ranks(seeds: Sequence[int]) -> Table:
    """How many of the units of a drawn layer add to the rank, whatever is trained."""
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "before the activation": lambda z: z, "ReLU": torch.relu, "tanh": torch.tanh,
    }  # fmt: skip
    rows = []
    for features in FEATURES:
        counts: dict[str, list[float]] = {name: [] for name in kinds}
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            x = mixed(features, 8 * MOST, generator).double()
            weight = torch.randn(MOST, INPUTS, generator=generator).double()
            made = x @ (weight / weight.norm(dim=1, keepdim=True)).mT
            for name, kind in kinds.items():
                counts[name].append(effective_rank(kind(made), EPSILON).count)
        rows.append([features, *(figure(counts[name], 0) for name in kinds)])
    return Table(f"Effective dimension of {MOST} drawn units", ("independent features", *kinds),
                 rows, ("Rows of norm 1, no bias, 4,096 inputs of the same kind; no training.",
                        ))  # fmt: skip


def drawn(found: Mapping[tuple[str, int], Sequence[Trained]]) -> str:
    """Widths over independent features."""
    series = [Series("as many units as features", [Point(n, n) for n in FEATURES], "#999",
                     line=True)]  # fmt: skip
    for number, name in enumerate(TRIGGERS):
        for layer, shape in ((0, "circle"), (1, "square")):
            points = [point([n], [r.widths[layer] for r in found[name, n]]) for n in FEATURES]
            points = [Point(n, p.y, 0, p.dy) for n, p in zip(FEATURES, points, strict=True)]
            series.append(Series(f"{name}, layer {layer + 1}", points,
                                 COLOURS[2 * number + layer], shape, line=True))  # fmt: skip
    return chart("Final widths", "independent features", "units", series, log_x=True, log_y=True)


def main() -> None:
    given = options(__doc__ or "", large=True)
    report(given.named("reproduce_features"), "Widths follow the data", run(given), given)


if __name__ == "__main__":
    main()
