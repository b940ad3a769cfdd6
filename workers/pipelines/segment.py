"""Masks only: preparing an item has found them; the picture is the input with its masks in colors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.images import Pixels
from workers import masks
from workers.batches import Item
from workers.pipelines import call

if TYPE_CHECKING:  # torchvision takes seconds to import: only who selects waits
    from workers.sam import Segmenter


def segment(items: Sequence[Item], _model: "Segmenter", _on_step: call.OnStep) -> list[Pixels | None]:
    """One overlay per prepared item: HWC, RGB, uint8, of the input's size."""
    return [masks.overlay(item.ready.canvas, [found.mask for found in item.ready.found]) for item in items]
