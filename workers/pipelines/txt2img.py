"""Text to image with the Stable Diffusion pipeline of diffusers, in one pass or two, by one model or two."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from shared.errors import BadInput
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
    until = {"denoising_end": job.refiner_start, "output_type": "latent"} if job.refiner else {}
    noise = call.generators(items)
    images = pipeline(
        **call.arguments(items, model, pipeline, on_step) | until,
        generator=noise,
        width=job.width,
        height=job.height,
    ).images
    if job.refiner:
        images = _ended(items, images, noise, model, on_step)
    pictures = Arriving(images)
    return _drawn_on(items, pictures, model, on_step) if job.hires_steps else pictures


def _ended(
    items: Sequence[Item], latents: torch.Tensor, noise: list[torch.Generator], model: Loaded, on_step: call.OnStep
) -> torch.Tensor:
    """What the refiner makes of latents (N, 4, height / 8, width / 8) that hold noise still: (N, 3, height, width).

    The generators go on where they are, as if one model drew: what they gave first is in the latents already.
    """
    job, refiner, begun = items[0].job, model.refiner, model.pipeline.num_timesteps
    if not 0 < begun < len(model.pipeline.scheduler.timesteps):
        raise BadInput(
            f"refiner_start is {job.refiner_start:g}, which leaves {'the refiner' if begun else 'the model'} none of "
            f"{job.num_inference_steps} steps of {job.scheduler}: choose another share, more steps or another scheduler"
        )
    images: torch.Tensor = refiner.pipeline(
        **call.arguments(items, refiner, refiner.pipeline, lambda step: on_step(begun + step)),
        generator=noise,
        image=latents,
        denoising_start=job.refiner_start,
    ).images
    return images


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
