"""Mistakes with data and training, by the message that each ends in, as mistakes.py has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from netir import Task, TrainOptions, evaluate, train
from netir.tasks import ArrayFile, Digits, Images
from tests.mistakes import Mistake, graph

X = torch.arange(40.0).reshape(10, 4)
Y = torch.arange(10) % 3


def own(**options: Any) -> Task:
    return Task.of((X, Y), (X, Y), **options)


def data(inputs: Any, targets: Any, test: Any = (X, Y)) -> object:
    return Task.of((inputs, targets), test).data


def arrays(**found: Any) -> object:
    np.savez("data.npz", **found)
    return ArrayFile("data.npz").data


def file(name: str, content: bytes = b"no data") -> object:
    Path(name).write_bytes(content)
    return ArrayFile(name).data


def pictures(**sizes: int) -> object:
    """Pictures of classes in their folders; a class of size 0 is a file that is no picture."""
    for number, (name, size) in enumerate(sizes.items()):
        path = Path(name.replace("__", "/")).with_name(f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (size or 1, size or 1)).save(path)
        if not size:
            path.write_bytes(b"no picture")
    return Images(".").data


def pickled() -> object:
    Path("data_batch_1").touch()
    return Images(".").data


class Endless:
    """A loader without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield X, Y


def small() -> nn.Module:
    return nn.Linear(4, 3)


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def with_another_optimizer() -> object:
    module = small()
    return train(module, own(), TrainOptions(optimizer="adam"), optimizer=sgd(module))


DATA: Mapping[str, Mistake] = {
    "there is no file or folder '…'": lambda: ArrayFile("nowhere.npz").data,
    "'…' is a Python pickle, or holds some: reading one can run any code": pickled,
    "a '…' file holds no named arrays that netir reads": lambda: file("data.csv"),
    "there is no array '…'": lambda: arrays(x_train=X.numpy()),
    "the file is damaged: …": lambda: file("data.npz"),
    "the array is of …, not of numbers": lambda: arrays(x_train=X.numpy(), y_train=["a"] * 10),
    "there are … inputs and … targets": lambda: arrays(x_train=X.numpy(), y_train=Y.numpy()[:3]),
    "there are no PNG or JPEG pictures in it": pictures,
    "this picture lies in no class folder": lambda: pictures(loose=4),
    "this is no whole PNG or JPEG picture: …": lambda: pictures(a__x=0, b__x=0),
    "the picture is …, and those before it are …": lambda: pictures(a__x=4, a__y=5),
    "class … is in the test data, and there is no example of it to train on":
        lambda: data(X, Y, (X, Y + 1)),
    "the classes go from … to …": lambda: data(X, Y - 1),
    "there is only one class": lambda: data(X, Y * 0, (X, Y * 0)),
    "there are no examples": lambda: data(X[:0], Y[:0]),
    "the … of example … hold NaN or infinity": lambda: data(X / 0, Y),
    "the targets are …, and cross-entropy compares with class numbers": lambda: data(X, Y / 2),
    "these batches can be read only once": lambda: Task.of(iter([(X, Y)]), [(X, Y)]),
    "a batch is a …, not (inputs, targets)":
        lambda: train(small(), Task.of([{"x": X}], [(X, Y)])),
    "a … holds no examples": lambda: Task.of(7, (X, Y)),
    "batch_size=…, and the loader makes its own batches":
        lambda: Task.of([(X, Y)], [(X, Y)]).steps(3),
    "batch_size=…": lambda: Digits(batch_size=0),
}  # fmt: skip

TRAINING: Mapping[str, Mistake] = {
    "there is no optimizer '…'": lambda: TrainOptions(optimizer="adm"),  # type: ignore[arg-type]
    "there is no schedule '…'": lambda: TrainOptions(schedule="cosin"),  # type: ignore[arg-type]
    "there is no loss '…'": lambda: own(loss="crossentropy"),
    "there is no metric '…'": lambda: own(metric="acuracy"),
    "the optimizer '…' has no …":
        lambda: train(small(), own(), TrainOptions(optimizer="adam", momentum=0.5)),
    "epochs and steps are both given": lambda: TrainOptions(epochs=1, steps=1),
    "lr=…": lambda: TrainOptions(lr=0.0),
    "there is no device '…'": lambda: TrainOptions(device="gpu"),
    "there is no device '…' here: PyTorch sees … GPUs": lambda: TrainOptions(device="cuda:99"),
    "a … cannot be trained": lambda: train(graph(), own()),  # type: ignore[arg-type]
    "the network has no parameter to train": lambda: train(small().requires_grad_(False), own()),
    "there is nothing to train on": lambda: train(small(), Task.of([], [(X, Y)])),
    "there is nothing to test on": lambda: evaluate(small(), Task.of((X, Y), [])),
    "the network cannot be called with a batch of the task: …":
        lambda: evaluate(nn.Linear(9, 3), own()),
    "the network returns … and the targets are …": lambda: evaluate(lambda x: x[0], own()),
    "the network tells … classes apart, and there is a class …":
        lambda: evaluate(nn.Linear(4, 2), own()),
    "the loss is …": lambda: train(
        small(), own(loss=lambda output, target: (-output.abs()).log().mean())
    ),
    "the loader cannot tell how many batches it has": lambda: train(
        small(), Task.of(Endless(), [(X, Y)]), TrainOptions(schedule="cosine")
    ),
    "the optimizer is …, and '…' is asked for": with_another_optimizer,
}  # fmt: skip

MISTAKES: Mapping[str, Mistake] = {**DATA, **TRAINING}
