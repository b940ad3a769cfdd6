"""Sizes in pixels: what a model can make, what it works at when it edits a picture, how a picture is extended. Pure."""

from math import ceil, sqrt
from typing import NamedTuple

from shared.catalog import Defaults, Limits

SIDES = ("left", "right", "top", "bottom")


class Size(NamedTuple):
    width: int
    height: int


class Margins(NamedTuple):
    """What a picture is extended by on each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def around(self, size: Size) -> Size:
        return Size(self.left + size.width + self.right, self.top + size.height + self.bottom)


class Amount(NamedTuple):
    """Pixels, or percent of the side that they are added to."""

    value: float
    percent: bool = False

    def of(self, length: int) -> int:
        return round(length * self.value / 100) if self.percent else round(self.value)


class Anchor(NamedTuple):
    """Where a picture stays when its canvas grows: 0 left or top, 1 in the center, 2 right or bottom."""

    across: int = 1
    down: int = 1


def bounds(limits: Limits) -> tuple[int, int]:
    """The least and the greatest side that a model can make."""
    step = limits.multiple_of
    return ceil(limits.min_size / step) * step, limits.max_size // step * step


def nearest(length: float, limits: Limits) -> int:
    """The side that a model can make and that is nearest to this one."""
    low, high = bounds(limits)
    return min(max(round(length / limits.multiple_of) * limits.multiple_of, low), high)


def working(picture: Size, defaults: Defaults, limits: Limits, width: int | None, height: int | None) -> Size:
    """The size that a model works at: what the row says, and the rest from the picture's proportions, with as many
    pixels as the model's default has."""
    if width and height:
        return Size(width, height)
    if width:
        return Size(width, nearest(width * picture.height / picture.width, limits))
    if height:
        return Size(nearest(height * picture.width / picture.height, limits), height)
    scale = sqrt(defaults.width * defaults.height / (picture.width * picture.height))
    return Size(nearest(picture.width * scale, limits), nearest(picture.height * scale, limits))


def extended(picture: Size, amounts: dict[str, Amount]) -> Margins:
    """By side; what is not named is not extended."""
    lengths = {"left": picture.width, "right": picture.width, "top": picture.height, "bottom": picture.height}
    return Margins(**{side: amount.of(lengths[side]) for side, amount in amounts.items()})


def placed(picture: Size, canvas: Size, anchor: Anchor) -> Margins:
    """The margins of a picture in a canvas that is not smaller; of an odd number, right and bottom get one more."""
    left = (canvas.width - picture.width) * anchor.across // 2
    top = (canvas.height - picture.height) * anchor.down // 2
    return Margins(left, canvas.width - picture.width - left, top, canvas.height - picture.height - top)


def alike(one: Size, other: Size, most_apart: float) -> bool:
    """Whether the proportions of two pictures differ by no more than this share."""
    apart = one.width * other.height / (one.height * other.width)
    return max(apart, 1 / apart) <= 1 + most_apart
