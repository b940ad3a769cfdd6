"""Pictures that are neither flat nor noise."""

from functools import cache

import numpy as np
from PIL import Image

from shared.images import Pixels

PHOTOS = 32  # different ones that are kept
SIZE = 512  # pixels
GRAIN = 2.0  # standard deviation, of 255
DETAIL = ((4, 70.0), (16, 30.0), (64, 10.0), (256, 3.0))  # (cells across, strength): less the finer, as in nature


@cache
def photo(number: int) -> Pixels:
    """HWC, RGB, uint8: soft shapes of many sizes, and grain. Another number, another picture."""
    rng = np.random.default_rng(number)
    light = np.full((SIZE, SIZE, 3), 128.0)
    for cells, strength in DETAIL:
        coarse = rng.normal(0.0, strength, (cells, cells, 3))
        light += np.dstack([_stretched(coarse[:, :, channel]) for channel in range(3)])
    return np.clip(light + rng.normal(0.0, GRAIN, light.shape), 0, 255).astype(np.uint8)


def _stretched(field: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(field.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
