"""The whole way of a row with a device's worker and the storage, against the bare loop on the same device."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from bench import demo, table
from bench.bareloop import BareLoop
from bench.rig import Rig
from bench.site import Recipe, Site
from bench.table import Line, Part, number
from producer import plan
from shared.catalog import Model

GOAL, GOAL_GAP_MS = 0.98, 5.0
BATCH, STEPS, ROUNDS = 16, 20, 2
ROWS, QUICK_ROWS = 192, 8
NEEDED_S = 130.0
CATALOG = """
default = "giant"
[models.giant]
family = "sd15"
path = {path}
identity = "{identity}"
defaults = {{ width = {side}, height = {side}, num_inference_steps = {steps}, guidance_scale = 7.5 }}
limits = {{ min_size = 64 }}
"""


def measure(rig: Rig, _tflops: float, part: Part) -> None:
    """Rounds in turns; each file has prompts of its own, is cut as a large one is, and both sides draw batches of one
    size."""
    entry, rows = rig.model("sd15"), QUICK_ROWS if rig.quick else ROWS
    batch, steps = (4, 2) if rig.quick else (BATCH, STEPS)
    overlay = _catalog(rig, entry, steps)
    env = (("PIXELMILL_MODELS", str(overlay)), ("PIXELMILL_BATCH_IMAGES", str(batch)))
    kind = rig.device.type
    pairs = []
    with Site(rig.quick) as site, BareLoop(entry.path, site.folder, kind) as loop, _cut_as_large_files_are():
        fleet = site.fleet(Recipe(device=kind, env=env))
        for turn in range(-1, 1 if rig.quick else ROUNDS):
            count = rows if turn >= 0 else min(rows, 2 * batch)  # to warm up
            series = demo.series(site.folder, "through", turn + 1, count)
            seconds = fleet.make(series.path, series.run)
            lines = list(fleet.lines(series.run))
            bare_seconds = loop.make([line["job"] for line in lines], batch)
            pairs.append((count / seconds, count / bare_seconds))
    shapes = sorted({line["batch_shape"][0] for line in lines})
    pairs = pairs[1:]
    part.lines.append(table.ratio("sd15 through the system, over the bare loop", "img/s", pairs, GOAL))
    added = [1000 * batch * (1 / ours - 1 / bare) for ours, bare in pairs]
    figure = median(added)
    part.lines.append(
        Line("what the system adds to a batch", f"{number(figure)} ms", "", figure, "ms", GOAL_GAP_MS, at_least=False)
    )
    each = ", ".join(f"{ms:.1f}" for ms in added)
    part.notes.append(f"{rows} rows a round in batches of {shapes}; added to a batch in each round: {each} ms")
    model_s = sum(line["seconds"]["batch"] / line["batch_shape"][0] for line in lines)
    part.profile.append(f"the last round took {seconds:.2f} s, of them {model_s:.2f} s in model calls by the device")


@contextmanager
def _cut_as_large_files_are() -> Iterator[None]:
    """Shards of 64 rows, which small files have not: what is wanted is the rate of thousands of rows."""
    usual = plan.WANTED_SHARDS
    plan.WANTED_SHARDS = 1
    try:
        yield
    finally:
        plan.WANTED_SHARDS = usual


def _catalog(rig: Rig, entry: Model, steps: int) -> str:
    path = rig.folder / "giant.toml"
    side = 64 if rig.quick else 512
    path.write_text(CATALOG.format(path=json.dumps(str(entry.path)), identity=entry.identity, side=side, steps=steps))
    return str(path)
