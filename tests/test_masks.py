"""Mask arithmetic: against numbers worked out by hand, and against slower ways to the same result."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from workers import masks
from workers.masks import Mask

EXAMPLES = hypothesis.settings(max_examples=120)
WIDTHS = st.integers(1, 40) | st.integers(1, 2000)
HEIGHTS = st.integers(1, 40) | st.integers(1, 1500)
SEEDS = st.integers(0, 2**32 - 1)


def some_mask(width: int, height: int, seed: int) -> Mask:
    """Up to four boxes, each turning over what it covers, and noise; empty and full ones are among them."""
    rng = np.random.default_rng(seed)
    mask = np.full((height, width), rng.random() < 0.1)
    for _ in range(rng.integers(5)):
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + 1 + rng.integers(height), x : x + 1 + rng.integers(width)] ^= True
    return mask ^ (rng.random(mask.shape, np.float32) < rng.choice([0, 0, 1e-4, 0.02, 0.4]))


MASKS = st.builds(some_mask, WIDTHS, HEIGHTS, SEEDS)
LARGE = some_mask(2000, 1500, 4)


def read(text: str) -> Mask:
    return np.array([[letter == "#" for letter in line] for line in text.split()])


def distance_to(mask: Mask) -> np.ndarray:
    """Of every pixel, over the whole picture at once."""
    return ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)


def test_the_brighter_half_of_a_gray_picture_is_masked() -> None:
    assert masks.binary(np.array([[0, 127, 128, 255]], np.uint8)).tolist() == [[False, False, True, True]]


@EXAMPLES
@hypothesis.given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.integers(1, 4), SEEDS)
def test_a_fitted_mask_has_its_pictures_size_and_its_own_grays(
    width: int, height: int, across: int, down: int, seed: int
) -> None:
    gray = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    larger = masks.fit(gray, width * across, height * down)
    assert np.array_equal(larger, gray.repeat(down, axis=0).repeat(across, axis=1))
    assert np.array_equal(masks.fit(larger, width, height), gray)
    assert set(np.unique(masks.fit(gray, 7, 5))) <= set(np.unique(gray))


@pytest.mark.parametrize(
    ("pixels", "grown"),
    [
        (0, "....... ....... ....... ...#... ....... ....... ......."),
        (1, "....... ....... ...#... ..###.. ...#... ....... ......."),
        (2, "....... ...#... ..###.. .#####. ..###.. ...#... ......."),
        (3, "...#... .#####. .#####. ####### .#####. .#####. ...#..."),
    ],
)
def test_a_single_pixel_grows_into_a_disc(pixels: int, grown: str) -> None:
    mask = np.zeros((7, 7), np.bool_)
    mask[3, 3] = True
    assert np.array_equal(masks.grow(mask, pixels), read(grown))


def test_a_shrinking_mask_keeps_its_pixels_along_the_pictures_border() -> None:
    mask = read(".#### .#### .#### .####")
    assert np.array_equal(masks.grow(mask, -2), read("...## ...## ...## ...##"))
    assert np.array_equal(masks.grow(np.ones_like(mask), -9), np.ones_like(mask))


@EXAMPLES
@hypothesis.given(MASKS, st.integers(1, 60))
@hypothesis.example(LARGE, 24)
def test_a_grown_mask_contains_the_mask_and_a_shrunk_one_is_inside_it(mask: Mask, pixels: int) -> None:
    before = mask.copy()
    grown, shrunk = masks.grow(mask, pixels), masks.grow(mask, -pixels)
    assert np.array_equal(mask, before)
    assert grown[mask].all() and not shrunk[~mask].any()
    assert np.array_equal(grown, distance_to(mask) <= pixels)
    assert np.array_equal(shrunk, distance_to(~mask) > pixels)


@EXAMPLES
@hypothesis.given(MASKS, st.integers(0, 300))
@hypothesis.example(LARGE, 16)
def test_a_feathered_mask_is_white_inside_and_black_beyond_the_blur(mask: Mask, blur: int) -> None:
    alpha, distance = masks.feather(mask, blur), distance_to(mask)
    assert alpha.dtype == np.uint8
    assert (alpha[mask] == 255).all()
    assert np.array_equal(alpha > 0, distance <= blur)
    edge = ~mask & (distance <= blur)
    assert (np.abs(255 - alpha[edge] - 255 * distance[edge] / (blur + 1)) <= 0.5).all()


def test_a_feather_falls_in_a_line() -> None:
    assert masks.feather(read("#......"), 3).tolist() == [[255, 191, 128, 64, 0, 0, 0]]
    assert masks.feather(read("#......"), 1).tolist() == [[255, 128, 0, 0, 0, 0, 0]]
    assert masks.feather(read("##....."), 0).tolist() == [[255, 255, 0, 0, 0, 0, 0]]


@EXAMPLES
@hypothesis.given(st.integers(1, 120), st.integers(1, 120), SEEDS, st.integers(1, 30), st.integers(1, 6))
def test_where_tiles_end_cannot_be_seen(width: int, height: int, seed: int, tile: int, pixels: int) -> None:
    mask = some_mask(width, height, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "TILE", tile)
        tiled = masks.grow(mask, pixels), masks.grow(mask, -pixels), masks.feather(mask, pixels)
    whole = masks.grow(mask, pixels), masks.grow(mask, -pixels), masks.feather(mask, pixels)
    assert all(np.array_equal(one, other) for one, other in zip(tiled, whole, strict=True))


@pytest.mark.parametrize(
    ("min_area", "tidied"),
    [
        (1, "#####..# #.#.#... #.####.. #####... ......## .#....##"),
        (2, "#####... #.###... #.####.. #####... ......## ......##"),
        (3, "#####... #####... ######.. #####... ......## ......##"),
        (5, "#####... #####... ######.. #####... ........ ........"),
        (99, "#####... #####... ######.. #####... ........ ........"),
    ],
)
def test_small_holes_are_filled_and_small_islands_dropped(min_area: int, tidied: str) -> None:
    mask = read("#####..# #.#.#... #.####.. #####... ......## .#....##")
    assert np.array_equal(masks.tidy(mask, min_area), read(tidied))


def test_holes_are_4_connected_islands_8_connected_and_a_bay_is_no_hole() -> None:
    assert np.array_equal(masks.tidy(read("###. #.## ##.# .###"), 2), read("###. #### #### .###"))
    assert np.array_equal(masks.tidy(read("##.. ##.. ...# ..#. ...."), 2), read("##.. ##.. ...# ..#. ...."))
    bay = read("##### #...# ##.##")
    for turned in (bay, bay[::-1], bay.T, bay.T[:, ::-1]):
        assert np.array_equal(masks.tidy(turned, 99), turned)


def test_an_island_in_a_small_hole_does_not_keep_it_open() -> None:
    mask = read("##### #...# #.#.# #...# #####")
    assert masks.tidy(mask, 9).all()
    assert np.array_equal(masks.tidy(mask, 8), read("##### #...# #...# #...# #####"))


@EXAMPLES
@hypothesis.given(MASKS, st.integers(0, 400))
@hypothesis.example(LARGE, 400)
def test_a_second_tidying_changes_nothing_and_the_first_never_empties_a_mask(mask: Mask, min_area: int) -> None:
    before = mask.copy()
    tidied = masks.tidy(mask, min_area)
    assert np.array_equal(mask, before)
    assert np.array_equal(masks.tidy(tidied, min_area), tidied)
    assert tidied.any() == mask.any()
    islands, _ = ndimage.label(tidied, np.ones((3, 3)))
    areas = sorted(np.bincount(islands.ravel())[1:])
    assert all(area >= min_area for area in areas[:-1])
    # Each change is a whole region that is smaller than allowed.
    for changed, reach in ((tidied & ~mask, None), (mask & ~tidied, np.ones((3, 3)))):
        regions, _ = ndimage.label(changed, reach)
        assert (np.bincount(regions.ravel())[1:] < min_area).all()


def test_the_last_two_numbers_of_a_box_are_exclusive() -> None:
    assert masks.box_of(read("..... ..#.. .#... .....")) == (1, 1, 3, 3)
    assert masks.box_of(read("#")) == (0, 0, 1, 1)
    assert masks.box_of(read("... ...")) is None


@EXAMPLES
@hypothesis.given(MASKS)
def test_a_box_holds_all_of_the_mask_and_no_line_too_many(mask: Mask) -> None:
    box = masks.box_of(mask)
    hypothesis.assume(box is not None)
    x1, y1, x2, y2 = box
    inside = mask[y1:y2, x1:x2]
    assert np.count_nonzero(inside) == np.count_nonzero(mask)
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@EXAMPLES
@hypothesis.given(MASKS, st.integers(0, 50))
def test_a_part_is_the_box_and_its_margin_inside_the_picture(mask: Mask, margin: int) -> None:
    rows, columns = masks.part_of(mask, margin)
    wanted = np.zeros_like(mask)
    if box := masks.box_of(mask):
        wanted = ndimage.distance_transform_cdt(~_filled(mask.shape, box), "chessboard") <= margin
    found = np.zeros_like(mask)
    found[rows, columns] = True
    assert np.array_equal(found, wanted)


def _filled(shape: tuple[int, ...], box: masks.Box) -> Mask:
    mask = np.zeros(shape, np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "coded"),
    [
        ("..#. .##.", {"size": [2, 4], "counts": [3, 3, 2]}),
        ("#.. ##.", {"size": [2, 3], "counts": [0, 2, 1, 1, 2]}),
        ("... ...", {"size": [2, 3], "counts": [6]}),
        ("## ## ##", {"size": [3, 2], "counts": [0, 6]}),
    ],
)
def test_run_lengths_go_down_the_columns_and_begin_with_what_is_not_masked(mask: str, coded: dict[str, object]) -> None:
    assert masks.rle(read(mask)) == coded


@EXAMPLES
@hypothesis.given(MASKS)
def test_run_lengths_give_back_their_mask(mask: Mask) -> None:
    coded = masks.rle(mask)
    height, width = coded["size"]
    back = np.repeat(np.arange(len(coded["counts"])) % 2 == 1, coded["counts"]).reshape(width, height).T
    assert np.array_equal(back, mask)
    assert all(type(count) is int for count in coded["counts"])  # json knows no other
    assert all(coded["counts"][1:])


def test_an_overlay_is_an_outline_around_half_a_tint() -> None:
    pixels = np.full((6, 6, 3), 100, np.uint8)
    drawn = masks.overlay(pixels, [read("...... .####. .####. .####. .####. ......")])
    own = masks.color(0)
    line = read("...... .####. .#..#. .#..#. .####. ......")
    tint = read("...... ...... ..##.. ..##.. ...... ......")
    assert (drawn[line] == own).all()
    assert (drawn[tint] == (100 + own.astype(int)) // 2).all()
    assert (drawn[~line & ~tint] == 100).all()
    assert (pixels == 100).all()


def test_a_tint_hides_no_outline() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    small = read(".... .##. .##. ....")
    drawn = masks.overlay(pixels, [small, np.ones((4, 4), np.bool_)])
    assert (drawn[small] == masks.color(0)).all()


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, st.lists(SEEDS, max_size=4))
def test_an_overlay_touches_only_what_is_masked(width: int, height: int, seeds: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before, drawn_masks = pixels.copy(), [some_mask(width, height, seed) for seed in seeds]
    drawn = masks.overlay(pixels, drawn_masks)
    assert np.array_equal(pixels, before)
    free = ~np.any([np.zeros((height, width), np.bool_), *drawn_masks], axis=0)
    assert np.array_equal(drawn[free], pixels[free])


def test_a_hundred_masks_have_a_hundred_colors_and_neighbors_differ_clearly() -> None:
    colors = [masks.color(number).astype(int) for number in range(100)]
    assert len({tuple(color) for color in colors}) == 100
    assert all(np.abs(one - other).max() > 100 for one, other in itertools.pairwise(colors))


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [("##..", ".##.", 1 / 3), ("##..", "##..", 1.0), ("##..", "..##", 0.0), ("....", "....", 1.0), ("....", "#...", 0)],
)
def test_overlap_is_what_both_have_of_what_either_has(one: str, other: str, share: float) -> None:
    assert masks.overlap(read(one), read(other)) == share
    assert masks.overlap(read(other), read(one)) == share


@EXAMPLES
@hypothesis.given(WIDTHS, HEIGHTS, SEEDS, SEEDS)
def test_overlap_is_one_for_equal_masks_only(width: int, height: int, seed: int, other_seed: int) -> None:
    one, other = some_mask(width, height, seed), some_mask(width, height, other_seed)
    share = masks.overlap(one, other)
    assert isinstance(share, float) and 0 <= share <= 1
    assert (share == 1) == np.array_equal(one, other)
    assert (share == 0) == (not (one & other).any() and bool((one | other).any()))
