"""Kinds of models: which column names one, what it is called, and what an empty cell means for it."""

from dataclasses import dataclass, field
from typing import Any, Literal

Diffusion = Literal["sd15", "sd15-inpaint", "sd2", "sd2-inpaint", "sdxl", "sdxl-inpaint"]
Name = Literal[Diffusion, "sdxl-refiner", "vae", "lora", "embedding", "safety", "sam", "clipseg"]
Base = Literal["sd15", "sd2", "sdxl"]  # what an autoencoder, a LoRA or a textual inversion belongs to


@dataclass(frozen=True)
class Family:
    """Where the defaults and limits of the catalog's entries begin."""

    column: str
    title: str
    defaults: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    inpaints_only: bool = False  # its UNet is given a mask and the masked picture: it cannot do without


_SD2 = {"width": 768, "height": 768}
_SDXL = {"width": 1024, "height": 1024, "guidance_scale": 5.0}
_TO_2048 = {"max_size": 2048}

FAMILIES: dict[Name, Family] = {
    "sd15": Family("model", "Stable Diffusion 1.x"),
    "sd15-inpaint": Family("model", "Stable Diffusion 1.x for inpainting", inpaints_only=True),
    "sd2": Family("model", "Stable Diffusion 2.x", _SD2, _TO_2048),
    "sd2-inpaint": Family("model", "Stable Diffusion 2.x for inpainting", {}, _TO_2048, inpaints_only=True),
    "sdxl": Family("model", "Stable Diffusion XL", _SDXL, _TO_2048),
    "sdxl-inpaint": Family("model", "Stable Diffusion XL for inpainting", _SDXL, _TO_2048, inpaints_only=True),
    "sdxl-refiner": Family("refiner", "the refiner of Stable Diffusion XL"),
    "vae": Family("vae", "an autoencoder"),
    "lora": Family("loras", "a LoRA"),
    "embedding": Family("embeddings", "a textual inversion"),
    "safety": Family("safety_checker", "a safety checker"),
    "sam": Family("mask_model", "Segment Anything"),
    "clipseg": Family("mask_text_model", "CLIPSeg"),
}


def base_of(family: str) -> str:
    """The architecture that a family of diffusion models shares with its inpainting variant."""
    return family.removesuffix("-inpaint")


def of_column(column: str) -> list[str]:
    """The families whose models that column may name."""
    return [name for name, family in FAMILIES.items() if family.column == column]
