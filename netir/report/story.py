"""A run as data: what was done to a network, stage by stage, and what was measured.

A story is plain: it holds no graph, no tensor and no object of a pass, so that it can be written
as JSON while a run goes on and turned into a page later. Every part but the title may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netir.errors import NetirError
from netir.report.codec import plain_fields, read_fields
from netir.report.drawing import Drawing

VERSION = 1
"""The version of a story's plain form; larger ones are refused."""


@dataclass(frozen=True)
class Measured:
    """What a network costs and how well it does, after one stage; None is not measured."""

    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    """Of all its weights."""
    latency_torch: float | None = None
    """Milliseconds for one batch in PyTorch."""
    latency_onnx: float | None = None
    """Milliseconds for one batch in ONNX Runtime."""
    metric: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Epoch:
    """One point of the training curves; `step` counts optimizer steps since the run began."""

    step: int
    loss: float | None = None
    """On training data."""
    metric: float | None = None
    """On data that was held back."""
    held_back_loss: float | None = None


@dataclass(frozen=True)
class Growth:
    """A width that changed while the network trained; `step` counts as that of an `Epoch`."""

    step: int
    space: str
    before: int
    after: int
    value: float | None = None
    """What the trigger saw."""
    init: str = ""
    """What chose the weights."""
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """One thing that a run did: a trace, a pass, a training, a check, an export.

    `text` is the pass with its options as text, `what` says in a sentence what it does, `why` why
    it is there. `changed` and `left` are the sites that the pass rewrote and those that it left,
    with the reason. Widths are by name of their space.
    """

    kind: str
    name: str
    text: str = ""
    what: str = ""
    why: str = ""
    contract: str = ""
    error: float | None = None
    allowed: float | None = None
    seconds: float | None = None
    changed: tuple[str, ...] = ()
    left: tuple[tuple[str, str], ...] = ()
    widths_before: Mapping[str, int] = field(default_factory=dict)
    widths_after: Mapping[str, int] = field(default_factory=dict)
    measured: Measured | None = None
    epochs: tuple[Epoch, ...] = ()
    growth: tuple[Growth, ...] = ()
    """The widths that changed during a training, in order."""
    step: int | None = None
    """The optimizer steps done when it happened; taken from the epochs before it if None."""
    drawing: Drawing | None = None
    """The network after this stage, where the stage made or changed it."""

    @property
    def rewrites(self) -> bool:
        """Whether it changed the network, and not only its weights."""
        return self.kind == "pass" or bool(self.growth)


@dataclass(frozen=True)
class Target:
    """Something that the run was to reach: wanted and got, as text with units."""

    name: str
    wanted: str
    got: str
    met: bool


@dataclass(frozen=True)
class Export:
    """A file that the run wrote."""

    file: str
    format: str = ""
    bytes: int | None = None
    opset: int | None = None
    provider: str = ""
    """What ran it for the check, such as `CPUExecutionProvider`."""
    error: float | None = None
    """How far it is from PyTorch."""
    allowed: float | None = None
    latency: float | None = None
    """Milliseconds for one batch."""


@dataclass(frozen=True)
class Story:
    """A whole run.

    `metric` names what `Measured.metric` is; `share` says that it lies between 0 and 1 and is
    shown in percent, `higher_is_better` which way is good. `timing` says in words how latencies
    were taken, `started` when the run began, as ISO 8601, `summary` is the headline's sentence,
    which is made from the stages if it is empty.
    """

    title: str
    summary: str = ""
    spec: str = ""
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    timing: str = ""
    started: str = ""
    seconds: float | None = None
    metric: str = "accuracy"
    share: bool = True
    higher_is_better: bool = True
    stages: tuple[Stage, ...] = ()
    targets: tuple[Target, ...] = ()
    exports: tuple[Export, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data that `json` can write."""
        return {"netir_story": VERSION, **plain_fields(self)}

    @classmethod
    def from_json(cls, data: Any, where: str = "story") -> Story:
        """The story that `to_json` wrote; what is missing is empty, what is unknown passed over."""
        version = data.get("netir_story") if isinstance(data, Mapping) else None
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            raise NetirError(
                f"this is no story that netir knows: its version is {str(version)[:40]!r}",
                where, f"read stories of version 1 to {VERSION}",
            )  # fmt: skip
        story: Story = read_fields(cls, data, where)
        return story
