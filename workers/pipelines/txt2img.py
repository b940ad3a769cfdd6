"""Text to image with the Stable Diffusion pipeline of diffusers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from shared.images import Pixels
from workers.batches import Item
from workers.loaded import Loaded


@torch.inference_mode()
def txt2img(items: Sequence[Item], model: Loaded, on_step: Callable[[int], None]) -> list[Pixels | None]:
    """One picture per item: HWC, RGB, uint8; None where the model returned NaN or infinity.

    Every image has a generator of its own on the CPU, so its noise depends on its seed alone. `on_step(i)` is called
    after denoising step i and may raise to stop.
    """
    jobs = [item.row.job for item in items]
    pipeline = model.pipeline
    pipeline.scheduler = model.scheduler(jobs[0].scheduler)
    guidance = torch.tensor([job.guidance_scale for job in jobs], device=model.device).view(-1, 1, 1, 1)
    images = pipeline(
        prompt_embeds=torch.cat([model.encode(job.prompt) for job in jobs]),
        negative_prompt_embeds=torch.cat([model.encode(job.negative_prompt) for job in jobs]),
        guidance_scale=guidance.to(pipeline.unet.dtype),
        generator=[torch.Generator("cpu").manual_seed(item.seed) for item in items],
        width=jobs[0].width,
        height=jobs[0].height,
        num_inference_steps=jobs[0].num_inference_steps,
        output_type="pt",
        callback_on_step_end=_callback(on_step),
    ).images
    return to_pixels(images)


def to_pixels(images: torch.Tensor) -> list[Pixels | None]:
    """(N, 3, H, W) floats in [0, 1] -> N pictures HWC uint8, made on the device; None where a value is not finite."""
    finite = torch.isfinite(images).flatten(1).all(dim=1).tolist()
    whole = images.float().nan_to_num().mul(255).round().clamp(0, 255).to(torch.uint8)
    pictures = whole.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [picture if good else None for picture, good in zip(pictures, finite, strict=True)]


def _callback(on_step: Callable[[int], None]) -> Callable[..., dict[str, Any]]:
    def step_end(_pipeline: Any, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step)
        return {}

    return step_end
