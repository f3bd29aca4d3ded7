"""The headline of a report: what a run did, in one plain sentence with the numbers that matter."""

from __future__ import annotations

from netir.report.story import Story


def headline(story: Story) -> str:
    """The story's own summary, or a sentence made of its rewrites and of what was measured.

    What the rewrites found, the network before the first of them, is compared with the end.
    """
    if story.summary:
        return story.summary
    counted = _counted(story)
    if sum(stage.measured is not None for stage in story.stages) < 2:
        return f"{counted} done; nothing was measured before and after."
    parts = _costs(story)
    changes = f"{counted} left the network with {_listed(parts)}" if parts else f"{counted} done"
    return f"{changes}{_quality(story)}."


def _counted(story: Story) -> str:
    """The rewrites, and growth in training, in words."""
    passes = sum(stage.kind == "pass" for stage in story.stages)
    counted = {0: "No rewrite", 1: "One rewrite"}.get(passes, f"{passes} rewrites")
    if not any(stage.growth for stage in story.stages):
        return counted
    return f"{counted} and growth in training" if passes else "Growth in training"


def ends(story: Story, name: str) -> tuple[float, float] | None:
    """A measurement before the first rewrite, or the first there is, and at the end."""
    taken = [getattr(stage.measured, name, None) for stage in story.stages]
    first = next((i for i, stage in enumerate(story.stages) if stage.rewrites), 0)
    known = [value for value in taken if value is not None]
    earlier = [value for value in taken[:first] if value is not None]
    return ((earlier or known[:1])[-1], known[-1]) if len(known) > 1 else None


def _costs(story: Story) -> list[str]:
    """What share of each cost is left."""
    kinds = {"parameters": "of its parameters", "macs": "of its MACs"}
    if ends(story, "latency_onnx"):
        kinds["latency_onnx"] = "of the latency in ONNX Runtime"
    else:
        kinds["latency_torch"] = "of the latency in PyTorch"
    both = {words: ends(story, name) for name, words in kinds.items()}
    return [f"{100 * p[1] / p[0]:.0f}\u00a0% {words}" for words, p in both.items() if p and p[0]]


def _quality(story: Story) -> str:
    both = ends(story, "metric")
    if both is None:
        return ""
    before, after = (_shown(story, metric) for metric in both)
    if before == after:
        return f"; {story.metric} stayed at {after}"
    return f"; {story.metric} went from {before} to {after}"


def _shown(story: Story, metric: float) -> str:
    return f"{100 * metric:.1f}\u00a0%" if story.share else f"{metric:.4g}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
