"""Tells what a picture of a scene shows, by plain image analysis: nothing here is learned."""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from workers.demo.scenes import COLORS, PLACES, SHAPES, Scene, silhouette

NAMES = tuple(COLORS)
PALETTE = np.asarray(list(COLORS.values()), np.int32)
BORDER = 0.035  # width of the frame that only the background reaches, as a share of the side
ACCENT_SHARE = 0.06  # of the frame: a second color there belongs to a pattern
LEAST_OBJECT = 0.012  # of the picture: less is no object
TEMPLATE = 48  # side of the masks that shapes are compared by
SIDE = 0.12  # an object's center further than this from the middle is left, right, top or bottom


@dataclass(frozen=True)
class Verdict:
    """What was seen; empty where nothing was found."""

    background: str
    color: str = ""
    shape: str = ""
    place: str = ""
    shape_overlap: float = 0.0  # how well the shape fits, 0 to 1


def judge(image: np.ndarray) -> Verdict:
    """image: HWC uint8 in [0, 255], RGB."""
    labels = nearest_color(image)
    background, accent = _background(labels)
    color, blob = _object(labels, [background, *accent])
    if blob is None:
        return Verdict(NAMES[background])
    mask = _mask(image, blob, color, [background, *accent])
    shape, overlap = _shape(mask)
    return Verdict(NAMES[background], NAMES[color], shape, _place(mask), overlap)


def nearest_color(image: np.ndarray) -> np.ndarray:
    """HWC uint8 -> HxW int: which color of the palette is nearest."""
    return _distances(image).argmin(-1)


def _distances(image: np.ndarray) -> np.ndarray:
    """HWC uint8 -> HxWxN int: squared distance in RGB to each color of the palette."""
    return ((image.astype(np.int32)[..., None, :] - PALETTE) ** 2).sum(-1)


def _background(labels: np.ndarray) -> tuple[int, list[int]]:
    """Which of the frame's main colors covers most of the picture, and the other one if there is a pattern."""
    width = max(2, round(BORDER * len(labels)))
    frame = np.ones(labels.shape, bool)
    frame[width:-width, width:-width] = False
    counts = np.bincount(labels[frame], minlength=len(NAMES))
    ground = [c for c in np.argsort(counts)[::-1][:2].tolist() if counts[c] > ACCENT_SHARE * counts.sum()]
    ground.sort(key=lambda color: -(labels == color).sum())
    return ground[0], ground[1:]


def _object(labels: np.ndarray, ground: list[int]) -> tuple[int, np.ndarray | None]:
    """The largest area of one color that is not of the ground: its color and its HxW bool."""
    best: tuple[int, int, np.ndarray | None] = (round(LEAST_OBJECT * labels.size), -1, None)
    for color in set(np.unique(labels).tolist()) - set(ground):
        blob = largest_blob(_open(labels == color))
        if blob.sum() > best[0]:
            best = (int(blob.sum()), color, blob)
    return best[1], best[2]


def _open(mask: np.ndarray) -> np.ndarray:
    """HxW bool without lines as thin as the soft edges between two other colors."""
    width = max(1, len(mask) // 64)
    return _grow(~_grow(~mask, width), width)


def _mask(image: np.ndarray, blob: np.ndarray, color: int, ground: list[int]) -> np.ndarray:
    """The object with its soft edge: HxW bool, true where its color is nearer than those of the ground."""
    distances = _distances(image)
    near = distances[..., color] < distances[..., ground].min(-1)
    return _fill(largest_blob(near & _grow(blob, max(2, len(blob) // 42))))


def _shape(mask: np.ndarray) -> tuple[str, float]:
    """The best fitting shape and its overlap (intersection over union) inside the bounding box."""
    found = _normalize(mask)
    overlaps = {shape: _overlap(found, template(shape)) for shape in SHAPES}
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best, overlaps[best]


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@lru_cache
def template(shape: str) -> np.ndarray:
    """The shape filling its bounding box: HxW bool of side TEMPLATE."""
    scene = Scene(shape, "black", "large", "center", "white", radius=0.45)
    return _normalize(silhouette(scene, 128) > 127)


def _normalize(mask: np.ndarray) -> np.ndarray:
    """The bounding box of an HxW bool, stretched to TEMPLATE x TEMPLATE."""
    ys, xs = np.nonzero(mask)
    box = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    image = Image.fromarray(box.astype(np.uint8) * 255).resize((TEMPLATE, TEMPLATE), Image.Resampling.BILINEAR)
    return np.asarray(image) > 127


def _place(mask: np.ndarray) -> str:
    """The middle of the bounding box, in thirds of the picture."""
    ys, xs = np.nonzero(mask)
    x = (xs.min() + xs.max() + 1) / 2 / mask.shape[1] - 0.5
    y = (ys.min() + ys.max() + 1) / 2 / mask.shape[0] - 0.5
    sides = tuple(int(np.sign(v)) if abs(v) > SIDE else 0 for v in (x, y))
    return next(name for name, place in PLACES.items() if place == sides)


def _grow(mask: np.ndarray, steps: int) -> np.ndarray:
    """HxW bool, wider by so many pixels."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def _fill(mask: np.ndarray) -> np.ndarray:
    """HxW bool without its small holes: what is not reached from outside becomes part of it."""
    outside = flood(~np.pad(mask, 1), (0, 0))[1:-1, 1:-1]
    return ~outside


def largest_blob(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of an HxW bool."""
    rest, best = mask.copy(), np.zeros_like(mask)
    while rest.sum() > best.sum():
        start = np.unravel_index(int(rest.argmax()), rest.shape)
        part = flood(rest, (int(start[0]), int(start[1])))
        rest &= ~part
        if part.sum() > best.sum():
            best = part
    return best


def flood(mask: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """What is connected with (row, column) start inside an HxW bool; runs of a row are taken at once."""
    reached = np.zeros_like(mask)
    todo = deque([start])
    while todo:
        y, x = todo.popleft()
        if reached[y, x]:
            continue
        left = x - int((~mask[y, : x + 1][::-1]).argmax()) + 1 if not mask[y, : x + 1].all() else 0
        right = x + int((~mask[y, x:]).argmax()) if not mask[y, x:].all() else mask.shape[1]
        reached[y, left:right] = True
        for row in (y - 1, y + 1):
            if 0 <= row < len(mask):
                todo.extend(_starts(mask[row] & ~reached[row], left, right, row))
    return reached


def _starts(line: np.ndarray, left: int, right: int, row: int) -> list[tuple[int, int]]:
    """One point of every run of true between the columns."""
    part = line[left:right]
    heads = part & ~np.concatenate(([False], part[:-1]))
    return [(row, left + int(x)) for x in np.flatnonzero(heads)]
