"""A model on a device."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from shared.schedulers import SCHEDULERS
from workers.texts import Texts


@dataclass
class Loaded:
    """A model on a device, and the texts that it has encoded."""

    name: str
    identity: str
    device: torch.device
    pipeline: Any  # text to image; the others share its parts
    size_bytes: int
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    further: dict[str, Any] = field(default_factory=dict)  # pipelines of the same parts: img2img, inpaint
    shapes: Sequence[int] = ()  # of compiled models: images in one call; none: any number
    compiled: str = ""  # how, see workers.compiled

    vae: str = ""  # that it wears now instead of its own, see workers.dress
    loras: tuple[tuple[str, float], ...] = ()  # that it wears now
    refiner: Any = None  # another Loaded, while it draws with one, see workers.refiner

    def __post_init__(self) -> None:
        self.texts = Texts(self.pipeline, self.device)
        self.own_vae: Any = getattr(self.pipeline, "vae", None)

    @property
    def pipelines(self) -> list[Any]:
        return [self.pipeline, *self.further.values()]

    def scheduler(self, name: str, seeds: Sequence[int]) -> Any:
        """A fresh one for images of these seeds: schedulers keep state, and one batch must not see another's."""
        chosen = SCHEDULERS[name]
        kind = _counting_beside(getattr(importlib.import_module("diffusers"), chosen.class_name))
        scheduler = kind.from_config(self.scheduler_config, **chosen.config)
        if "noise_sampler_seed" in scheduler.config:  # it draws noise by seed, all others by the images' generators
            scheduler.noise_sampler_seed = list(seeds)
        return scheduler


@cache
def _counting_beside(kind: Any) -> Any:
    """The scheduler with its timesteps on the CPU, wherever the model is: with timesteps there, it would ask the device
    for numbers in every step, and wait for it."""

    def set_timesteps(self: Any, num_inference_steps: Any = None, device: Any = None, *rest: Any, **more: Any) -> None:
        del device
        kind.set_timesteps(self, num_inference_steps, "cpu", *rest, **more)

    return type(kind.__name__, (kind,), {"set_timesteps": set_timesteps})
