"""Inpainting: what the mask covers is drawn anew. Outpainting and mask edits are the same call with other masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate

from shared.images import Pixels
from workers.arriving import Arriving
from workers.batches import Item
from workers.loaded import Loaded
from workers.pipelines import call


@torch.inference_mode()
def inpaint(items: Sequence[Item], model: Loaded, on_step: call.OnStep) -> Sequence[Pixels | None]:
    """One picture per prepared item: HWC, RGB, uint8; None where the model returned NaN or infinity."""
    job, pipeline = items[0].job, model.further["inpaint"]
    pictures = call.to_floats([item.ready.start for item in items])
    masks = torch.stack([torch.from_numpy(item.ready.cells.copy()) for item in items]).unsqueeze(1).float() / 255
    noise = call.generators(items)
    content: dict[str, Any] = {"image": pictures}
    if job.masked_content.startswith("latent") and pipeline.unet.config.in_channels == 4:
        latents = _latents(model, pictures, masks, job.masked_content, noise)
        content = {"image": latents, "masked_image_latents": torch.zeros_like(latents)}  # only 9 channels look at it
    images = pipeline(
        **call.arguments(items, model, pipeline, on_step),
        **content,
        mask_image=masks,
        generator=noise,
        width=job.width,
        height=job.height,
        strength=job.strength,
    ).images
    return Arriving(images)


def _latents(
    model: Loaded, pictures: torch.Tensor, masks: torch.Tensor, content: str, generators: list[torch.Generator]
) -> torch.Tensor:
    """The pictures as (N, 4, h, w) latents, with noise or nothing where the masks (N, 1, H, W) are 1."""
    vae = model.pipeline.vae
    pixels = (pictures * 2 - 1).to(model.device, vae.dtype)  # not the pipeline's, which may wait on the CPU
    coded = [vae.encode(p[None]).latent_dist.sample(g) for p, g in zip(pixels, generators, strict=True)]
    known = torch.cat(coded) * vae.config.scaling_factor
    anew = torch.zeros_like(known)
    if content == "latent_noise":
        anew = torch.stack([torch.randn(known.shape[1:], generator=generator) for generator in generators]).to(known)
    where = interpolate(masks, known.shape[-2:]).to(known)
    return known * (1 - where) + anew * where
