"""How far pictures of one job differ between batch shapes: `python -m bench.shapes`."""

import sys
from collections.abc import Sequence

import numpy as np
import torch

from shared import catalog
from shared.images import Pixels
from shared.jobs import Row
from workers.batches import Item
from workers.models import Models
from workers.pipelines.txt2img import txt2img

SHAPES = (1, 3, 8)
PICTURES = 24
SETTINGS = {"width", "height", "num_inference_steps", "guidance_scale"}
SCHEDULERS = ("dpmpp_2m", "euler_a", "ddim")
PROMPT = "a large red circle in the center on a white background"


def items(model: catalog.Model, scheduler: str) -> list[Item]:
    """The same prompt with 24 seeds, at the model's own settings."""
    job = model.defaults.model_dump(include=SETTINGS) | {
        "kind": "txt2img",
        "model": model.name,
        "prompt": PROMPT,
        "scheduler": scheduler,
    }
    head = {"line": 1, "cells": {}, "job_id": ""}
    rows = [Row.model_validate(head | {"row": seed + 1, "job": job | {"seed": seed}}) for seed in range(PICTURES)]
    return [Item(row, 0) for row in rows]


def render(wanted: Sequence[Item], models: Models, shape: int) -> list[Pixels]:
    """All pictures, `shape` at a time."""
    model, pictures = models.get(wanted[0].row.job.model), []
    for start in range(0, len(wanted), shape):
        pictures += txt2img(wanted[start : start + shape], model, lambda _: None)
    return [picture for picture in pictures if picture is not None]


def main() -> int:
    torch.set_num_threads(1)
    known = catalog.load()
    models = Models(known, torch.device("cpu"), 1 << 40)
    print("| scheduler | shapes | largest difference | mean difference | values that differ |\n|---|---|---|---|---|")
    for scheduler in SCHEDULERS:
        wanted = items(known.models[known.defaults["model"]], scheduler)
        made = {shape: np.stack(render(wanted, models, shape)).astype(int) for shape in SHAPES}
        for one, other in ((1, 3), (1, 8), (3, 8)):
            far = np.abs(made[one] - made[other])
            share = 100 * (far > 0).mean()
            print(f"| {scheduler} | {one} and {other} | {far.max()}/255 | {far.mean():.4f}/255 | {share:.2f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
