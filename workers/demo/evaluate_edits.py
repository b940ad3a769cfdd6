"""Measures what edits with the demo models do to held-out scenes: python -m workers.demo.evaluate_edits"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from shared import catalog, images
from shared.errors import PixelmillError
from shared.images import Pixels
from shared.jobs import ACTION_DEFAULTS, MaskEdit, Row
from workers import finishing, masks
from workers.batches import Item
from workers.demo import evaluate_masks, judge
from workers.demo.captions import caption
from workers.demo.evaluate_masks import Case
from workers.demo.scenes import COLORS
from workers.models import Models
from workers.originals import Original
from workers.pipelines.runners import RUNNERS
from workers.prepare import Preparation

GOALS = {"replace_background": 0.90, "replace_object": 0.85, "remove_object": 0.90}
CROP = 24  # pixels about an object to be replaced, so that the model sees it large
EDGE = 3  # pixels about the object's edge that belong to neither side
REACH = 12  # pixels about the object that an edit of it may touch: grown, feathered, and the mask's own error
LEFT_OVER = 0.05  # of the object's area may still have its color
BATCH = 8


class Scenes:
    """The cases' pictures by name, in the place of a storage."""

    def __init__(self, cases: Iterable[Case]):
        self.originals = {case.name: case.original for case in cases}

    def picture(self, name: str, /) -> Original:
        return self.originals[name]

    def mask(self, name: str, /) -> NDArray[np.uint8]:
        raise KeyError(name)


@dataclass(frozen=True)
class Edit:
    case: Case
    action: str
    asked: str  # color
    prompt: str


def edit(case: Case, action: str) -> Edit:
    """What a person might ask of the scene: another color for its background or its object, or the object gone."""
    scene, rng = case.crowd.objects[0], np.random.default_rng([evaluate_masks.SEED, 2, int(case.name)])
    taken = (scene.color, scene.background, scene.accent)
    asked = str(rng.choice([color for color in COLORS if color not in taken]))
    if action == "replace_background":
        return Edit(case, action, asked, caption(replace(scene, background=asked, pattern="plain", accent=""), rng))
    if action == "replace_object":
        seen = replace(scene, color=asked, size="large", place="center")  # in the crop
        return Edit(case, action, asked, caption(seen, rng))
    return Edit(case, action, "", "")


def item(wanted: Edit, models: catalog.Catalog, row: int) -> Item:
    sd = models.models[models.defaults["model"]]
    scene = wanted.case.crowd.objects[0]
    job = MaskEdit(
        image=wanted.case.name,
        action=wanted.action,
        prompt=wanted.prompt,
        model=sd.name,
        mask_model=models.defaults["mask_model"],
        mask_text_model=models.defaults["mask_text_model"],
        mask_text=f"the {scene.color} {scene.shape}",
        seed=row,
        **sd.defaults.model_dump(include={"width", "height", "num_inference_steps", "guidance_scale", "scheduler"}),
        **ACTION_DEFAULTS[wanted.action],
        **({"padding_mask_crop": CROP} if wanted.action == "replace_object" else {}),
        **({"strength": sd.defaults.remove_strength} if wanted.action == "remove_object" else {}),
    )
    return Item(Row(row=row, line=row, cells={}, job=job, job_id="0" * 64), 0)


def results(edits: Sequence[Edit], models: catalog.Catalog) -> Iterator[tuple[Edit, Pixels | None, str]]:
    """Each edit, the picture that came of it, or why none did."""
    known = Models(models, torch.device("cpu"), 8 << 30)
    preparation = Preparation(Scenes(edit.case for edit in edits), known)
    sd = known.get(models.defaults["model"])
    for i in range(0, len(edits), BATCH):
        batch = [item(edit, models, i + k + 1) for k, edit in enumerate(edits[i : i + BATCH])]
        ready, refused = preparation.prepare(batch)
        drawn = dict(zip((one.key for one in ready), RUNNERS["mask_edit"](ready, sd, lambda _: None), strict=True))
        by_key = {one.key: one for one in ready}
        for edit_, one in zip(edits[i : i + BATCH], batch, strict=True):
            if one.key in refused:
                yield edit_, None, str(refused[one.key])
            else:
                yield edit_, *_finished(by_key[one.key], drawn[one.key])


