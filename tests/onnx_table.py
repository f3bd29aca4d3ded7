"""The table of ONNX operators in docs/onnx-in.md, written from the table of the reader.

`python -m tests.onnx_table docs/onnx-in.md` writes it anew; test_onnx_in.py holds the page to it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from netir.frontends.onnx.table import INLINED, OPERATORS
from tests.marked import embed

_FAMILIES = {
    "attention": "attention", "conv": "convolutions and pools", "create": "constants",
    "index": "indices", "learn": "scikit-learn", "linear": "products of matrices",
    "norm": "normalisations", "padding": "padding", "pointwise": "element by element",
    "recurrent": "recurrent layers", "reduce": "reductions and order", "resize": "resampling",
    "sequence": "sequences", "shape": "shapes",
}  # fmt: skip


def table() -> str:
    """Every operator that can be read, by family."""
    families: dict[str, list[str]] = defaultdict(list)
    for name, rule in OPERATORS.items():
        if name == "ai.onnx.ml.ZipMap":  # stands there to say what to do instead
            continue
        module = rule.__module__.rpartition(".")[2]
        families["learn" if "." in name else module].append(f"`{name.rpartition('.')[2]}`")
    rows = [f"| {_FAMILIES[m]} | {', '.join(names)} |" for m, names in sorted(families.items())]
    rows.append(f"| branches | {', '.join(f'`{n}`' for n in sorted(INLINED))} |")
    return "\n".join(["| family | operators |", "|---|---|", *rows])


if __name__ == "__main__":
    embed(Path(sys.argv[1]), "operators", table())
