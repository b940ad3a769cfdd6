"""The whole way of a row against the bare diffusers loop: same model, same batches, one thread each, in turns."""

from statistics import mean
from typing import Any

import numpy as np

from bench import demo, effort, table
from bench.bareloop import BareLoop
from bench.demo import BATCH, Series
from bench.fleet import Fleet
from bench.site import BenchError, Recipe, Site
from bench.table import Part
from shared import images

ROUNDS, QUICK_ROUNDS = 3, 1
GOALS = {10: 0.97, 2: 0.90}  # by steps: about 100 and 20 ms per picture on the machine of docs/benchmarks.md
ROUNDING = 3  # of 255: more than this is no rounding, and the rates compare different work


def measure(site: Site) -> Part:
    """Each round: the system makes a file; the bare loop makes the same pictures from the manifest's jobs."""
    entry = demo.model()
    fleet = site.fleet(Recipe())
    part = Part([])
    with BareLoop(entry.path, site.folder) as loop:
        for steps, goal in GOALS.items():
            _measure(site, fleet, loop, steps, goal, part)
    return part


def _measure(site: Site, fleet: Fleet, loop: BareLoop, steps: int, goal: float, part: Part) -> None:
    """With so many steps; what is found is added to the part."""
    name = f"loop{steps}"
    rows = demo.rows_for(demo.warm(fleet, site.folder, name, steps), site.quick)
    demo.warm_loop(loop, _jobs(list(fleet.lines(f"{name}-warm"))))
    pairs, differences = [], []
    for number in range(QUICK_ROUNDS if site.quick else ROUNDS):
        series = demo.series(site.folder, name, number, rows, steps)
        used = effort.seconds()
        seconds = fleet.make(series.path, series.run)
        cost, lines = effort.between(used, rows), list(fleet.lines(series.run))
        bare_seconds = loop.make(_jobs(lines), BATCH)
        pairs.append((rows / seconds, rows / bare_seconds))
        differences.append(_difference(fleet, series, lines, loop))
        profile = [*_stages(lines, seconds, bare_seconds), f"CPU of the system, ms per picture: {cost}"]
    line = table.ratio(
        f"{demo.model().name}, {steps} steps, 1 worker, 1 thread, over the bare loop", "img/s", pairs, goal
    )
    part.lines.append(line)
    part.notes += [_setting(lines, rows), _equality(differences)]
    part.profile += [] if line.met else profile


def _jobs(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["job"] for line in lines]


def _difference(fleet: Fleet, series: Series, lines: list[dict[str, Any]], loop: BareLoop) -> tuple[int, int, int]:
    """(pictures, of them equal, the largest difference of a value, of 255) between the system and the bare loop."""
    shapes = {tuple(line["batch_shape"]) for line in lines}
    if {shape[0] for shape in shapes} != {BATCH}:
        raise BenchError(f"the system's batches were {sorted(shapes)}; expected {BATCH} images in each")
    mine = np.stack([images.decode(fleet.picture(series.run, line)) for line in lines])
    apart = np.abs(mine.astype(np.int16) - loop.pictures()).reshape(len(lines), -1).max(axis=1)
    return len(lines), int((apart == 0).sum()), int(apart.max())


def _equality(differences: list[tuple[int, int, int]]) -> str:
    pictures, equal = (sum(difference[i] for difference in differences) for i in (0, 1))
    most = max(difference[2] for difference in differences)
    if equal == pictures:
        return f"all {pictures} pictures equal the bare loop's, pixel for pixel"
    word = "rounding" if most <= ROUNDING else "MORE THAN ROUNDING: the two did different work"
    return f"{equal} of {pictures} pictures equal the bare loop's; the others differ by at most {most}/255 ({word})"


def _setting(lines: list[dict[str, Any]], rows: int) -> str:
    job = lines[0]["job"]
    return (
        f"{rows} rows a round: {job['width']}x{job['height']}, {job['num_inference_steps']} steps of "
        f"{job['scheduler']}, guidance {job['guidance_scale']:g}, batches of {BATCH}"
    )


def _stages(lines: list[dict[str, Any]], seconds: float, bare_seconds: float) -> list[str]:
    """Where the last round's seconds went, by the manifest."""
    model = sum(line["seconds"]["batch"] / line["batch_shape"][0] for line in lines)
    shards = len({line["thumb"]["key"] for line in lines})
    encode, put = (1000 * mean(line["seconds"][stage] for line in lines) for stage in ("encode", "put"))
    return [
        f"the last round took {seconds:.2f} s, the bare loop {bare_seconds:.2f} s",
        f"in model calls {model:.2f} s; between them {seconds - model:.2f} s, "
        f"which is {1000 * (seconds - model) / shards:.0f} ms for each of {shards} shards",
        f"per picture: encode {encode:.1f} ms, put {put:.1f} ms, in threads beside the model",
    ]
