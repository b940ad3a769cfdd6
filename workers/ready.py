"""An edit made ready for the model: its input, its mask, and the window that the model works in."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.images import Pixels
from workers.masks import Mask
from workers.originals import Original
from workers.window import Window


class Found(NamedTuple):
    """A selected mask of the input's size, how good the model says it is, and how firm its edge; both in [0, 1]."""

    mask: Mask
    score: float
    stability: float


@dataclass(frozen=True)
class Region:
    """What is drawn anew.

    alpha: HxW uint8 of the canvas, 0 where nothing may change; window: where the model works.
    """

    alpha: NDArray[np.uint8]
    window: Window


@dataclass(frozen=True)
class Ready:
    """start, cells: what the model gets, in its working size; HWC RGB uint8, and HxW uint8, 255 = draw anew.

    canvas: what the result is put into (of outpainting larger than the input), HWC RGB uint8.
    """

    original: Original
    canvas: Pixels
    canvas_alpha: NDArray[np.uint8] | None = None
    start: Pixels | None = None
    cells: NDArray[np.uint8] | None = None
    region: Region | None = None  # None: the whole picture, or none of it
    found: tuple[Found, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    keep: bool = False  # there is nothing to draw: the input is stored as it is
