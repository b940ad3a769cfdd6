"""Mask arithmetic, pure. A mask is HxW bool: True, white in a file, where a picture is drawn anew.

Distances are between pixel centers. What needs them works in tiles near the mask: a 20 megapixel picture with a small
mask costs what the mask costs, and one with a large mask no more memory than a tile.
"""

import colorsys
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from shared.images import Pixels

Mask = NDArray[np.bool_]
Gray = NDArray[np.uint8]  # HxW in [0, 255]
Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, the last two exclusive
Part = tuple[slice, slice]  # rows, columns

TILE = 1024  # pixels
TOUCHING = np.ones((3, 3), np.bool_)  # 8-connected
GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, never come close to an earlier one
SMALL = 512  # pixels; up to this side an outline of one pixel is seen


def binary(gray: Gray) -> Mask:
    """A gray picture's brighter half, from 128 on."""
    return gray >= 128


def fit(gray: Gray, width: int, height: int) -> Gray:
    """A mask file brought to its picture's size, with no gray that it did not have."""
    return np.asarray(Image.fromarray(gray).resize((width, height), Image.Resampling.NEAREST))


def grow(mask: Mask, pixels: int) -> Mask:
    """Everything at most so many pixels from the mask; negative: what is farther than that from everything else.

    What lies beyond the picture's border is unknown, not unmasked: a shrinking mask keeps its pixels along the border.
    """
    if pixels == 0:
        return mask
    grown = np.zeros_like(mask)
    if pixels < 0:
        part = part_of(mask, 1)  # of everything else, only the ring around the box can be nearest
        grown[part] = ~grow(~mask[part], -pixels)
        return grown
    for part, distance in _distances(mask, pixels):
        grown[part] = distance <= pixels
    return grown


def feather(mask: Mask, blur: int) -> Gray:
    """255 in the mask, falling linearly over the `blur` pixels around it to what would be 0 one pixel farther on.

    At distance d it is 255 (1 - d / (blur + 1)), rounded; exactly 0 where d > blur.
    """
    alpha = np.zeros(mask.shape, np.uint8)
    for part, distance in _distances(mask, blur):
        alpha[part] = np.where(distance <= blur, np.rint(255 * (1 - distance / (blur + 1))), 0)
    return alpha


def tidy(mask: Mask, min_area: int) -> Mask:
    """Without holes and islands of fewer than `min_area` pixels; the largest island stays, however small.

    A hole is a 4-connected region that does not touch the border, an island is 8-connected. Holes come first: a dropped
    island only ever joins a region that is no small hole, so that a second time changes nothing.
    """
    part = part_of(mask, 0)  # a hole that touches the box's border would reach the picture's
    tidied = np.zeros_like(mask)
    if mask[part].size:
        tidied[part] = _without_islands(_without_holes(mask[part], min_area), min_area)
    return tidied


def _without_holes(mask: Mask, min_area: int) -> Mask:
    regions, _ = ndimage.label(~mask)
    small = np.bincount(regions.ravel()) < min_area
    for border in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        small[border] = False
    return mask | small[regions]


def _without_islands(mask: Mask, min_area: int) -> Mask:
    islands, _ = ndimage.label(mask, TOUCHING)
    areas = np.bincount(islands.ravel())
    areas[0] = 0  # what is not masked
    kept = areas >= min_area
    kept[areas.argmax()] = True
    kept[0] = False
    return kept[islands]


def box_of(mask: Mask) -> Box | None:
    """The smallest box with all of the mask inside; None if nothing is masked."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def part_of(mask: Mask, margin: int) -> Part:
    """The mask's box and `margin` pixels around it, as far as the picture goes; nothing of it if nothing is masked."""
    x1, y1, x2, y2 = box_of(mask) or (0, 0, -margin, -margin)
    return slice(max(0, y1 - margin), y2 + margin), slice(max(0, x1 - margin), x2 + margin)


def rle(mask: Mask) -> dict[str, Any]:
    """COCO's uncompressed run lengths: down the columns, unmasked and masked by turns, the first may be 0."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=flat.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def overlay(pixels: Pixels, masks: Sequence[Mask]) -> Pixels:
    """`pixels` (HWC, RGB, uint8) with every mask tinted half and outlined in a color of its own.

    Outlines lie inside their masks, above all tints; where a mask ends at the picture's border there is none.
    """
    drawn = pixels.copy()
    line = 1 if max(pixels.shape[:2]) <= SMALL else 2  # pixels
    for number, mask in enumerate(masks):
        part = part_of(mask, 0)
        inside, shown = mask[part], drawn[part]
        shown[inside] = (shown[inside].astype(np.uint16) + color(number)) // 2
    for number, mask in enumerate(masks):
        part = part_of(mask, 1)
        drawn[part][mask[part] & ~grow(mask[part], -line)] = color(number)
    return drawn


def color(number: int) -> Pixels:
    """The color of the mask with this number: RGB, uint8; hues as far from those before as can be."""
    rgb = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.9, 1.0)
    return np.array([round(255 * channel) for channel in rgb], np.uint8)


def overlap(one: Mask, other: Mask) -> float:
    """Intersection over union, in [0, 1]; two empty masks are equal."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def _distances(mask: Mask, reach: int) -> Iterator[tuple[Part, NDArray[np.float64]]]:
    """Tiles, and how far their pixels are from the mask, in pixels: exact up to `reach`, beyond it only more than that.

    Whatever is in no tile is farther than `reach`.
    """
    x1, y1, x2, y2 = box_of(mask) or (0, 0, 0, 0)
    height, width = mask.shape
    rows = _spans(max(0, y1 - reach), min(height, y2 + reach), reach)
    columns = _spans(max(0, x1 - reach), min(width, x2 + reach), reach)
    for (tile_rows, near_rows, inner_rows), (tile_columns, near_columns, inner_columns) in itertools.product(
        rows, columns
    ):
        near = mask[near_rows, near_columns]
        if near.any():
            distance = ndimage.distance_transform_edt(~near)
            yield (tile_rows, tile_columns), distance[inner_rows, inner_columns]


def _spans(first: int, end: int, reach: int) -> list[tuple[slice, slice, slice]]:
    """Of one axis: tiles, each with what is within `reach` of it, and where in that the tile lies."""
    side = max(TILE, 4 * reach)  # what is around a tile adds at most half its side
    spans = []
    for start in range(first, end, side):
        stop, near = min(end, start + side), max(0, start - reach)
        spans.append((slice(start, stop), slice(near, stop + reach), slice(start - near, stop - near)))
    return spans
