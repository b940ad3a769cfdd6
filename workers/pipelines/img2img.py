"""Image to image: the whole input drawn anew, as far as the strength says."""

from collections.abc import Sequence

import torch

from shared.images import Pixels
from workers.arriving import Arriving
from workers.batches import Item
from workers.loaded import Loaded
from workers.pipelines import call


@torch.inference_mode()
def img2img(items: Sequence[Item], model: Loaded, on_step: call.OnStep) -> Sequence[Pixels | None]:
    """One picture per prepared item: HWC, RGB, uint8; None where the model returned NaN or infinity."""
    pipeline = model.further["img2img"]
    images = pipeline(
        **call.arguments(items, model, pipeline, on_step),
        generator=call.generators(items),
        image=call.to_floats([item.ready.start for item in items]),
        strength=items[0].job.strength,
    ).images
    return Arriving(images)
