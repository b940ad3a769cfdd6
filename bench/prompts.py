"""Rows for the parts: prompts of the demo model's world, no two alike, the same in every run of the bench."""

import csv
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
PLACES = ("in the center", "on the left", "on the right", "at the top", "at the bottom", "in the top left corner")
STEPS = (20, 25, 30)
PIXELS = ((128, 128), (192, 128), (128, 192))


def texts(rng: random.Random) -> Iterator[str]:
    """Every scene once, in an order of the rng's, then again."""
    scenes = list(itertools.product(SIZES, COLORS, SHAPES, PLACES, COLORS))
    rng.shuffle(scenes)
    for size, color, shape, place, ground in itertools.cycle(scenes):
        yield f"a {size} {color} {shape} {place} on a {ground} background"


def write_plain(path: Path, rows: int, series: int, steps: int | None = None) -> Path:
    """Prompt, seed, and steps unless they are the model's default, as all else is. Another series, other prompts and
    seeds."""
    rng = random.Random(series)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("prompt", "seed", "steps"))
        table.writerows((text, rng.randrange(2**32), steps) for text in itertools.islice(texts(rng), rows))
    return path


def write_full(path: Path, rows: int) -> Path:
    """What people who sweep settings write: steps and sizes change from row to row."""
    rng = random.Random(rows)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("prompt", "seed", "steps", "width", "height"))
        for text in itertools.islice(texts(rng), rows):
            table.writerow((text, rng.randrange(2**32), rng.choice(STEPS), *rng.choice(PIXELS)))
    return path
