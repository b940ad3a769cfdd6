"""The clone stamp: what it takes, from where, and when it takes nothing."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.clone import best_shift, clone


def hole(height: int, width: int, top: int, left: int, size: int) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    mask[top : top + size, left : left + size] = True
    return mask


@given(st.integers(60, 90), st.integers(60, 90), st.integers(8, 30), st.integers(8, 30), st.integers(4, 9))
@settings(max_examples=25)
def test_a_hole_in_a_repeating_pattern_is_filled_without_a_trace(
    height: int, width: int, top: int, left: int, period: int
) -> None:
    tile = np.random.default_rng(period).integers(0, 256, (period, period, 3), np.uint8)
    whole = np.tile(tile, (height // period + 1, width // period + 1, 1))[:height, :width]
    mask = hole(height, width, top, left, 12)
    spoiled = whole.copy()
    spoiled[mask] = (255, 0, 255)
    filled = clone(spoiled, mask)
    assert filled is not None
    assert np.array_equal(filled, whole)


def test_nothing_of_the_hole_itself_is_ever_taken() -> None:
    pixels = np.full((50, 90, 3), (10, 120, 200), np.uint8)
    mask = hole(50, 90, 15, 20, 16)
    pixels[mask] = (255, 0, 0)
    filled = clone(pixels, mask)
    assert filled is not None
    assert (filled == (10, 120, 200)).all()


def test_where_no_other_part_looks_alike_nothing_is_taken() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    assert clone(noise, hole(50, 50, 20, 20, 8)) is None


def test_a_hole_that_fits_nowhere_else_is_left_to_others() -> None:
    plain = np.zeros((40, 40, 3), np.uint8)
    assert clone(plain, hole(40, 40, 4, 4, 30)) is None
    assert clone(plain, np.ones((40, 40), np.bool_)) is None
    assert best_shift(plain, np.zeros((40, 40), np.bool_)) is None
