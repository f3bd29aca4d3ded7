"""Charts for the experiments, as SVG text: points with error bars, and lines through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from pathlib import Path

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 860, 460, 70, 30, 60, 260


@dataclass(frozen=True)
class Point:
    """A mean in both directions, and the standard deviations."""

    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True)
class Series:
    """Points of one colour and shape; `line` joins them."""

    name: str
    points: Sequence[Point]
    colour: str
    shape: str = "circle"
    line: bool = False


@dataclass(frozen=True)
class Axis:
    """From a value to a place in pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self._scale(self.low), self._scale(self.high)
        inside = min(max(value, self.low), self.high)
        share = (self._scale(inside) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def _scale(self, value: float) -> float:
        return log10(value) if self.log else value

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        if self.log:
            powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        else:
            step = 10.0 ** floor(log10((self.high - self.low) / 4))
            step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (m * step) <= 8)
            found = [step * n for n in range(ceil(self.low / step), floor(self.high / step) + 1)]
        return [tick for tick in found if self.low <= tick <= self.high]


def chart(
    title: str, across: str, up: str, series: Sequence[Series], *, log_x: bool = False,
    log_y: bool = False,
) -> str:
    """An SVG with all the series and their names."""
    points = [p for s in series for p in s.points]
    x = _axis([p.x - p.dx for p in points], [p.x + p.dx for p in points],
              LEFT, WIDTH - LEGEND, log_x)  # fmt: skip
    y = _axis([p.y - p.dy for p in points], [p.y + p.dy for p in points],
              HEIGHT - BOTTOM, TOP, log_y)  # fmt: skip
    parts = [*_frame(title, across, up, x, y)]
    for number, one in enumerate(series):
        parts += _drawn(one, x, y)
        place = TOP + 8 + 17 * number
        parts.append(_mark(one, WIDTH - LEGEND + 20, place))
        parts.append(f'<text x="{WIDTH - LEGEND + 32}" y="{place + 4}">{escape(one.name)}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
            + "\n".join(parts) + "\n</svg>\n")  # fmt: skip


def _axis(lows: list[float], highs: list[float], start: float, end: float, log: bool) -> Axis:
    low, high = min(lows), max(highs)
    if log:
        low = max(low, min(h for h in highs if h > 0) / 2)
        return Axis(low / 1.1, high * 1.1, start, end, True)
    room = 0.05 * (high - low) or 1.0
    return Axis(low - room, high + room, start, end)


def _frame(title: str, across: str, up: str, x: Axis, y: Axis) -> list[str]:
    middle, height = (x.start + x.end) / 2, (y.start + y.end) / 2
    parts = [
        f'<text x="{middle}" y="18" text-anchor="middle" font-size="14">{escape(title)}</text>',
        f'<text x="{middle}" y="{HEIGHT - 18}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="translate(16 {height}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text>",
    ]
    for tick in x.ticks():
        at = x.at(tick)
        parts.append(f'<path d="M{at:.1f} {y.start}V{y.end}" stroke="#ddd"/>'
                     f'<text x="{at:.1f}" y="{y.start + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<path d="M{x.start} {at:.1f}H{x.end}" stroke="#ddd"/>'
                     f'<text x="{x.start - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    return parts


def _drawn(one: Series, x: Axis, y: Axis) -> list[str]:
    parts = []
    if one.line:
        path = "L".join(f"{x.at(p.x):.1f} {y.at(p.y):.1f}" for p in one.points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{one.colour}" stroke-width="1.5"/>')
    for p in one.points:
        at, height = x.at(p.x), y.at(p.y)
        bars = f"M{at:.1f} {y.at(p.y - p.dy):.1f}V{y.at(p.y + p.dy):.1f}"
        bars += f"M{x.at(p.x - p.dx):.1f} {height:.1f}H{x.at(p.x + p.dx):.1f}"
        parts.append(f'<path d="{bars}" stroke="{one.colour}" opacity="0.6"/>')
        parts.append(_mark(one, at, height))
    return parts


def _mark(one: Series, x: float, y: float) -> str:
    shapes = {
        "circle": f"M{x - 4:.1f} {y:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        "square": f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        "triangle": f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
        "diamond": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
    }
    return f'<path d="{shapes[one.shape]}" fill="{one.colour}"/>'


def write(folder: Path, name: str, svg: str) -> None:
    """Put a chart beside the results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.svg").write_text(svg)


__all__ = ["COLOURS", "Point", "Series", "chart", "write"]
