"""Autoencoders and LoRAs that lie in files of their own."""

from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file

from shared import catalog
from shared.errors import ModelError
from workers.dress import Lora, Vae
from workers.single_file import ARCHITECTURES

PAIRS = (("lora_down", "lora_up"), ("lora_A", "lora_B"), ("lora.down", "lora.up"))  # one without the other is random


def load_vae(entry: catalog.Model, device: torch.device) -> Vae:
    """A folder of diffusers with an autoencoder alone, or a single file of either spelling."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        if entry.is_single_file:
            described = str(entry.config or ARCHITECTURES / str(entry.base) / "vae")
            net = AutoencoderKL.from_single_file(str(entry.path), config=described, dtype=dtype, local_files_only=True)
        else:
            net = AutoencoderKL.from_pretrained(entry.path, dtype=dtype, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"model {entry.name}: {entry.path} does not load as an autoencoder: {error}") from error
    return Vae(entry.name, entry.identity, net.to(device), _bytes(net.parameters()))


def load_lora(entry: catalog.Model) -> Lora:
    """A safetensors file; whether it fits a model is seen when it is put onto one."""
    try:
        tensors = load_file(entry.path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model {entry.name}: {entry.path} does not load as a LoRA: {error}") from error
    for name in tensors:
        for down, up in PAIRS:
            other = name.replace(down, up) if down in name else name.replace(up, down) if up in name else name
            if other not in tensors:
                raise ModelError(f"model {entry.name}: {entry.path} has {name} and lacks {other}")
    return Lora(entry.name, entry.identity, tensors, _bytes(tensors.values()))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
