"""An autoencoder decodes a large batch in parts."""

from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput

MOST = 8  # latents in one call: larger parts fill no device better, and each costs gigabytes while it is decoded


def limit(vae: Any) -> None:
    """From now on it decodes (N, channels, h, w) latents by at most `MOST` at once, as often as it takes."""
    whole = vae.decode

    def decode(latents: torch.Tensor, return_dict: bool = True, **more: Any) -> Any:
        pictures = torch.cat([whole(part, return_dict=False, **more)[0] for part in latents.split(MOST)])
        return DecoderOutput(pictures) if return_dict else (pictures,)

    vae.decode = decode
