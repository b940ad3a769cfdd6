"""What a part measured, and how it reads."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

HEADER = ("what", "measured", "baseline", "result", "goal", "")


@dataclass(frozen=True)
class Line:
    """One promise: `figure` is what the goal is about; `unit` is `x` for a ratio to the baseline."""

    what: str
    measured: str
    baseline: str
    figure: float
    unit: str
    goal: float
    at_least: bool = True  # else: at most
    spread: str = ""

    @property
    def met(self) -> bool:
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal

    def cells(self) -> tuple[str, ...]:
        goal = f"{'>=' if self.at_least else '<='} {number(self.goal)}{_spaced(self.unit)}"
        result = f"{number(self.figure)}{_spaced(self.unit)}{self.spread and f' ({self.spread})'}"
        return self.what, self.measured, self.baseline, result, goal, "met" if self.met else "MISSED"


@dataclass
class Part:
    """What one part of the bench found: its lines, what else a reader should know, and why a goal was missed."""

    lines: list[Line]
    notes: list[str] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)

    @property
    def missed(self) -> bool:
        return any(not line.met for line in self.lines)


def number(value: float) -> str:
    """Three digits that mean something, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.1e}"


def spread(values: Sequence[float]) -> str:
    """`0.94-0.97`: the least and the most of several rounds."""
    return f"{number(min(values))}-{number(max(values))}"


def ratio(what: str, unit: str, pairs: Sequence[tuple[float, float]], goal: float) -> Line:
    """A line from interleaved (measured, baseline) pairs: the median of each pair's ratio, and its spread."""
    ratios = [measured / baseline for measured, baseline in pairs]
    mine, theirs = (number(statistics.median(side)) for side in zip(*pairs, strict=True))
    figure = statistics.median(ratios)
    return Line(what, f"{mine} {unit}", f"{theirs} {unit}", figure, "x", goal, spread=spread(ratios))


def show(lines: Sequence[Line]) -> str:
    """All lines as a Markdown table that also reads well as plain text."""
    rows = [HEADER, *(line.cells() for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    printed = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)) + " |" for r in rows]
    return "\n".join([printed[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *printed[1:]])


def _spaced(unit: str) -> str:
    return unit if unit == "x" else f" {unit}"
