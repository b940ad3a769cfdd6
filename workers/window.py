"""Where in a picture the model works, and how what it makes comes back. Pure; nothing is changed in place.

Pictures are HWC, RGB, uint8; alpha is a feathered mask, HxW uint8: 0 keeps a pixel bit for bit, 255 replaces it.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from shared.images import Pixels
from workers.masks import Box, Gray, Mask, Part, part_of

BAND = 256  # rows; what is computed with more than 8 bits is never larger than that
GRAY = 127  # where nothing is known
SOFTNESS = 0.25  # of the mask's depth, as the deviation of the blur that takes the edges out of a fill


class Window(NamedTuple):
    """A part of a picture, in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def part(self) -> Part:
        """For an array with rows and columns first."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def whole(width: int, height: int) -> Window:
    return Window(0, 0, width, height)


def around(box: Box, padding: int, ratio_width: int, ratio_height: int, width: int, height: int) -> Window:
    """The box with `padding` around it, widened on one axis to the ratio, in a picture of width x height pixels.

    At the border padding is cut off, and what the ratio adds goes to the side that has room. A picture that is too
    narrow or too low for the ratio gives all it has: neither box nor padding is ever given up for the ratio.
    """
    left, right = max(0, box[0] - padding), min(width, box[2] + padding)
    top, bottom = max(0, box[1] - padding), min(height, box[3] + padding)
    wide = max(right - left, _round_up((bottom - top) * ratio_width, ratio_height))
    high = max(bottom - top, _round_up((right - left) * ratio_height, ratio_width))
    left, right = _widened(left, right, wide, width)
    top, bottom = _widened(top, bottom, high, height)
    return Window(left, top, right, bottom)


def _widened(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    length = min(length, limit)
    first = start - (length - (end - start)) // 2
    first = min(max(0, first), limit - length)
    return first, first + length


def cut(pixels: Pixels, window: Window, width: int, height: int) -> Pixels:
    """What is in the window, as width x height pixels."""
    return _resized(pixels[window.part], width, height)


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def cells(alpha: Gray, window: Window, width: int, height: int, cell: int = 8) -> Gray:
    """Which of the model's width x height pixels are drawn anew: 255, else 0.

    Latents know only whole cells of `cell` x `cell` pixels. One counts as soon as any pixel of the picture with alpha
    above 0 touches it, however the window is scaled.
    """
    covered = alpha[window.part] > 0
    rows = [covered[rows].any(axis=0) for rows in _under_cells(window.height, height, cell)]
    columns = [np.stack(rows)[:, columns].any(axis=1) for columns in _under_cells(window.width, width, cell)]
    coarse = np.stack(columns, axis=1).astype(np.uint8) * np.uint8(255)
    return coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _under_cells(source: int, size: int, cell: int) -> Iterator[slice]:
    """Per cell of an axis of `size` pixels: those of `source` pixels that lie under it, if only in part."""
    for start in range(0, size, cell):
        yield slice(start * source // size, _round_up(min(start + cell, size) * source, size))


def paste(canvas: Pixels, made: Pixels, window: Window, alpha: Gray) -> Pixels:
    """The canvas with `made`, of whatever size, brought into the window and blended in by alpha (of the canvas)."""
    pasted = canvas.copy()
    scaled = _resized(made, window.width, window.height)
    inside, weights = pasted[window.part], alpha[window.part]
    for band in _bands(window.height):
        weight = weights[band, :, None].astype(np.uint16)
        # 255 * 255 + 127 still fits; a weight of 0 or 255 gives back its picture exactly.
        inside[band] = (inside[band] * (255 - weight) + scaled[band] * weight + 127) // 255
    return pasted


def expand(pixels: Pixels, left: int, top: int, right: int, bottom: int) -> Pixels:
    """A larger canvas, by so many pixels on each side; the new parts repeat the edge."""
    return np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="edge")


def new_area(width: int, height: int, left: int, top: int, right: int, bottom: int, overlap: int) -> Mask:
    """What is drawn anew on the canvas that `expand` makes of width x height pixels.

    New parts, and `overlap` pixels of the old picture beside each; at most (side - 1) // 2 of them, so that some of the
    old picture always remains.
    """
    across, down = min(overlap, (width - 1) // 2), min(overlap, (height - 1) // 2)
    mask = np.ones((top + height + bottom, left + width + right), np.bool_)
    rows = slice(top + (down if top else 0), top + height - (down if bottom else 0))
    columns = slice(left + (across if left else 0), left + width - (across if right else 0))
    mask[rows, columns] = False
    return mask


def fill(pixels: Pixels, mask: Mask) -> Pixels:
    """The picture with what is around the mask continued into it: each pixel takes the nearest color, then all blur.

    A start for removing an object. The blur grows with the mask's depth. All gray if all is masked.
    """
    if not mask.any():
        return pixels.copy()
    if mask.all():
        return np.full_like(pixels, GRAY)
    filled = pixels.copy()
    ring = part_of(mask, 1)  # a nearest unmasked pixel is never farther out
    depth = _continue(filled[ring], mask[ring])
    # Pillow's blur, not scipy's: three channels at once, and its time does not depend on the radius.
    blur = SOFTNESS * depth
    near = part_of(mask, math.ceil(3 * blur) + 1)
    smooth = np.asarray(Image.fromarray(filled[near]).filter(ImageFilter.GaussianBlur(blur)))
    np.copyto(filled[near], smooth, where=mask[near][..., None])
    return filled


def _continue(pixels: Pixels, mask: Mask) -> float:
    """Gives masked pixels the color of the nearest that is not, in place; how far the farthest was, in pixels."""
    nearest_y, nearest_x = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    pixels[mask] = pixels[nearest_y[mask], nearest_x[mask]]
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return math.sqrt(((nearest_y - rows) ** 2 + (nearest_x - columns) ** 2).max())


def proof(before: Pixels, after: Pixels, alpha: Gray) -> tuple[int, int]:
    """Where alpha is 0: the largest difference in any channel, and how many pixels differ. (0, 0) is the promise."""
    largest, changed = 0, 0
    for band in _bands(len(alpha)):
        one, other = before[band], after[band]
        differences = (np.maximum(one, other) - np.minimum(one, other)).max(axis=2)
        differences[alpha[band] > 0] = 0
        largest = max(largest, int(differences.max()))
        changed += int(np.count_nonzero(differences))
    return largest, changed


def _bands(height: int) -> Iterator[slice]:
    return (slice(top, min(top + BAND, height)) for top in range(0, height, BAND))


def _round_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
