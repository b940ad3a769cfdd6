"""One worker against two, one thread each, in turns."""

from pathlib import Path
from statistics import mean, median
from typing import Any

from bench import demo, effort, table
from bench.bareloop import BareLoop
from bench.demo import BATCH
from bench.fleet import Fleet
from bench.site import Recipe, Site
from bench.table import Part, number

ROUNDS, QUICK_ROUNDS = 3, 1
GOAL = 1.85
CEILING_JOBS = 32


def measure(site: Site) -> Part:
    """Both fleets stay up and idle while the other works."""
    entry = demo.model()
    one, two = site.fleet(Recipe()), site.fleet(Recipe(workers=2))
    demo.warm(two, site.folder, "two")
    rows = demo.rows_for(demo.warm(one, site.folder, "one"), site.quick)
    pairs, profile = [], []
    for turn in range(QUICK_ROUNDS if site.quick else ROUNDS):
        single, alone, _ = _round(one, site, "one", turn, rows)
        double, shared, cost = _round(two, site, "two", turn, rows)
        pairs.append((double, single))
        profile = [
            f"a model call of {BATCH} pictures: {alone:.2f} s with one worker, {shared:.2f} s with two side by side",
            f"CPU with two workers, ms per picture: {cost}",
        ]
    line = table.ratio("2 workers over 1, one thread each", "img/s", pairs, GOAL)
    if line.met:
        return Part([line])
    return Part([line], profile=[*profile, _ceiling(site, entry.path, list(one.lines("one-0")))])


def _round(fleet: Fleet, site: Site, name: str, turn: int, rows: int) -> tuple[float, float, str]:
    """Pictures per second, mean seconds of a model call, and CPU by role."""
    series = demo.series(site.folder, name, turn, rows)
    used = effort.seconds()
    seconds = fleet.make(series.path, series.run)
    cost = effort.between(used, rows)
    return rows / seconds, mean(line["seconds"]["batch"] for line in fleet.lines(series.run)), cost


def _ceiling(site: Site, model: Path, lines: list[dict[str, Any]]) -> str:
    """What this machine can give: two bare loops, which share nothing but the hardware, against one."""
    jobs = [line["job"] for line in lines[:CEILING_JOBS]]
    with BareLoop(model, site.folder) as first, BareLoop(model, site.folder) as second:
        for loop in (first, second):
            demo.warm_loop(loop, jobs)
        ratios = []
        for _ in range(QUICK_ROUNDS if site.quick else ROUNDS):
            alone = first.make(jobs, BATCH)
            for loop in (first, second):
                loop.begin(jobs, BATCH)
            ratios.append(2 * alone / max(first.end(), second.end()))
    return f"two bare loops side by side do {number(median(ratios))}x the work of one: more is not to be had here"
