"""Growing an MLP with gromo, in a process of its own that does as it is told.

Every line that it reads is one training as JSON, every line that it writes its result. It imports
nothing of netir, so that it runs in any environment that has gromo; `bench.reproduce.against_gromo`
says what the words of a training mean. GradMax and TINY have the options that gromo's documentation
gives for them; how large TINY's units are is found by gromo's own line search.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

import gromo  # noqa: E402, F401
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from gromo.containers.growing_mlp import GrowingMLP  # noqa: E402
from gromo.utils.utils import line_search  # noqa: E402
from torch import Tensor, nn  # noqa: E402

OPTIONS: dict[str, dict[str, bool]] = {
    "tiny": {"compute_delta": False, "use_covariance": True, "use_projection": True},
    "gradmax": {"compute_delta": False, "use_covariance": False, "alpha_zero": True,
                "use_projection": False, "ignore_singular_values": True},
}  # fmt: skip
ACTIVATIONS = {"ReLU": nn.ReLU, "SELU": nn.SELU}


def grown(model: GrowingMLP, x: Tensor, y: Tensor, init: str, count: int) -> None:
    """Grow every hidden layer, one after the other: two neighbours at once do not fit together."""
    for index in range(len(model.layers) - 1):
        model.set_growing_layers(index=index)
        model.init_computation()
        model.zero_grad()
        F.cross_entropy(model(x), y, reduction="sum").backward()
        model.update_computation()
        model.compute_optimal_updates(maximum_added_neurons=count, **OPTIONS[init])
        model.reset_computation()
        (layer,) = model._growing_layers
        layer.scaling_factor = _scale(model, layer, x, y, init)
        layer.apply_change()
        layer.delete_update()


def _scale(model: GrowingMLP, layer: Any, x: Tensor, y: Tensor, init: str) -> float:
    """For GradMax half of the mean norm of the columns there; for TINY what the data says."""
    if init == "gradmax":
        return 0.5 * float(layer.weight.detach().norm(dim=0).mean())

    def loss(factor: float) -> float:
        layer.scaling_factor = float(factor)
        with torch.no_grad():
            return float(F.cross_entropy(model.extended_forward(x), y))

    return float(line_search(loss)[0])


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One training."""
    given = torch.load(job["file"], weights_only=True)
    model = GrowingMLP(784, 10, job["start"], job["layers"], ACTIVATIONS[job["activation"]]())
    with torch.no_grad():
        for layer, (weight, bias) in zip(model.layers, given["weights"], strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    optimizer = torch.optim.Adam(model.parameters(), lr=job["rate"])
    generator = torch.Generator().manual_seed(job["seed"])
    newest: list[Tensor] = []
    changes, held, growing, step, start = [], [], 0.0, 0, time.thread_time()
    for _ in range(job["epochs"]):
        for rows in torch.randperm(len(given["x"]), generator=generator).split(job["batch"]):
            optimizer.zero_grad()
            F.cross_entropy(model(given["x"][rows]), given["y"][rows]).backward()
            optimizer.step()
            step += 1
            newest = [*newest, rows][-job["kept"]:]
            if step in job["events"]:
                x, y = given["x"][torch.cat(newest)], given["y"][torch.cat(newest)]
                was = _loss(model, x, y)
                began = time.thread_time()
                grown(model, x, y, job["init"], job["count"])
                growing += time.thread_time() - began
                changes.append(_loss(model, x, y) - was)
                known = {id(p) for group in optimizer.param_groups for p in group["params"]}
                held.append(sum(id(p) in known for p in model.parameters()) / 6)
                optimizer = torch.optim.Adam(model.parameters(), lr=job["rate"])
    seconds = time.thread_time() - start
    with torch.no_grad():
        right = (model(given["x_test"]).argmax(1) == given["y_test"]).float().mean()
        shown, silent = given["x_test"], []
        for layer in model.layers[:-1]:
            shown = layer(shown)
            silent += (shown[:, job["start"]:] == 0).all(0).tolist()
    return {
        "accuracy": float(right), "seconds": seconds, "growing": growing, "changes": changes,
        "held": held, "widths": [layer.out_features for layer in model.layers[:-1]],
        "parameters": sum(p.numel() for p in model.parameters()),
        "silent": sum(silent) / max(1, len(silent)),
    }  # fmt: skip


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
