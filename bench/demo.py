"""The model that the parts about pictures use, and files of rows for it."""

from dataclasses import dataclass
from pathlib import Path

from bench import prompts
from bench.bareloop import BareLoop
from bench.fleet import Fleet
from bench.site import BenchError
from shared import catalog, settings
from shared.catalog import Model

BATCH = 8  # the default of PIXELMILL_BATCH_IMAGES, and of the bare loop here
WANTED_S = 24.0  # that a round of one worker takes
FEWEST, MOST = 32, 1024  # rows
TRIAL_ROWS = 16


@dataclass(frozen=True)
class Series:
    """A file of one round."""

    path: Path
    run: str
    rows: int


def model() -> Model:
    """The catalog's default model. Raises BenchError if its files are not there."""
    known = catalog.load(settings.load().models)
    entry = known.models[known.defaults["model"]]
    if not entry.path.is_dir():
        raise BenchError(
            f"model {entry.name}: there is no folder {entry.path}; train it with `python -m workers.demo.train`, "
            "or name a models.toml with another default in PIXELMILL_MODELS"
        )
    return entry


def series(folder: Path, name: str, number: int, rows: int, steps: int | None = None) -> Series:
    """New prompts and seeds for every number, so that nothing is taken from an earlier round."""
    run = f"{name}-{number}"
    return Series(prompts.write_plain(folder / f"{run}.csv", rows, number, steps), run, rows)


def warm(fleet: Fleet, folder: Path, name: str, steps: int | None = None) -> float:
    """Two runs that nobody counts: the first loads the model. Seconds per picture of the second."""
    fleet.make(series(folder, f"{name}-warm", 1000, 32, steps).path, f"{name}-cold")
    return fleet.make(series(folder, f"{name}-warm", 1001, TRIAL_ROWS, steps).path, f"{name}-warm") / TRIAL_ROWS


def rows_for(seconds_per_picture: float, quick: bool) -> int:
    """Rows of a round, in whole batches for each of two workers: long enough that its start and end do not decide."""
    wanted = FEWEST if quick else int(WANTED_S / seconds_per_picture)
    return min(max(wanted, FEWEST), MOST) // (2 * BATCH) * (2 * BATCH)


def warm_loop(loop: BareLoop, jobs: list[dict[str, object]]) -> None:
    """The bare loop's warm-up."""
    loop.make(jobs[:TRIAL_ROWS], BATCH)
