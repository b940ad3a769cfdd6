"""Stage 3: the UNet, which learns to remove noise from latents as its caption says."""

from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel

from workers.demo.config import Diffusion

TRAIN_STEPS = 1000
# Linear betas leave almost no signal at the last step, so the model takes the background from the prompt and not from
# the mean of the starting noise (Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed").
SCHEDULE = {
    "num_train_timesteps": TRAIN_STEPS,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


def build(config: Diffusion, latent_channels: int, latent_size: int, text_width: int) -> UNet2DConditionModel:
    """Attention sits on every level but the first, where it would cost most and tell least."""
    deep = len(config.channels) - 1
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deep),
        up_block_types=(*("CrossAttnUpBlock2D",) * deep, "UpBlock2D"),
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        cross_attention_dim=text_width,
        attention_head_dim=config.heads,
        norm_num_groups=16,
    )


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(**SCHEDULE)


class Denoiser(nn.Module):
    """UNet and text encoder, which learn together, and their slow averages, which are what is kept."""

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel):
        super().__init__()
        self.unet, self.text = unet, text
        self.slow = nn.ModuleList([deepcopy(unet), deepcopy(text)]).requires_grad_(False)

    @torch.no_grad()
    def average(self, decay: float, step: int) -> None:
        """Follow fast while young, slowly later."""
        decay = min(decay, (1 + step) / (10 + step))
        for slow, fast in zip(self.slow, (self.unet, self.text), strict=True):
            for kept, new in zip(slow.parameters(), fast.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)


@dataclass
class Task:
    """What one training step of the UNet does."""

    config: Diffusion
    latents: torch.Tensor  # NCHW float, deviation 1
    tokens: torch.Tensor  # NxVxL int64: V captions of each picture
    empty: torch.Tensor  # L int64: the empty caption
    model: Denoiser
    alphas: torch.Tensor = field(default_factory=lambda: scheduler().alphas_cumprod)

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> torch.Tensor:
        clean, tokens = self._pick(rng)
        steps = self._steps(rng)
        grain = torch.randn(clean.shape, generator=noise)
        signal, spread = (value.sqrt()[:, None, None, None] for value in (self.alphas[steps], 1 - self.alphas[steps]))
        noisy, target = signal * clean + spread * grain, signal * grain - spread * clean
        found = self.model.unet(noisy, steps, self.model.text(tokens).last_hidden_state).sample
        return functional.mse_loss(found.float(), target)

    def _pick(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        picks = torch.from_numpy(rng.integers(len(self.latents), size=self.config.batch_size))
        variant = torch.from_numpy(rng.integers(self.tokens.shape[1], size=len(picks)))
        tokens = self.tokens[picks, variant]
        tokens[torch.from_numpy(rng.random(len(picks)) < self.config.caption_dropout)] = self.empty
        return self.latents[picks].float(), tokens

    def _steps(self, rng: np.random.Generator) -> torch.Tensor:
        """Time steps, spread evenly over the batch, which makes the loss less noisy. Every other one is drawn towards
        the middle, where shapes are decided (logit-normal: Esser et al. 2024, "Scaling Rectified Flow Transformers").
        """
        count = self.config.batch_size
        share = torch.from_numpy((rng.permutation(count) + rng.random(count)) / count)
        share[::2] = torch.special.ndtri(share[::2]).sigmoid()
        return (share * TRAIN_STEPS).long()
