"""The tasks that come with netir, all listed here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from netir.task import Task
from netir.tasks.arrays import ArrayFile
from netir.tasks.digits import Digits
from netir.tasks.images import Images
from netir.tasks.mnist import Mnist

_ALL: tuple[type[Task], ...] = (ArrayFile, Digits, Images, Mnist)
TASKS: Mapping[str, type[Task]] = MappingProxyType({t.name: t for t in _ALL})
"""Every task by its name."""

__all__ = ["TASKS", "ArrayFile", "Digits", "Images", "Mnist"]
