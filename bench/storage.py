"""The system around a model that costs nothing: pictures stored per second, against bare puts and a plain loop."""

from pathlib import Path
from statistics import mean

from bench import effort, prompts, table
from bench.fleet import Fleet
from bench.naive import THREADS, Bucket
from bench.site import Recipe, Site
from bench.table import Part
from shared import catalog

ROUNDS, QUICK_ROUNDS = 3, 1
ROWS, QUICK_ROWS = 1024, 64
PUTS_PER_ROW = 0.5
LOOPS_PER_ROW = 0.1
BODIES = 64
GOAL_PUTS = 0.9
GOAL_LOOP = 5.0
CATALOG = """\
default = "null"
[models.null]
family = "sd15"
path = "{folder}"
identity = "{identity}"
[models.null.defaults]
width = 512
height = 512
num_inference_steps = 20
guidance_scale = 4.0
scheduler = "dpmpp_2m"
"""


def measure(site: Site) -> Part:
    """One worker, one thread. Each round: the system, then bare boto3, then the plain loop."""
    fleet = site.fleet(recipe(site.folder))
    rows = QUICK_ROWS if site.quick else ROWS
    bucket, bodies = Bucket(fleet.settings), _warm(fleet, site.folder)
    puts, loops, costs = [], [], []
    for number in range(QUICK_ROUNDS if site.quick else ROUNDS):
        used = effort.seconds()
        path = prompts.write_plain(site.folder / "null.csv", rows, number)
        rate = rows / fleet.make(path, f"null-{number}")
        costs.append(effort.between(used, rows))
        used = effort.seconds()
        puts.append((rate, bucket.puts_per_s(bodies, int(rows * PUTS_PER_ROW))))
        costs.append(effort.between(used, int(rows * PUTS_PER_ROW)))
        loops.append((rate, bucket.loop_per_s(int(rows * LOOPS_PER_ROW))))
        stages = _stages(fleet, f"null-{number}")
        fleet.forget(f"null-{number}")
        bucket.empty()
    system, bare = costs[-2:]
    profile = [f"CPU of the system, ms per picture: {system}", f"CPU of bare puts: {bare}", stages]
    return _part(puts, loops, profile, mean(map(len, bodies)))


def recipe(folder: Path) -> Recipe:
    """One worker that holds the null model, and a catalog that knows no other."""
    return Recipe(module="bench.null_host", env=(("PIXELMILL_MODELS", str(_catalog(folder))),))


def _part(puts: list[tuple[float, float]], loops: list[tuple[float, float]], profile: list[str], size: float) -> Part:
    part = Part(
        [
            table.ratio(f"512x512 PNG stored, over {THREADS} threads of bare puts", "img/s", puts, GOAL_PUTS),
            table.ratio("the same, over batch 1, default PNG, one put each", "img/s", loops, GOAL_LOOP),
        ],
        [f"a picture has {size / 1000:.0f} kB as stored; the null model draws it in no time"],
    )
    part.profile = profile if part.missed else []
    return part


def _warm(fleet: Fleet, folder: Path) -> list[bytes]:
    """The first run loads everything; its objects are the bytes that bare boto3 puts later."""
    fleet.make(prompts.write_plain(folder / "warm.csv", BODIES, 99), "null-warm")
    bodies = [fleet.picture("null-warm", line) for line in fleet.lines("null-warm")]
    fleet.forget("null-warm")
    return bodies


def _stages(fleet: Fleet, run: str) -> str:
    """What the workers wrote into the manifest: how long each stage took per picture."""
    seconds = [line["seconds"] | {"images": line["batch_shape"][0]} for line in fleet.lines(run)]
    encode, put = (1000 * mean(line[stage] for line in seconds) for stage in ("encode", "put"))
    draw = 1000 * mean(line["batch"] / line["images"] for line in seconds)
    return f"ms per picture, by the manifest: model {draw:.1f}; encode {encode:.1f} and put {put:.1f} in 4 threads"


def _catalog(folder: Path) -> Path:
    """A models.toml whose only model is a folder with nothing to load."""
    nothing, path = folder / "null-model", folder / "null.toml"
    nothing.mkdir(exist_ok=True)
    (nothing / "weights").write_text("none")
    path.write_text(CATALOG.format(folder=nothing, identity=catalog.identity(nothing)))
    return path
