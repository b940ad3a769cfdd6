"""Pictures on their way from the device: the next model call begins while they come."""

from collections.abc import Sequence
from typing import overload

import torch

from shared.images import Pixels
from workers.device import Moment


class Arriving(Sequence[Pixels | None]):
    """Pictures HWC, RGB, uint8, made on the device; None where a value was not finite. Who looks at one waits.

    `images`: (N, 3, H, W) floats in [0, 1].
    """

    def __init__(self, images: torch.Tensor):
        finite = torch.isfinite(images).flatten(1).all(dim=1)
        whole = images.float().nan_to_num().mul(255).round().clamp(0, 255).to(torch.uint8)
        self._finite = _sent(finite)
        self._pictures = _sent(whole.permute(0, 2, 3, 1).contiguous())
        self._there = Moment(images.device)

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, n: int) -> Pixels | None: ...
    @overload
    def __getitem__(self, n: slice) -> list[Pixels | None]: ...
    def __getitem__(self, n: int | slice) -> Pixels | list[Pixels | None] | None:
        if isinstance(n, slice):
            return [self[i] for i in range(*n.indices(len(self)))]
        self._there.wait()
        picture: Pixels = self._pictures[n].numpy()
        return picture if self._finite[n] else None


def _sent(tensor: torch.Tensor) -> torch.Tensor:
    """The same on the CPU, once the device has come there: only into pinned memory does a copy not hold up who asks."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return there.copy_(tensor, non_blocking=True)
