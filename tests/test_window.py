"""Where the model works and how its result comes back: what is not masked keeps its pixels, bit for bit."""

import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from shared.images import Pixels
from workers import masks, window
from workers.masks import Gray, Mask
from workers.window import Window

EXAMPLES = hypothesis.settings(max_examples=120)
WIDTHS = st.integers(1, 40) | st.integers(1, 2000)
HEIGHTS = st.integers(1, 40) | st.integers(1, 1500)
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 64).map(lambda n: 8 * n)  # what models take
GROWTH = st.integers(0, 60)


def noise(width: int, height: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def some_mask(width: int, height: int, seed: int) -> Mask:
    """Up to three boxes, each turning over what it covers; empty and full ones are among them."""
    rng = np.random.default_rng(seed)
    mask = np.full((height, width), rng.random() < 0.1)
    for _ in range(rng.integers(4)):
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + 1 + rng.integers(height), x : x + 1 + rng.integers(width)] ^= True
    return mask


def some_window(width: int, height: int, seed: int) -> Window:
    rng = np.random.default_rng(seed)
    left, top = int(rng.integers(width)), int(rng.integers(height))
    return Window(left, top, int(rng.integers(left, width)) + 1, int(rng.integers(top, height)) + 1)


def flat(width: int, height: int, *color: int) -> Pixels:
    return np.full((height, width, 3), color, np.uint8)


def test_a_window_knows_its_size_and_its_part_of_an_array() -> None:
    one = Window(2, 1, 5, 3)
    assert (one.width, one.height) == (3, 2)
    assert np.arange(30).reshape(5, 6)[one.part].tolist() == [[8, 9, 10], [14, 15, 16]]
    assert window.whole(6, 5) == (0, 0, 6, 5)


@pytest.mark.parametrize(
    ("box", "padding", "ratio", "size", "found"),
    [
        ((40, 40, 60, 60), 0, (1, 1), (100, 100), (40, 40, 60, 60)),
        ((40, 40, 60, 60), 10, (1, 1), (100, 100), (30, 30, 70, 70)),
        ((40, 45, 60, 55), 0, (1, 1), (100, 100), (40, 40, 60, 60)),  # as far up as down
        ((40, 45, 60, 55), 0, (4, 1), (100, 100), (30, 45, 70, 55)),
        ((90, 40, 100, 60), 0, (2, 1), (100, 100), (60, 40, 100, 60)),  # room on the left only
        ((0, 0, 10, 40), 5, (1, 1), (100, 100), (0, 0, 45, 45)),  # padding ends at the border
        ((0, 40, 100, 60), 0, (1, 1), (100, 50), (0, 0, 100, 50)),  # too low for a square
        ((4, 0, 6, 30), 2, (1, 1), (10, 300), (0, 0, 10, 32)),  # too narrow: all of the width
        ((3, 3, 4, 4), 0, (3, 2), (9, 9), (3, 3, 5, 4)),  # 1.5 pixels are 2
    ],
)
def test_a_window_is_the_padded_box_widened_to_the_ratio(
    box: masks.Box, padding: int, ratio: tuple[int, int], size: tuple[int, int], found: tuple[int, ...]
) -> None:
    assert window.around(box, padding, *ratio, *size) == found


@hypothesis.settings(max_examples=400)
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, GROWTH, st.integers(1, 20) | st.just(512), st.integers(1, 20) | st.just(768))
def test_a_window_contains_the_box_stays_inside_and_has_the_ratio_where_there_is_room(
    width: int, height: int, seed: int, padding: int, ratio_width: int, ratio_height: int
) -> None:
    box = some_window(width, height, seed)
    found = window.around(box, padding, ratio_width, ratio_height, width, height)
    left, top = max(0, box.left - padding), max(0, box.top - padding)
    right, bottom = min(width, box.right + padding), min(height, box.bottom + padding)
    assert 0 <= found.left <= left and right <= found.right <= width
    assert 0 <= found.top <= top and bottom <= found.bottom <= height
    wide, high = Fraction(ratio_width, ratio_height), Fraction(ratio_height, ratio_width)
    if ceil((bottom - top) * wide) <= width and ceil((right - left) * high) <= height:
        assert 0 <= found.width - found.height * wide < 1 or 0 <= found.height - found.width * high < 1
    # Never larger than the ratio asks for: one axis is as it was.
    assert found.width == right - left or found.height == bottom - top
    assert found.width <= max(right - left, ceil((bottom - top) * wide))
    assert found.height <= max(bottom - top, ceil((right - left) * high))
    # Short of the ratio only with all of the picture that there is.
    assert found.width >= found.height * wide or found.width == width or found.height > bottom - top
    assert found.height >= found.width * high or found.height == height or found.width > right - left


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, SIDES, SIDES)
def test_a_cut_is_made_of_what_is_in_the_window_alone(width: int, height: int, seed: int, wide: int, high: int) -> None:
    pixels, one = noise(width, height, seed), some_window(width, height, seed)
    before = pixels.copy()
    made = window.cut(pixels, one, wide, high)
    assert (made.shape, made.dtype) == ((high, wide, 3), np.uint8)
    same = window.cut(pixels, one, one.width, one.height)
    assert np.array_equal(same, pixels[one.part])
    elsewhere = np.full_like(pixels, 255)
    elsewhere[one.part] = pixels[one.part]
    assert np.array_equal(window.cut(elsewhere, one, wide, high), made)
    same[...] = 0
    assert np.array_equal(pixels, before)


