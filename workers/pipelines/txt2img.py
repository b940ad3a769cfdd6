"""Text to image with the Stable Diffusion pipeline of diffusers, in one pass or two."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from shared.images import Pixels
from shared.jobs import scaled
from workers.arriving import Arriving
from workers.batches import Item
from workers.loaded import Loaded
from workers.pipelines import call

LANCZOS = Image.Resampling.LANCZOS


@torch.inference_mode()
def txt2img(items: Sequence[Item], model: Loaded, on_step: call.OnStep) -> Sequence[Pixels | None]:
    """One picture per item: HWC, RGB, uint8; None where the model returned NaN or infinity."""
    job, pipeline = items[0].job, model.pipeline
    images = pipeline(
        **call.arguments(items, model, pipeline, on_step),
        generator=call.generators(items),
        width=job.width,
        height=job.height,
    ).images
    pictures = Arriving(images)
    return _drawn_on(items, pictures, model, on_step) if job.hires_steps else pictures


def _drawn_on(
    items: Sequence[Item], pictures: Sequence[Pixels | None], model: Loaded, on_step: call.OnStep
) -> Sequence[Pixels | None]:
    """The second pass: the pictures, scaled up, are what image to image begins with; the same noise as in the first."""
    job, pipeline = items[0].job, model.further["img2img"]
    nothing = np.zeros((job.height, job.width, 3), np.uint8)
    size = scaled(job.width, job.hires_scale), scaled(job.height, job.hires_scale)
    starts = [np.asarray(Image.fromarray(nothing if p is None else p).resize(size, LANCZOS)) for p in pictures]
    images = pipeline(
        **call.arguments(items, model, pipeline, on_step) | {"num_inference_steps": job.hires_steps},
        generator=call.generators(items),
        image=call.to_floats(starts),
        strength=job.hires_strength,
    ).images
    return [None if before is None else after for before, after in zip(pictures, Arriving(images), strict=True)]
