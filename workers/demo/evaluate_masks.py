"""Measures how well the small mask models find objects: python -m workers.demo.evaluate_masks"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shared import catalog
from shared.errors import BadInput
from shared.headers import Facts
from shared.jobs import Segment
from workers import clipseg, masks, sam, select
from workers.demo import crowds
from workers.demo.crowds import Crowd
from workers.originals import Original

SEED = 30_000  # of the scenes
GOALS = {"point": 0.92, "box": 0.95, "phrase": 0.85, "auto": 0.95}
FOUND_AT = 0.8  # overlap from which `auto` has found an object


@dataclass(frozen=True)
class Case:
    """A held-out scene and its wanted mask, HxW bool."""

    name: str
    crowd: Crowd
    wanted: NDArray[np.bool_]

    @property
    def original(self) -> Original:
        height, width = self.wanted.shape
        return Original(self.crowd.image, None, False, None, b"", Facts("png", width, height, True, "RGB"))


def cases(count: int, size: int = 128, most: int = 1) -> list[Case]:
    """Scenes of held-out combinations; `most`: objects in each."""
    crowd = [crowds.draw(np.random.default_rng([SEED, i]), size, held_out=True, most=most) for i in range(count)]
    return [Case(str(i), one, one.labels == 1) for i, one in enumerate(crowd)]


def job(case: Case, way: str, models: catalog.Catalog, rng: np.random.Generator) -> Segment:
    """What a row would ask for: a point in the object, its box, its color and shape, or everything."""
    height, width = case.wanted.shape
    chosen = models.models[models.defaults["mask_model"]].defaults
    common = {"image": case.name, "width": width, "height": height, "mask_model": models.defaults["mask_model"]}
    if way == "point":
        ys, xs = np.nonzero(case.wanted)
        pick = rng.integers(len(ys))
        return Segment(**common, points=((float(xs[pick]), float(ys[pick])),), point_labels=(1,))
    if way == "box":
        return Segment(**common, box=masks.box_of(case.wanted))
    if way == "phrase":
        scene = case.crowd.objects[0]
        text = models.defaults["mask_text_model"]
        return Segment(**common, mask_text=f"the {scene.color} {scene.shape}", mask_text_model=text)
    grid = {"points_per_side", "pred_iou_thresh", "stability_score_thresh"}
    return Segment(**common, auto=True, **chosen.model_dump(include=grid))


def overlaps(way: str, todo: list[Case], models: catalog.Catalog) -> list[float]:
    """Of each scene: the overlap of what was selected with the object; of `auto`, that of the best mask."""
    entries = {column: models.models[models.defaults[column]] for column in ("mask_model", "mask_text_model")}
    segmenter = sam.load(entries["mask_model"], torch.device("cpu"))
    finder = clipseg.load(entries["mask_text_model"], torch.device("cpu"))
    found = []
    for i, case in enumerate(todo):
        segmenter.look(case.name, case.crowd.image)
        wanted = job(case, way, models, np.random.default_rng([SEED, 1, i]))
        (answer,) = select.select([wanted], case.name, case.original, segmenter, lambda _: finder)
        best = [] if isinstance(answer, BadInput) else [masks.overlap(one.mask, case.wanted) for one in answer]
        found.append(max(best, default=0.0))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.demo.evaluate_masks", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=1, help="objects in a scene, at most (default: %(default)s)")
    parser.add_argument("--models", type=Path, help="a models.toml laid over the built-in one")
    options = parser.parse_args(arguments)
    todo, models = cases(options.count, most=options.objects), catalog.load(options.models)
    print(f"{len(todo)} held-out scenes of at most {options.objects} objects")
    for way, goal in GOALS.items():
        start = time.monotonic()
        found = np.array(overlaps(way, todo, models))
        share = float((found >= FOUND_AT).mean())
        reached = (share if way == "auto" else found.mean()) >= goal
        print(
            f"{way:8} mean overlap {found.mean():.3f}, {share:6.1%} at {FOUND_AT} or more; "
            f"goal {goal} {'reached' if reached else 'MISSED'} ({time.monotonic() - start:.0f} s)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