def test_a_cut_keeps_left_left_and_top_on_top() -> None:
    pixels = flat(40, 20, 0, 0, 0)
    pixels[:, 20:, 0], pixels[10:, :, 1] = 255, 255
    made = window.cut(pixels, window.whole(40, 20), 16, 64)
    assert made[0, 0].tolist() == [0, 0, 0] and made[0, -1].tolist() == [255, 0, 0]
    assert made[-1, 0].tolist() == [0, 255, 0] and made[-1, -1].tolist() == [255, 255, 0]


def test_a_cell_is_drawn_anew_as_soon_as_anything_in_it_is_covered() -> None:
    alpha = np.zeros((32, 32), np.uint8)
    alpha[15, 16] = 1
    found = window.cells(alpha, window.whole(32, 32), 32, 32)
    wanted = np.zeros((32, 32), np.uint8)
    wanted[8:16, 16:24] = 255
    assert np.array_equal(found, wanted)
    wanted[...] = 0
    wanted[0:8, 8:16] = 255  # at half the size (15, 16) is in the first line of cells, the second column
    assert np.array_equal(window.cells(alpha, window.whole(32, 32), 16, 16), wanted[:16, :16])
    assert not window.cells(alpha, Window(0, 0, 32, 15), 64, 64).any()


def test_a_pixel_on_the_seam_of_two_cells_covers_both() -> None:
    alpha = np.zeros((1, 3), np.uint8)
    alpha[0, 1] = 255  # from 5.33 to 10.67 of 16
    assert window.cells(alpha, window.whole(3, 1), 16, 8)[0].tolist() == [255] * 16
    assert window.cells(alpha, window.whole(3, 1), 24, 8)[0].tolist() == [0] * 8 + [255] * 8 + [0] * 8


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, SIDES, SIDES, st.sampled_from([8, 8, 16, 5]))
def test_no_covered_pixel_falls_into_a_cell_that_is_kept(
    width: int, height: int, seed: int, wide: int, high: int, cell: int
) -> None:
    rng, one = np.random.default_rng(seed), some_window(width, height, seed)
    alpha = np.zeros((height, width), np.uint8)
    grains = rng.integers(30)
    alpha[rng.integers(height, size=grains), rng.integers(width, size=grains)] = rng.integers(1, 256, grains)
    found = window.cells(alpha, one, wide, high, cell)
    assert found.shape == (high, wide) and set(np.unique(found)) <= {0, 255}
    wanted = np.zeros_like(found)
    for y, x in np.argwhere(alpha[one.part]):
        rows = _cells_touched(y, one.height, high, cell)
        wanted[rows, _cells_touched(x, one.width, wide, cell)] = 255
    assert np.array_equal(found, wanted)


def _cells_touched(at: int, source: int, size: int, cell: int) -> slice:
    """Of pixel `at` of `source`, brought to `size` pixels: the pixels of all cells that it overlaps."""
    scale = Fraction(size, source)
    return slice(floor(int(at) * scale / cell) * cell, ceil((int(at) + 1) * scale / cell) * cell)


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, st.integers(0, 40))
def test_what_is_not_masked_comes_back_bit_for_bit(width: int, height: int, seed: int, blur: int) -> None:
    canvas, one = noise(width, height, seed), some_window(width, height, seed)
    alpha = masks.feather(some_mask(width, height, seed), blur)
    before = canvas.copy()
    made = noise(1 + seed % 70, 1 + seed % 50, seed + 1)
    pasted = window.paste(canvas, made, one, alpha)
    assert np.array_equal(canvas, before)
    outside = np.ones((height, width), np.bool_)
    outside[one.part] = False
    kept = outside | (alpha == 0)
    assert np.array_equal(pasted[kept], canvas[kept])
    assert window.proof(canvas, pasted, np.where(outside, 0, alpha).astype(np.uint8)) == (0, 0)


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, st.integers(0, 40))
def test_a_blend_is_the_weighted_mean_and_where_all_is_masked_what_was_made(
    width: int, height: int, seed: int, blur: int
) -> None:
    canvas, one = noise(width, height, seed), some_window(width, height, seed)
    alpha = masks.feather(some_mask(width, height, seed), blur)
    made = noise(one.width, one.height, seed + 1)
    inside, weight = window.paste(canvas, made, one, alpha)[one.part], alpha[one.part]
    assert np.array_equal(inside[weight == 255], made[weight == 255])
    share = weight[..., None] / np.float64(255)
    wanted = np.rint(canvas[one.part] * (1 - share) + made * share)  # 255 is odd: no mean lies between two numbers
    assert np.array_equal(inside, wanted)


