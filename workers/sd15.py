"""Stable Diffusion 1.x: a diffusers folder becomes a model on a device."""

from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline

from shared import catalog
from shared.errors import ModelError
from workers.loaded import Loaded

diffusers.logging.disable_progress_bar()  # this is a service: its log is read by programs
transformers.logging.disable_progress_bar()

# Settings that one row chose and that must not leak into the next (they are properties of a scheduler, not of a model).
CHOSEN_PER_ROW = ("use_karras_sigmas", "algorithm_type", "solver_order", "solver_type", "lower_order_final")


class _RowGuidance:
    """One guidance scale per image: a tensor of shape (images, 1, 1, 1)."""

    _guidance_scale: torch.Tensor | float
    unet: Any

    @property
    def do_classifier_free_guidance(self) -> bool:
        guided = bool(torch.as_tensor(self._guidance_scale).gt(1).any())
        return guided and self.unet.config.time_cond_proj_dim is None


class Txt2Img(_RowGuidance, StableDiffusionPipeline):
    """The pipeline of diffusers with one guidance scale per image."""


class Img2Img(_RowGuidance, StableDiffusionImg2ImgPipeline):
    """The pipeline of diffusers with one guidance scale per image."""


class Inpaint(_RowGuidance, StableDiffusionInpaintPipeline):
    """The pipeline of diffusers with one guidance scale per image.

    A UNet of 9 input channels sees mask and masked picture; with one of 4, each step puts the noised original back
    outside the mask. Which of the two, the model's own configuration says.
    """


def load(entry: catalog.Model, device: torch.device) -> Loaded:
    """A diffusers folder of Stable Diffusion's architecture, safetensors only, nothing from the network."""
    try:
        pipeline = Txt2Img.from_pretrained(
            entry.path,
            local_files_only=True,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        ).to(device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"model {entry.name}: {entry.path} does not load as Stable Diffusion 1.x: {error}") from error
    parts = {**pipeline.components, "requires_safety_checker": False}
    further = {"img2img": Img2Img(**parts), "inpaint": Inpaint(**parts)}
    for each in (pipeline, *further.values()):
        each.set_progress_bar_config(disable=True)
    config = {k: v for k, v in pipeline.scheduler.config.items() if k not in CHOSEN_PER_ROW}
    nets = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    size = sum(p.numel() * p.element_size() for net in nets for p in net.parameters())
    return Loaded(entry.name, entry.identity, device, pipeline, size, config, further)
