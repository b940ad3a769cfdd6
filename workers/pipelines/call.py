"""What every call of a Stable Diffusion pipeline has in common."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from shared.images import Pixels
from workers.batches import Item
from workers.loaded import Loaded

# What a pipeline holds twice while it guides: for the negative prompt, then for the prompt.
DOUBLED = ("prompt_embeds", "add_text_embeds", "add_time_ids", "mask", "masked_image_latents")
OnStep = Callable[[int], None]


def generators(items: Sequence[Item]) -> list[torch.Generator]:
    """One per image and on the CPU, so that its noise depends on its seed alone."""
    return [torch.Generator("cpu").manual_seed(item.seed) for item in items]


def arguments(items: Sequence[Item], model: Loaded, pipeline: Any, on_step: OnStep) -> dict[str, Any]:
    """Texts, guidance per image, a fresh scheduler in the pipeline; `on_step(i)` may raise to stop after step i."""
    jobs = [item.job for item in items]
    pipeline.scheduler = model.scheduler(jobs[0].scheduler, [item.seed for item in items])
    return {
        **model.texts.arguments(jobs),
        "guidance_scale": torch.tensor([job.guidance_scale for job in jobs]).view(-1, 1, 1, 1),
        "num_inference_steps": jobs[0].num_inference_steps,
        "output_type": "pt",
        "callback_on_step_end": _callback(on_step, jobs[0].guidance_end),
        "callback_on_step_end_tensor_inputs": [name for name in DOUBLED if name in pipeline._callback_tensor_inputs],
    }


def to_floats(pictures: Sequence[Pixels]) -> torch.Tensor:
    """N pictures HWC uint8 -> (N, 3, H, W) float32 in [0, 1], as the pipelines take them."""
    return torch.stack([torch.from_numpy(picture.copy()) for picture in pictures]).permute(0, 3, 1, 2).float() / 255


def _callback(on_step: OnStep, guidance_end: float) -> Callable[..., dict[str, Any]]:
    def step_end(pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step)
        guided = max(1, int(pipeline.num_timesteps * guidance_end))
        if step + 1 != guided or not pipeline.do_classifier_free_guidance:
            return {}
        pipeline._guidance_scale = torch.ones(len(pipeline._guidance_scale), 1, 1, 1)  # from here on, each goes once
        return {name: tensor.chunk(2)[1] for name, tensor in tensors.items() if tensor is not None}

    return step_end