@pytest.mark.parametrize(
    ("old", "new", "alpha", "blended"),
    [(10, 20, 128, 15), (0, 255, 1, 1), (0, 255, 254, 254), (255, 0, 1, 254), (3, 4, 127, 3), (3, 4, 128, 4)],
)
def test_a_blend_is_rounded(old: int, new: int, alpha: int, blended: int) -> None:
    canvas, made = flat(1, 1, old, old, old), flat(1, 1, new, new, new)
    pasted = window.paste(canvas, made, window.whole(1, 1), np.array([[alpha]], np.uint8))
    assert pasted.tolist() == [[[blended] * 3]]


def test_what_was_made_is_brought_to_the_windows_size_and_place() -> None:
    canvas, made = flat(50, 40, 9, 9, 9), flat(8, 8, 200, 100, 50)
    pasted = window.paste(canvas, made, Window(5, 6, 45, 31), np.full((40, 50), 255, np.uint8))
    changed = (pasted != 9).any(axis=2)
    assert masks.box_of(changed) == (5, 6, 45, 31) and np.count_nonzero(changed) == 40 * 25
    assert (pasted[changed] == [200, 100, 50]).all()


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, st.tuples(GROWTH, GROWTH, GROWTH, GROWTH))
def test_an_expanded_picture_keeps_the_old_one_at_its_place_and_repeats_its_edge(
    width: int, height: int, seed: int, sides: tuple[int, int, int, int]
) -> None:
    pixels, (left, top, right, bottom) = noise(width, height, seed), sides
    canvas = window.expand(pixels, left, top, right, bottom)
    assert canvas.shape == (top + height + bottom, left + width + right, 3)
    assert np.array_equal(canvas[top : top + height, left : left + width], pixels)
    rows = np.clip(np.arange(len(canvas)) - top, 0, height - 1)
    columns = np.clip(np.arange(canvas.shape[1]) - left, 0, width - 1)
    assert np.array_equal(canvas, pixels[rows[:, None], columns])


@pytest.mark.parametrize(
    ("size", "sides", "overlap", "area"),
    [
        ((3, 2), (0, 0, 2, 0), 1, "..### ..###"),
        ((3, 2), (1, 0, 0, 0), 0, "#... #..."),
        ((4, 3), (1, 1, 0, 0), 1, "##### ##### ##... ##..."),
        ((4, 1), (1, 0, 1, 1), 9, "##..## ######"),
        ((3, 3), (0, 0, 0, 0), 2, "... ... ..."),
    ],
)
def test_new_parts_and_an_overlap_on_the_sides_that_grow_are_drawn_anew(
    size: tuple[int, int], sides: tuple[int, int, int, int], overlap: int, area: str
) -> None:
    found = window.new_area(*size, *sides, overlap)
    assert found.tolist() == [[letter == "#" for letter in line] for line in area.split()]


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, st.tuples(GROWTH, GROWTH, GROWTH, GROWTH), st.integers(0, 1200))
def test_some_of_the_old_picture_always_remains_and_none_of_the_new_does(
    width: int, height: int, sides: tuple[int, int, int, int], overlap: int
) -> None:
    left, top, right, bottom = sides
    area = window.new_area(width, height, left, top, right, bottom, overlap)
    old = area[top : top + height, left : left + width]
    assert area.shape == (top + height + bottom, left + width + right)
    assert not old.all()
    assert np.count_nonzero(area) - np.count_nonzero(old) == area.size - old.size
    across, down = min(overlap, (width - 1) // 2), min(overlap, (height - 1) // 2)
    kept = (width - across * (bool(left) + bool(right))) * (height - down * (bool(top) + bool(bottom)))
    assert old.size - np.count_nonzero(old) == kept


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS)
def test_a_fill_keeps_what_is_not_masked_and_knows_nothing_of_what_is(width: int, height: int, seed: int) -> None:
    pixels, mask = noise(width, height, seed), some_mask(width, height, seed)
    before = pixels.copy()
    filled = window.fill(pixels, mask)
    assert np.array_equal(pixels, before)
    assert np.array_equal(filled[~mask], pixels[~mask])
    hidden = np.where(mask[..., None], np.uint8(0), pixels)
    assert np.array_equal(window.fill(hidden, mask), filled)


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, st.tuples(*[st.integers(0, 255)] * 3))
def test_an_object_on_a_flat_ground_disappears(width: int, height: int, seed: int, color: tuple[int, int, int]) -> None:
    ground, mask = flat(width, height, *color), some_mask(width, height, seed)
    hypothesis.assume(not mask.all())
    pixels = np.where(mask[..., None], noise(width, height, seed), ground)
    assert np.array_equal(window.fill(pixels, mask), ground)


