"""The safety checker of Stable Diffusion: which pictures it holds back. They are failures, never black pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor

from shared import catalog
from shared.errors import UnsafeImage
from shared.images import Pixels
from workers.batches import Item
from workers.reading import lacking, reading, refuse, size_bytes


@dataclass
class Checker:
    """A safety checker on a device."""

    name: str
    identity: str
    device: torch.device
    net: Any
    processor: Any
    size_bytes: int

    @torch.inference_mode()
    def holds_back(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Of pictures HWC, RGB, uint8."""
        seen = self.processor(list(pictures), return_tensors="pt").pixel_values.to(self.device)
        blackened = [np.zeros(1)] * len(pictures)  # diffusers would black out what it is given here
        found: list[bool] = self.net(clip_input=seen, images=blackened)[1]
        return found


def load(entry: catalog.Model, device: torch.device) -> Checker:
    """A folder as diffusers saves StableDiffusionSafetyChecker; safetensors only. A feature extractor that lies beside
    the weights is used; the usual one is built in."""
    with reading(entry):
        net = StableDiffusionSafetyChecker.from_pretrained(
            entry.path, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        refuse(entry, "safety_checker", lacking(entry.path, net))
        own = (entry.path / "preprocessor_config.json").exists()
        processor = (
            CLIPImageProcessor.from_pretrained(entry.path, local_files_only=True) if own else CLIPImageProcessor()
        )
    return Checker(entry.name, entry.identity, device, net.eval().to(device), processor, size_bytes(net.parameters()))


def held_back(
    items: Sequence[Item], pictures: Sequence[Pixels | None], get: Callable[[str], Checker]
) -> dict[tuple[int, int], UnsafeImage]:
    """Why these must not be stored, by the items' keys. `get` loads the checker that the job names, if it names one."""
    name = items[0].job.safety_checker
    drawn = [(item, picture) for item, picture in zip(items, pictures, strict=True) if picture is not None]
    if not name or not drawn:
        return {}
    found = get(name).holds_back([picture for _, picture in drawn])
    reason = f"the safety checker {name} holds it back; nothing was stored. Try another seed or prompt"
    return {item.key: UnsafeImage(reason) for (item, _), held in zip(drawn, found, strict=True) if held}
