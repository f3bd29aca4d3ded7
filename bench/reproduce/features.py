"""Do widths follow the data? NORTH-Select on inputs with 8 to 64 independent features.

Maile (2023), section 6.3.2: inputs of 64 numbers are mixtures of fewer independent ones; a small
network starts with 4 units a layer and may grow to 512. Expected: the final widths follow the
number of independent features, at an accuracy of 97 % and more.
"""

from __future__ import annotations

import torch

from bench.measure import Options, Table, options, report
from bench.reproduce.growing import Data, figure, mlp, over_seeds, trained
from netir.passes.methods import North

INPUTS, CLASSES, SAMPLES = 64, 4, 22_000


def generated(features: int, seed: int) -> Data:
    """Mixtures of independent normal features; the classes are regions of a linear map of them."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(INPUTS, INPUTS, generator=generator)).Q[:features]
    truth = torch.randn(features, CLASSES, generator=generator)
    z = torch.randn(SAMPLES, features, generator=generator)
    y = (z @ truth).argmax(1)
    x = z @ mixing
    return Data((x[:20_000], y[:20_000]), (x[20_000:], y[20_000:]))


def run(given: Options) -> list[Table]:
    seeds = (1,) if given.quick else (1, 2, 3, 4, 5)
    rows = []
    for epsilon in (0.3,) if given.quick else (0.3, 0.01):
        for features in (8, 64) if given.quick else (8, 16, 32, 64):
            found = over_seeds(seeds, lambda seed, n=features, e=epsilon: trained(  # type: ignore[misc]
                mlp(INPUTS, (4, 4), CLASSES), generated(n, seed),
                North(gamma=0.97, epsilon=e, most=512, seed=seed, every=5, buffer=1024,
                      candidates=100),
                epochs=3 if given.quick else 12, seed=seed, size=128, rate=1e-3,
            ))  # fmt: skip
            rows.append([
                epsilon, features, figure([f.widths[0] for f in found], 0),
                figure([f.widths[1] for f in found], 0), figure([100 * f.accuracy for f in found]),
                figure([f.parameters / 1e3 for f in found], 0),
            ])  # fmt: skip
            print(rows[-1], flush=True)
    columns = ("ε", "independent features", "units, first layer", "units, second layer",
               "accuracy %", "thousand parameters")  # fmt: skip
    return [Table("NORTH-Select on generated data", columns, rows, (
        f"Mean and standard deviation over {len(seeds)} seeds. Inputs of {INPUTS} numbers, two "
        "hidden layers from 4 units to at most 512, γ = 0.97, a reading every 5 steps on the "
        "newest 1,024 inputs, Adam 1e-3. ε = 0.01 is the published threshold.",
    ))]  # fmt: skip


def main() -> None:
    given = options(__doc__ or "")
    report("reproduce_features", "Widths follow the data", run(given), given)


if __name__ == "__main__":
    main()
