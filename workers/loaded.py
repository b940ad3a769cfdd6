"""A model on a device."""

import importlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from shared.schedulers import SCHEDULERS

TEXTS_KEPT = 512  # 60 MB of a half-precision Stable Diffusion 1.5


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

    def __post_init__(self) -> None:
        self.encode = lru_cache(TEXTS_KEPT)(self._encode)

    @torch.inference_mode()
    def _encode(self, text: str) -> torch.Tensor:
        """(1, tokens, width). One text at a time, so that its neighbours cannot change it by rounding."""
        embeds, _ = self.pipeline.encode_prompt(text, self.device, 1, False)
        return embeds

    def scheduler(self, name: str) -> Any:
        """A fresh scheduler: they keep state, and one batch must not see another's."""
        chosen = SCHEDULERS[name]
        scheduler_class = getattr(importlib.import_module("diffusers"), chosen.class_name)
        return scheduler_class.from_config(self.scheduler_config, **chosen.config)
