"""Models of real sizes with random weights, made on the spot: a call costs what a call of a trained one costs."""

from pathlib import Path

import tiny_models
import torch

from shared.catalog import Model


def make(family: str, folder: Path, device: torch.device, narrow: bool) -> Model:
    """A folder of diffusers in half precision, and its catalog entry. `narrow`: few channels, to try the bench."""
    described = tiny_models.configs(family, folder / "configs") if narrow else tiny_models.ARCHITECTURES / family
    with device:  # where it is fast to draw a billion random numbers
        made = tiny_models.pipeline(family, described)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(torch.bfloat16)
    made.set_progress_bar_config(disable=True)
    return tiny_models.entry(family, tiny_models.write(made, described, folder / "model"))
