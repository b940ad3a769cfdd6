"""Stable Diffusion 1.x: a diffusers folder becomes a model on a device."""

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline

from shared import catalog
from shared.errors import ModelError
from workers.loaded import Loaded

diffusers.logging.disable_progress_bar()  # this is a service: its log is read by programs
transformers.logging.disable_progress_bar()

# Settings that one row chose and that must not leak into the next (they are properties of a scheduler, not of a model).
CHOSEN_PER_ROW = ("use_karras_sigmas", "algorithm_type", "solver_order", "solver_type", "lower_order_final")


class RowGuidance(StableDiffusionPipeline):
    """The pipeline of diffusers with one guidance scale per image: a tensor of shape (images, 1, 1, 1)."""

    @property
    def do_classifier_free_guidance(self) -> bool:
        guided = bool(torch.as_tensor(self._guidance_scale).gt(1).any())
        return guided and self.unet.config.time_cond_proj_dim is None


def load(entry: catalog.Model, device: torch.device) -> Loaded:
    """A diffusers folder of Stable Diffusion's architecture, safetensors only, nothing from the network."""
    try:
        pipeline = RowGuidance.from_pretrained(
            entry.path,
            local_files_only=True,
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        ).to(device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"model {entry.name}: {entry.path} does not load as Stable Diffusion 1.x: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    config = {k: v for k, v in pipeline.scheduler.config.items() if k not in CHOSEN_PER_ROW}
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    size = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    return Loaded(entry.name, entry.identity, device, pipeline, size, config)
