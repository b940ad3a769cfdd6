"""How a diffusion model gets by with less memory, where a single image does not fit: a ladder of diffusers' own means.

Each rung costs speed, the first one also changes pixels; so they are on for one batch, and off again after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

VAE = "vae_tiling"  # the autoencoder works tile by tile; of pictures larger than it was trained on
ATTENTION = "attention_slicing"  # the UNet's attention works head by head
OFFLOAD = "cpu_offload"  # only the part that works is on the device
Rungs = tuple[str, ...]  # some of them, in order
LADDER: Rungs = (VAE, ATTENTION, OFFLOAD)
APART = ("cuda",)  # kinds of device whose memory is not the CPU's: elsewhere nothing is won by moving parts there


def ladder(model: Any) -> Rungs:
    """What this model can save with where it is; in this order, each rung beside those before it."""
    if not _pipelines(model):
        return ()
    return LADDER if model.device.type in APART else LADDER[: LADDER.index(OFFLOAD)]


def left(offered: Rungs, used: Rungs) -> Rungs:
    """Pure: the rungs below those that were not enough."""
    return tuple(rung for rung in offered if rung not in used)


@contextmanager
def saving(model: Any, rungs: Rungs) -> Iterator[None]:
    """The model works with these rungs and no others."""
    pipelines = _pipelines(model)
    try:
        for pipeline in pipelines:
            _switch_on(pipeline, model.device, rungs)
        yield
    finally:
        if rungs:
            for pipeline in pipelines:
                _switch_off(pipeline)


def _switch_on(pipeline: Any, device: Any, rungs: Rungs) -> None:
    if VAE in rungs:
        pipeline.vae.enable_slicing()
        pipeline.vae.enable_tiling()
    if ATTENTION in rungs:
        pipeline.enable_attention_slicing("max")  # "auto" halves the heads, and fails where there is one
    if OFFLOAD in rungs:
        pipeline.enable_model_cpu_offload(device=device)
    elif any(net.device.type != device.type for net in _nets(pipeline)):
        pipeline.to(device)  # what offloading has left on the CPU


def _switch_off(pipeline: Any) -> None:
    """Parts stay where they are: the next batch may want them there, and if they do not fit back it is its error."""
    pipeline.vae.disable_slicing()
    pipeline.vae.disable_tiling()
    pipeline.disable_attention_slicing()
    pipeline.remove_all_hooks()


def _nets(pipeline: Any) -> list[torch.nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def _pipelines(model: Any) -> list[Any]:
    """The model's and its refiner's; none of models that do not diffuse."""
    found = [getattr(each, "pipeline", None) for each in (model, getattr(model, "refiner", None))]
    return [pipeline for pipeline in found if pipeline is not None]