def _finished(one: Item, drawn: Pixels | None) -> tuple[Pixels | None, str]:
    texts = images.texts(one.row.job, 0, "demo", "0" * 64)
    try:
        return finishing.finish(one, drawn, texts).pixels, ""
    except PixelmillError as error:
        return None, str(error)


def faults(wanted: Edit, result: Pixels | None, why: str) -> list[str]:
    """What of the wish was not kept."""
    if result is None:
        return [why]
    before, mask = wanted.case.crowd.image, wanted.case.wanted
    same = (before == result).all(-1)
    inside, outside = masks.grow(mask, -EDGE), ~masks.grow(mask, REACH)
    found = []
    if wanted.action == "replace_background":
        if not same[inside].all():
            found.append("the object was touched")
        if (seen := judge.judge(result).background) != wanted.asked:
            found.append(f"the background is {seen}")
        return found
    if not same[outside].all():
        found.append("the background was touched")
    labels = judge.nearest_color(result)
    if wanted.action == "replace_object":
        counts = np.bincount(labels[masks.grow(mask, EDGE)], minlength=len(judge.NAMES))
        counts[judge.NAMES.index(wanted.case.crowd.objects[0].background)] = 0
        if (color := judge.NAMES[int(counts.argmax())]) != wanted.asked:
            found.append(f"the object is {color}")
    elif (left := left_over(wanted, result)) >= LEFT_OVER:
        found.append(f"{left:.0%} of the object is left")
    return found


def left_over(wanted: Edit, result: Pixels) -> float:
    """The part of the object's area that still has its color."""
    color = judge.NAMES.index(wanted.case.crowd.objects[0].color)
    return float((judge.nearest_color(result)[wanted.case.wanted] == color).mean())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.demo.evaluate_edits", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--models", type=Path, help="a models.toml laid over the built-in one")
    parser.add_argument("--grid", type=Path, help="save before and after of the first 20 of each action as this PNG")
    options = parser.parse_args(arguments)
    models, rows = catalog.load(options.models), []
    todo = evaluate_masks.cases(options.count)
    for action, goal in GOALS.items():
        start = time.monotonic()
        done = list(results([edit(case, action) for case in todo], models))
        bad = [(wanted, why) for wanted, result, reason in done if (why := faults(wanted, result, reason))]
        share = 1 - len(bad) / len(done)
        verdict = "reached" if share >= goal else "MISSED"
        print(f"{action:20} {share:6.1%} as asked; goal {goal:.0%} {verdict} ({time.monotonic() - start:.0f} s)")
        if action == "remove_object":
            left = np.mean([1.0 if result is None else left_over(wanted, result) for wanted, result, _ in done])
            print(f"    on average {left:.1%} of an object's area keeps its color; goal < {LEFT_OVER:.0%}")
        for wanted, why in bad[:5]:
            print(f"    scene {wanted.case.name}, {wanted.prompt!r}: {'; '.join(why)}")
        rows += _rows(done[:20])
    if options.grid:
        Image.fromarray(np.concatenate(rows)).save(options.grid)
    return 0


def _rows(done: Sequence[tuple[Edit, Pixels | None, str]]) -> list[Pixels]:
    before = np.concatenate([wanted.case.crowd.image for wanted, _, _ in done], 1)
    after = [np.zeros_like(wanted.case.crowd.image) if result is None else result for wanted, result, _ in done]
    return [before, np.concatenate(after, 1)]


if __name__ == "__main__":
    sys.exit(main())
