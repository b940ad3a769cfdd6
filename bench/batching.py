"""A shuffled file of four classes: how full batches are, and what that is worth against rows as they come."""

import csv
import random
from itertools import groupby
from pathlib import Path
from typing import Any

from bench import demo, prompts, table
from bench.bareloop import BareLoop
from bench.demo import BATCH
from bench.fleet import Fleet
from bench.site import Recipe, Site
from bench.table import Line, Part, number

STEPS = (10, 11, 12, 13)  # a class each; alike in cost
ROWS, QUICK_ROWS = 256, 64  # so many of each class that its batches can be full
ROUNDS, QUICK_ROUNDS = 2, 1
GOAL_FILL = 0.97
GOAL_GAIN = 1.7


def measure(site: Site) -> Part:
    """Each round: the system, then the bare loop in the file's order, neighbours of a class in one call."""
    fleet = site.fleet(Recipe())
    demo.warm(fleet, site.folder, "classes")
    rows, pairs = QUICK_ROWS if site.quick else ROWS, []
    with BareLoop(demo.model().path, site.folder) as loop:
        demo.warm_loop(loop, [line["job"] for line in fleet.lines("classes-warm")])
        for turn in range(QUICK_ROUNDS if site.quick else ROUNDS):
            path = _write(site.folder / f"classes-{turn}.csv", rows, turn)
            seconds = fleet.make(path, f"classes-{turn}")
            lines = list(fleet.lines(f"classes-{turn}"))
            pairs.append((rows / seconds, rows / _in_turn(loop, lines)))
    calls = sum(1 / line["batch_shape"][0] for line in lines)
    fill = Line("batch fill, 4 classes shuffled", f"{calls:.0f} calls", "", rows / calls / BATCH, "", GOAL_FILL)
    gain = table.ratio("the same over a bare loop in the file's order", "img/s", pairs, GOAL_GAIN)
    return Part([fill, gain], profile=[] if gain.met else [_bound(site, fleet)])


def _write(path: Path, rows: int, series: int) -> Path:
    rng = random.Random(series)
    texts = prompts.texts(rng)
    steps = [STEPS[row % len(STEPS)] for row in range(rows)]
    rng.shuffle(steps)
    with path.open("w", newline="") as file:
        table_ = csv.writer(file)
        table_.writerow(("prompt", "seed", "steps"))
        table_.writerows((next(texts), rng.randrange(2**32), each) for each in steps)
    return path


def _in_turn(loop: BareLoop, lines: list[dict[str, Any]]) -> float:
    """Seconds of the same rows as they come: one call for neighbours of one class, of at most BATCH."""
    jobs = [line["job"] for line in sorted(lines, key=lambda line: int(line["row"]))]
    runs = [list(run) for _, run in groupby(jobs, lambda job: job["num_inference_steps"])]
    return sum(loop.make(run, BATCH) for run in runs)


def _bound(site: Site, fleet: Fleet) -> str:
    """What full batches are worth on this machine, with nothing else around."""
    jobs = [line["job"] for line in fleet.lines("classes-0")][: 4 * BATCH]
    jobs = [job | {"num_inference_steps": STEPS[0]} for job in jobs]
    with BareLoop(demo.model().path, site.folder) as loop:
        demo.warm_loop(loop, jobs)
        single, full = loop.make(jobs, 1), loop.make(jobs, BATCH)
    return (
        f"the bare loop itself is {number(single / full)}x as fast in batches of {BATCH} as one by one, on one thread"
    )
