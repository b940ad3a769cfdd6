"""Stage 1: the autoencoder between pictures and latents."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL

from workers.demo.config import Autoencoder
from workers.demo.data import Pictures

LEAST_LOG_VARIANCE = -30.0  # where diffusers cuts it off
LATENT_NOISE = 0.05  # the decoder learns to forgive this much error of the diffusion model


def build(config: Autoencoder, size: int) -> AutoencoderKL:
    levels = len(config.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.channels,
        layers_per_block=config.layers,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=size,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """NHWC uint8 in [0, 255] -> NCHW float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """NCHW in [-1, 1] -> NHWC uint8 in [0, 255]."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@dataclass
class Task:
    """What one training step of the autoencoder does."""

    config: Autoencoder
    pictures: Pictures
    model: AutoencoderKL

    def loss(self, rng: np.random.Generator, noise: torch.Generator) -> torch.Tensor:
        pixels = to_tensor(self._crops(rng))
        posterior = self.model.encode(pixels).latent_dist
        latents = posterior.mean + LATENT_NOISE * torch.randn(posterior.mean.shape, generator=noise)
        error = self.model.decode(latents).sample.float() - pixels
        moments = _moments(posterior.mean.float())
        return error.abs().mean() + 2 * error.square().mean() + 0.01 * moments + self.config.kl * posterior.kl().mean()

    def _crops(self, rng: np.random.Generator) -> np.ndarray:
        """Whole pictures in every other batch, else as many pixels in crops: more edges, less plain ground."""
        images, whole = self.pictures.images, self.pictures.images.shape[1]
        side = whole if rng.random() < 0.5 else min(self.config.crop, whole)
        count = max(1, self.config.batch_size * self.config.crop**2 // side**2)
        picks = rng.integers(len(images), size=count)
        ys, xs = rng.integers(whole - side + 1, size=(2, count))
        return np.stack([images[i, y : y + side, x : x + side] for i, y, x in zip(picks, ys, xs, strict=True)])


def _moments(latents: torch.Tensor) -> torch.Tensor:
    """How far each latent channel is from zero mean and unit deviation over the batch."""
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return (mean.square() + (deviation - 1).square()).sum()


@torch.inference_mode()
def encode(model: AutoencoderKL, images: np.ndarray, batch_size: int = 64) -> torch.Tensor:
    """NHWC uint8 -> NCHW float32 latents, before scaling."""
    parts = [
        model.encode(to_tensor(images[i : i + batch_size])).latent_dist.mean for i in range(0, len(images), batch_size)
    ]
    return torch.cat(parts)


@torch.inference_mode()
def decode(model: AutoencoderKL, latents: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """NCHW latents, before scaling -> NHWC uint8 in [0, 255]."""
    return np.concatenate([to_images(model.decode(part).sample) for part in latents.split(batch_size)])


@torch.no_grad()
def forget_spread(model: AutoencoderKL) -> None:
    """Say that latents have no spread. Only their means were trained; a pipeline that samples them, as image to image
    and inpainting do, would else get noise in the place of the picture."""
    count = model.config.latent_channels
    model.quant_conv.weight[count:] = 0
    model.quant_conv.bias[count:] = LEAST_LOG_VARIANCE


def set_scaling(model: AutoencoderKL, latents: torch.Tensor) -> None:
    """Set the scaling factor that gives latents a deviation of 1."""
    model.register_to_config(scaling_factor=float(1 / latents[:2048].std()))
