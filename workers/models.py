"""The models that a worker holds: loaded once, the least recently used leave when memory is short."""

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline

from shared import catalog
from shared.errors import ModelError
from shared.schedulers import SCHEDULERS

log = logging.getLogger(__name__)
diffusers.logging.disable_progress_bar()  # this is a service: its log is read by programs
transformers.logging.disable_progress_bar()
TEXTS_KEPT = 4096
# Settings that one row chose and that must not leak into the next (they are properties of a scheduler, not of a model).
CHOSEN_PER_ROW = ("use_karras_sigmas", "algorithm_type", "solver_order", "solver_type", "lower_order_final")


class RowGuidance(StableDiffusionPipeline):  # type: ignore[misc]  # diffusers has no type hints
    """The pipeline of diffusers with one guidance scale per image: a tensor of shape (images, 1, 1, 1)."""

    @property
    def do_classifier_free_guidance(self) -> bool:
        guided = bool(torch.as_tensor(self._guidance_scale).gt(1).any())
        return guided and self.unet.config.time_cond_proj_dim is None


@dataclass
class Loaded:
    """A model on a device, and the texts that it has encoded."""

    name: str
    identity: str
    device: torch.device
    pipeline: Any
    size_bytes: int
    scheduler_config: dict[str, Any] = field(default_factory=dict)

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
        return getattr(diffusers, chosen.class_name).from_config(self.scheduler_config, **chosen.config)


class Models:
    """What is loaded now. Raises ModelError when a model is absent, damaged, or not what the catalog says."""

    def __init__(self, known: catalog.Catalog, device: torch.device, most_bytes: int):
        self.known = known
        self.device = device
        self.most_bytes = most_bytes
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    def get(self, name: str) -> Loaded:
        """The model, loaded now if it is not resident."""
        if name not in self._loaded:
            self._loaded[name] = LOADERS[self._entry(name).family](self._entry(name), self.device)
        self._loaded.move_to_end(name)
        self._make_room()
        return self._loaded[name]

    def _entry(self, name: str) -> catalog.Model:
        if name not in self.known.models:
            raise ModelError(f"model {name!r} is not in this worker's catalog; it has {', '.join(self.known.models)}")
        return self.known.models[name]

    def _make_room(self) -> None:
        while len(self._loaded) > 1 and sum(m.size_bytes for m in self._loaded.values()) > self.most_bytes:
            name, _ = self._loaded.popitem(last=False)
            log.info("model %s left to make room", name)


def load_sd15(entry: catalog.Model, device: torch.device) -> Loaded:
    """A diffusers folder of Stable Diffusion's architecture, safetensors only, nothing from the network."""
    check_files(entry)
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


def check_files(entry: catalog.Model) -> None:
    """Whether the files are those that the catalog names."""
    if not entry.path.is_dir():
        raise ModelError(f"model {entry.name}: there is no folder {entry.path}")
    found = catalog.identity(entry.path)
    if found != entry.identity:
        raise ModelError(
            f"model {entry.name}: the files in {entry.path} have identity {found}, the catalog says {entry.identity}; "
            "the files were changed, or the catalog entry belongs to others"
        )


LOADERS = {"sd15": load_sd15}