def test_a_picture_that_is_all_masked_is_filled_with_gray() -> None:
    assert (window.fill(noise(9, 7, 0), np.ones((7, 9), np.bool_)) == 127).all()


def test_each_side_continues_inward_and_where_they_meet_there_is_no_edge() -> None:
    pixels, mask = flat(100, 30, 200, 0, 0), np.zeros((30, 100), np.bool_)
    pixels[:, 50:] = (0, 0, 200)
    mask[:, 30:70] = True
    red = window.fill(pixels, mask)[15, :, 0].astype(int)
    assert (red[30:36] >= 195).all() and (red[64:70] <= 5).all()
    assert abs(red[49] + red[50] - 200) <= 2
    assert np.abs(np.diff(red)).max() < 40
    assert (np.diff(red) <= 0).all()


def test_the_blur_of_a_fill_grows_with_the_depth_of_the_mask() -> None:
    pixels = flat(200, 90, 200, 0, 0)
    pixels[:, 100:] = (0, 0, 200)
    steps = []
    for depth in (2, 10, 40, 80):
        mask = np.zeros((90, 200), np.bool_)
        mask[:, 100 - depth : 100 + depth] = True
        steps.append(np.abs(np.diff(window.fill(pixels, mask)[45, :, 0].astype(int))).max())
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 4


def test_a_single_pixel_takes_its_neighbors_color() -> None:
    pixels, mask = flat(5, 5, 40, 50, 60), np.zeros((5, 5), np.bool_)
    pixels[2, 2], mask[2, 2] = 255, True
    assert window.fill(pixels, mask)[2, 2].tolist() == [40, 50, 60]


def test_a_proof_is_the_largest_difference_and_the_number_of_changed_pixels_outside() -> None:
    before, alpha = flat(4, 600, 100, 100, 100), np.zeros((600, 4), np.uint8)
    after = before.copy()
    alpha[:, 3] = 1
    after[:, 3] = 0  # may differ
    assert window.proof(before, after, alpha) == (0, 0)
    after[0, 0] = (100, 97, 101)
    after[599, 2] = (100, 100, 255)
    after[300, 1, 0] = 0
    assert window.proof(before, after, alpha) == (155, 3)
    assert window.proof(after, before, alpha) == (155, 3)


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS)
def test_a_proof_finds_the_one_pixel_that_is_off_by_one(width: int, height: int, seed: int) -> None:
    before, mask = noise(width, height, seed), some_mask(width, height, seed)
    hypothesis.assume(not mask.all())
    after = np.where(mask[..., None], np.uint8(0), before)
    y, x = np.argwhere(~mask)[seed % np.count_nonzero(~mask)]
    after[y, x, seed % 3] ^= 1
    assert window.proof(before, after, mask.astype(np.uint8)) == (1, 1)


def _pasted(canvas: Pixels, alpha: Gray) -> None:
    window.paste(canvas, canvas, window.whole(2000, 1500), alpha)


def _proved(canvas: Pixels, alpha: Gray) -> None:
    window.proof(canvas, canvas, alpha)


@pytest.mark.parametrize(("act", "pictures"), [(_pasted, 2), (_proved, 0)])  # the result and what was scaled; nothing
def test_a_large_picture_costs_few_copies_of_it(act: Callable[[Pixels, Gray], None], pictures: int) -> None:
    canvas = np.zeros((1500, 2000, 3), np.uint8)
    alpha = np.full((1500, 2000), 127, np.uint8)
    tracemalloc.start()
    try:
        act(canvas, alpha)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < (pictures + 1.5) * canvas.nbytes


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, SIDES, SIDES)
def test_the_way_there_and_back_changes_the_mask_and_nothing_else(
    width: int, height: int, seed: int, wide: int, high: int
) -> None:
    pixels, mask = noise(width, height, seed), some_mask(width, height, seed)
    hypothesis.assume(mask.any())
    alpha = masks.feather(mask, 4)
    one = window.around(masks.box_of(alpha > 0), 8, wide, high, width, height)
    made = 255 - window.cut(pixels, one, wide, high)
    assert window.proof(pixels, window.paste(pixels, made, one, alpha), alpha) == (0, 0)
    assert np.count_nonzero(alpha[one.part]) == np.count_nonzero(alpha)
