"""Whether data can be trained on: counts, shapes, types, whole numbers, classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from netir.data import Arrays, Source, map_inputs, tensors_in
from netir.errors import NetirError
from netir.losses import IGNORED, Loss

_PIECE = 1 << 24
"""How many numbers are looked at at a time."""


@dataclass(frozen=True)
class Data:
    """Examples to train on, examples to test on, and how many classes there are, if any."""

    train: Source
    test: Source
    classes: int | None = None


def checked(data: Data, loss: Loss, where: str) -> Data:
    """The data with targets as the loss wants them, and the classes counted."""
    parts = {f"{where}, train": data.train, f"{where}, test": data.test}
    known = {part: source for part, source in parts.items() if isinstance(source, Arrays)}
    for part, source in known.items():
        _whole(source, part)
        if loss.targets == "classes":
            known[part] = replace(source, targets=_classes(source.targets, part))
    if len(known) == 2:
        _same_form(list(known.values()), where)
    if loss.targets != "classes" or not known:
        return data
    count = _counted([source.targets for source in known.values()], data.classes, where)
    train, test = (known.get(part, source) for part, source in parts.items())
    return Data(train, test, count)


def _whole(source: Arrays, where: str) -> None:
    inputs = [("inputs", tensor) for tensor in tensors_in(source.inputs)]
    for what, tensor in [*inputs, ("targets", source.targets)]:
        if not tensor.numel():
            raise NetirError(f"the {what} are empty: {tuple(tensor.shape)}", where)
        number = _not_finite(tensor) if tensor.is_floating_point() else None
        if number is not None:
            raise NetirError(
                f"the {what} of example {number} hold NaN or infinity", where,
                "remove or repair such examples",
            )  # fmt: skip


def _not_finite(tensor: Tensor) -> int | None:
    """The first example that is not made of numbers; looked at piece by piece."""
    step = max(1, _PIECE // max(1, tensor[0].numel()))
    for start in range(0, len(tensor), step):
        bad = ~torch.isfinite(tensor[start : start + step])
        if bad.any():
            return start + int(bad.nonzero()[0, 0])
    return None


def _same_form(sources: list[Arrays], where: str) -> None:
    forms = []
    for source in sources:
        whole = {"inputs": source.inputs, "targets": source.targets}
        forms.append(map_inputs(lambda t: f"{t.dtype} {tuple(t.shape[1:])}", whole))
    for name in ("inputs", "targets"):
        train, test = (form[name] for form in forms)
        if train != test:
            raise NetirError(
                f"the {name} to train on and to test on are of different form", where,
                f"train: {train}; test: {test}".replace("torch.", ""),
            )  # fmt: skip


def _classes(targets: Tensor, where: str) -> Tensor:
    """Class numbers as torch counts with them."""
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise NetirError(
            f"the targets are {str(targets.dtype).removeprefix('torch.')}, and cross-entropy "
            "compares with class numbers", where,
            "convert them to whole numbers, or choose another loss",
        )  # fmt: skip
    if targets.dim() > 1 and targets.shape[1:].numel() == 1:
        targets = targets.flatten()
    return targets.long()


def _counted(targets: list[Tensor], told: int | None, where: str) -> int:
    targets = [found[found != IGNORED] for found in targets]
    if not all(map(len, targets)):
        raise NetirError("no example has a class", where, f"{IGNORED} stands for none")
    least = min(int(t.min()) for t in targets)
    most = max(int(t.max()) for t in targets)
    if least < 0 or (told is not None and most >= told):
        raise NetirError(
            f"the classes go from {least} to {most}", where,
            "number them from 0" + (f" to {told - 1}" if told else ""),
        )  # fmt: skip
    count = told or most + 1
    if len(targets) < 2:
        return count
    train, test = targets
    unseen = sorted(set(test.unique().tolist()) - set(train.unique().tolist()))
    if unseen:
        raise NetirError(
            f"class {unseen[0]} is in the test data, and there is no example of it to train on",
            where, "take another split",
        )  # fmt: skip
    if count < 2:
        raise NetirError("there is only one class", where, "give examples of at least two")
    return count


__all__ = ["Data", "checked"]
