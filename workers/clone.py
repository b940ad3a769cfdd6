"""Filling a hole with another part of the same picture: what a person does with a clone stamp. Pure.

For patterns and textures, which a smooth fill would blur away.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from shared.images import Pixels
from workers import masks
from workers.masks import Mask

RING = 6  # pixels about the hole that must look alike in both places
MOST_ERROR = 20.0  # root of the mean square in the ring, of 255: beyond it, no part fits
Floats = NDArray[np.float64]


def clone(pixels: Pixels, mask: Mask) -> Pixels | None:
    """The picture (HWC, RGB, uint8) with the masked pixels taken from where their surroundings look most alike; None if
    no shift of the whole mask stays in the picture, off the mask, and fits."""
    shift = best_shift(pixels, mask)
    if shift is None:
        return None
    filled = pixels.copy()
    ys, xs = np.nonzero(mask)
    filled[ys, xs] = pixels[ys + shift[0], xs + shift[1]]
    return filled


def best_shift(pixels: Pixels, mask: Mask) -> tuple[int, int] | None:
    """(down, right) in pixels. Sums over all shifts at once, as correlations by Fourier transforms."""
    ring = masks.grow(mask, RING) & ~mask
    if not mask.any() or not ring.any():
        return None
    free = _correlated((mask | ring).astype(float), (~mask).astype(float)) > (mask | ring).sum() - 0.5
    colors = pixels.astype(float)
    error = np.zeros(free.shape)
    for channel in np.moveaxis(colors, 2, 0):
        own = np.where(ring, channel, 0)
        error += (own**2).sum() - 2 * _correlated(own, channel) + _correlated(ring.astype(float), channel**2)
    error = np.where(free, error / (3 * ring.sum()), np.inf)
    down, right = np.unravel_index(int(error.argmin()), error.shape)
    if error[down, right] > MOST_ERROR**2:
        return None
    return _signed(int(down), free.shape[0]), _signed(int(right), free.shape[1])


def _correlated(one: Floats, other: Floats) -> Floats:
    """Sum over p of one(p) * other(p + shift), for every shift; negative ones wrap around to the end."""
    shape = [fft.next_fast_len(2 * side, real=True) for side in one.shape]
    product = np.conj(fft.rfft2(one, shape)) * fft.rfft2(other, shape)
    found: Floats = fft.irfft2(product, shape)
    return found


def _signed(shift: int, length: int) -> int:
    return shift if shift < length // 2 else shift - length
