"""A model that costs nothing: 512x512 pictures that compress as photographs do. What is left is the system.

Importing it puts it in the place of Stable Diffusion.
"""

from collections.abc import Callable, Sequence

import torch

from bench.photos import PHOTOS, photo
from shared import catalog
from shared.images import Pixels
from workers import models
from workers.batches import Item
from workers.loaded import Loaded
from workers.pipelines import runners


def load(entry: catalog.Model, _device: torch.device) -> Loaded:
    for number in range(PHOTOS):
        photo(number)
    return Loaded(entry.name, entry.identity, torch.device("cpu"), None, 1)


def draw(items: Sequence[Item], _model: Loaded, on_step: Callable[[int], None]) -> list[Pixels | None]:
    """One picture per item: HWC, RGB, uint8. It steps as a model does, so that progress and leases are paid for."""
    for step in range(items[0].row.job.num_inference_steps):
        on_step(step)
    return [photo(item.seed % PHOTOS) for item in items]


models.LOADERS["sd15"] = load
runners.RUNNERS["txt2img"] = draw
