"""Autoencoders, LoRAs and textual inversions that lie in files of their own."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import load_single_file_checkpoint
from safetensors.torch import load_file

from shared import catalog
from shared.errors import ModelError
from workers import device as device_
from workers import single_file, subbatches
from workers.dress import Embedding, Lora, Vae
from workers.reading import lacking, reading, refuse, size_bytes

PAIRS = (("lora_down", "lora_up"), ("lora_A", "lora_B"), ("lora.down", "lora.up"))  # one without the other is random


def load_vae(entry: catalog.Model, device: torch.device) -> Vae:
    """A folder of diffusers with an autoencoder alone, or a single file of either spelling."""
    dtype = device_.dtype(device)
    with reading(entry):
        if entry.is_single_file:
            described = entry.config or single_file.ARCHITECTURES / str(entry.base) / "vae"
            tensors = load_single_file_checkpoint(str(entry.path), local_files_only=True)
            net = single_file.part(entry, AutoencoderKL, tensors, described, dtype, {})
        else:
            net = AutoencoderKL.from_pretrained(entry.path, dtype=dtype, local_files_only=True, use_safetensors=True)
            refuse(entry, "vae", lacking(entry.path, net))
    subbatches.limit(device_.place(net, device))
    return Vae(entry.name, entry.identity, net, size_bytes(net.parameters()))


def load_lora(entry: catalog.Model) -> Lora:
    """A safetensors file; whether it fits a model is seen when it is put onto one."""
    with reading(entry):
        tensors = load_file(entry.path)
    partners = (
        name.replace(*pair) for name in tensors for one, other in PAIRS for pair in ((one, other), (other, one))
    )
    refuse(entry, "lora", [name for name in partners if name not in tensors])
    return Lora(entry.name, entry.identity, tensors, size_bytes(tensors.values()))


def load_embedding(entry: catalog.Model) -> Embedding:
    """A file of A1111, diffusers or Kohya: one tensor, or of Stable Diffusion XL one for each encoder."""
    with reading(entry):
        if entry.path.suffix == ".safetensors":
            tensors: dict[str, Any] = load_file(entry.path)
        else:
            tensors = torch.load(entry.path, map_location="cpu", weights_only=True)
        tensors = tensors.get("string_to_param", tensors)
        found = [tensors[name] for name in ("clip_l", "clip_g") if name in tensors] or [*tensors.values()]
        vectors = [torch.atleast_2d(tensor.detach()) for tensor in found]
    if len(vectors) != (2 if "clip_l" in tensors else 1) or any(each.ndim != 2 for each in vectors):
        raise ModelError(f"model {entry.name}: {entry.path} holds {len(vectors)} tensors; expected a textual inversion")
    return Embedding(entry.name, entry.identity, vectors, size_bytes(vectors))
