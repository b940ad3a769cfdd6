"""Text to image with the Stable Diffusion pipeline of diffusers."""

from collections.abc import Sequence

import torch

from shared.images import Pixels
from workers.batches import Item
from workers.loaded import Loaded
from workers.pipelines import call


@torch.inference_mode()
def txt2img(items: Sequence[Item], model: Loaded, on_step: call.OnStep) -> list[Pixels | None]:
    """One picture per item: HWC, RGB, uint8; None where the model returned NaN or infinity."""
    job, pipeline = items[0].job, model.pipeline
    images = pipeline(
        **call.arguments(items, model, pipeline, on_step),
        generator=call.generators(items),
        width=job.width,
        height=job.height,
    ).images
    return call.to_pixels(images)
