"""One row alone, as from a web page: how long it takes beside the model's own time. And how long a worker takes to
be there."""

import time
from pathlib import Path

from bench import prompts, storage
from bench.fleet import Fleet
from bench.site import Recipe, Site
from bench.table import Line, Part, number

TIMES, QUICK_TIMES = 200, 20
PAUSE_S = 0.05  # between two rows: the worker waits for work when the next one comes
READY_TIMES, QUICK_READY_TIMES = 3, 1
GOAL_MS = 100.0
GOAL_READY_S = 10.0


def measure(site: Site) -> Part:
    """The null model: what is left is the system. A row is stored when the ledger says that it is done."""
    fleet = site.fleet(storage.recipe(site.folder))
    fleet.make(prompts.write_plain(site.folder / "lone-warm.csv", 8, 1), "lone-warm")
    waits = []
    for turn in range(QUICK_TIMES if site.quick else TIMES):
        time.sleep(PAUSE_S)
        waits.append(_wait_ms(fleet, prompts.write_plain(site.folder / "lone.csv", 1, turn), f"lone-{turn}"))
    waits.sort()
    p50, p99 = (waits[min(len(waits) - 1, int(len(waits) * part))] for part in (0.5, 0.99))
    ready = sorted(_ready_s(site, turn) for turn in range(QUICK_READY_TIMES if site.quick else READY_TIMES))
    middle = ready[len(ready) // 2]
    spread = f"{number(ready[0])}-{number(ready[-1])}"
    return Part(
        [
            Line("a lone row, submitted -> stored, p99", f"p50 {p50:.0f} ms", "", p99, "ms", GOAL_MS, at_least=False),
            Line(
                "a worker's start to its first picture",
                "",
                "",
                middle,
                "s",
                GOAL_READY_S,
                at_least=False,
                spread=spread,
            ),
        ],
        ["first picture: one step of the demo model, of a supervisor that is started for it and has its code to load"],
        [f"of {len(waits)} rows the slowest took {', '.join(f'{ms:.0f}' for ms in waits[-5:])} ms"],
    )


def _wait_ms(fleet: Fleet, path: Path, run: str) -> float:
    """Milliseconds from the submission's end until the row is done, without the model call."""
    count = fleet.submit(path, run)
    start = time.perf_counter()
    fleet.await_done(run)
    seconds = time.perf_counter() - start
    fleet.finish(run, count)
    (line,) = fleet.lines(run)
    fleet.forget(run)
    return 1000 * (seconds - float(line["seconds"]["batch"]))


def _ready_s(site: Site, turn: int) -> float:
    """From the start of a supervisor until the row that waits for it is stored: of one step of the demo model."""
    path = site.folder / "ready.csv"
    path.write_text("prompt,steps\na red circle,1\n")
    start = time.perf_counter()
    fleet = site.fleet(Recipe(name=f"ready-{turn}"))
    fleet.submit(path, f"ready-{turn}")
    fleet.await_done(f"ready-{turn}")
    return time.perf_counter() - start
