"""Whether the machine has the memory for parameters that are to be made."""

from __future__ import annotations

import os
from collections.abc import Mapping

from netir.errors import NetirError
from netir.ir import Param


def expect_room(params: Mapping[str, Param], entries: Mapping[str, int]) -> None:
    """Refuse to give parameters so many entries, by name, if no memory holds them.

    Only those on the CPU count: an allocator that runs out there may end the process.
    """
    sizes = {name: count * params[name].data.element_size() for name, count in entries.items()
             if params[name].data.device.type == "cpu"}  # fmt: skip
    total, there = sum(sizes.values()), _memory()
    if total > there:
        largest = max(sizes, key=lambda name: sizes[name])
        raise NetirError(
            "this needs more memory than there is",
            f"{min(total, 10**30) / 1e9:,.0f} GB of {there / 1e9:,.0f}, the most for '{largest}'",
            "use smaller numbers",
        )


def _memory() -> float:
    """The bytes of memory that the machine has; without end where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


__all__ = ["expect_room"]
