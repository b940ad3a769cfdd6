"""Sizes of edits: what the model works at, and how a canvas grows."""

import contextlib

import hypothesis
import pytest
from hypothesis import strategies as st

from producer import edit_columns, sizes
from producer.faults import BadCell
from producer.sizes import Amount, Anchor, Margins, Size
from shared.catalog import Defaults, Limits

EXAMPLES = hypothesis.settings(max_examples=300)
SIDE = st.integers(1, 3000)
PICTURES = st.builds(Size, SIDE, SIDE)
DEFAULTS = Defaults(width=128, height=128)
LIMITS = Limits(min_size=64, max_size=256, multiple_of=8)
NUMBERS = st.floats(0, 5000, allow_nan=False).map(lambda x: round(x, 3))


@pytest.mark.parametrize(
    ("picture", "width", "height", "expected"),
    [
        ((301, 199), None, None, (160, 104)),
        ((100, 100), None, None, (128, 128)),
        ((6000, 4000), None, None, (160, 104)),
        ((4000, 100), None, None, (256, 64)),  # the limits win over the proportions
        ((1, 1), None, None, (128, 128)),
        ((301, 199), 256, None, (256, 168)),
        ((301, 199), None, 128, (192, 128)),
        ((301, 199), 64, 256, (64, 256)),
    ],
)
def test_a_model_works_at_the_picture_s_proportions_unless_the_row_says_otherwise(picture, width, height, expected):
    assert sizes.working(Size(*picture), DEFAULTS, LIMITS, width, height) == expected


@EXAMPLES
@hypothesis.given(PICTURES, st.sampled_from([8, 16, 64]), st.integers(64, 128), st.integers(256, 1100))
def test_the_working_size_is_one_that_the_model_can_make_and_its_proportions_are_near(picture, step, least, most):
    limits = Limits(min_size=least, max_size=most, multiple_of=step)
    made = sizes.working(picture, DEFAULTS, limits, None, None)
    low, high = sizes.bounds(limits)
    for side in made:
        assert side % step == 0
        assert limits.min_size <= low <= side <= high <= limits.max_size
    if all(low < side < high for side in made):
        ratio = made.width / made.height / (picture.width / picture.height)
        tolerance = (1 + step / made.width) * (1 + step / made.height)
        assert 1 / tolerance <= ratio <= tolerance
        assert abs(made.width * made.height / (128 * 128) - 1) <= tolerance - 1


@EXAMPLES
@hypothesis.given(PICTURES, SIDE, SIDE, st.sampled_from([0, 1, 2]), st.sampled_from([0, 1, 2]))
def test_margins_of_a_canvas_add_up_and_lie_where_the_anchor_says(picture, more_width, more_height, across, down):
    canvas = Size(picture.width + more_width, picture.height + more_height)
    margins = sizes.placed(picture, canvas, Anchor(across, down))
    assert margins.around(picture) == canvas
    assert min(margins) >= 0
    assert (margins.left == 0) or across > 0
    assert (margins.right == 0) or across < 2
    assert (margins.top == 0) or down > 0
    assert abs(margins.left - margins.right) <= 1 or across != 1


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("center", (1, 1)),
        ("middle", (1, 1)),
        ("left", (0, 1)),
        ("Bottom", (1, 2)),
        ("top left", (0, 0)),
        ("left-top", (0, 0)),
        ("bottom_right", (2, 2)),
    ],
)
def test_an_anchor_names_a_side_or_a_corner(cell, expected):
    assert edit_columns.anchor(cell) == expected


@pytest.mark.parametrize("cell", ["nowhere", "left right", "top top", "left top right", "-", "topleft"])
def test_an_anchor_that_is_nowhere_is_refused(cell):
    with pytest.raises(BadCell, match="a corner such as 'top left'"):
        edit_columns.anchor(cell)


@pytest.mark.parametrize(
    ("cell", "length", "pixels"),
    [("64", 301, 64), ("64.0", 301, 64), ("64px", 301, 64), ("25%", 301, 75), ("12.5 %", 200, 25), ("0%", 10, 0)],
)
def test_an_amount_is_pixels_or_a_share_of_the_side(cell, length, pixels):
    assert edit_columns.expand(cell).of(length) == pixels


@pytest.mark.parametrize("cell", ["-1", "abc", "65537", "%", "-5%", "1001%", "1e3", "25 percent", "12.5", "NaN%"])
def test_an_amount_that_is_neither_is_refused(cell):
    with pytest.raises(BadCell):
        edit_columns.expand(cell)


@EXAMPLES
@hypothesis.given(st.decimals(0, 1000, places=3), SIDE)
def test_a_share_is_read_back_and_never_more_than_half_a_pixel_off(percent, length):
    assert abs(edit_columns.expand(f"{percent}%").of(length) - float(percent) * length / 100) <= 0.500001
    margins = sizes.extended(Size(length, 7), {"left": Amount(float(percent), True), "top": Amount(3)})
    assert margins == Margins(left=edit_columns.expand(f"{percent}%").of(length), top=3)


@EXAMPLES
@hypothesis.given(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20), st.sampled_from([",", " , ", ", ", " ", "  "])
)
def test_points_are_read_back_as_written(points, comma):
    text = " ; ".join(f"{x:.3f}{comma}{y:.3f}" for x, y in points)
    assert edit_columns.points(text) == points
    assert edit_columns.points(text + ";") == points


@pytest.mark.parametrize("cell", ["5", "5,5,5", "a,b", "5,5;6", ";", "5;5", "1e3,5", "nan,5", "5,5;;x"])
def test_points_that_are_no_pairs_are_refused(cell):
    with pytest.raises(BadCell, match="points as x,y;x,y"):
        edit_columns.points(cell)


def test_more_points_than_a_model_can_take_are_refused():
    assert len(edit_columns.points("1,2;" * 256)) == 256
    with pytest.raises(BadCell, match="at most 256 points"):
        edit_columns.points("1,2;" * 257)


@EXAMPLES
@hypothesis.given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
def test_a_box_is_read_back_if_it_has_some_area_and_refused_if_not(box):
    text = ",".join(f"{side:.3f}" for side in box)
    if box[0] < box[2] and box[1] < box[3]:
        assert edit_columns.box(text) == box
    else:
        with pytest.raises(BadCell, match="a box of some area"):
            edit_columns.box(text)


@pytest.mark.parametrize("cell", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,x"])
def test_a_box_of_other_than_four_numbers_is_refused(cell):
    with pytest.raises(BadCell, match="x1,y1,x2,y2"):
        edit_columns.box(cell)


@pytest.mark.parametrize(("cell", "labels"), [("1;0", [1, 0]), ("1,0", [1, 0]), ("1 1.0 0", [1, 1, 0]), ("0", [0])])
def test_labels_are_read(cell, labels):
    assert edit_columns.point_labels(cell) == labels


@pytest.mark.parametrize("cell", ["2", "1;x", ";", "10", "yes"])
def test_labels_other_than_1_and_0_are_refused(cell):
    with pytest.raises(BadCell, match="a label for each point"):
        edit_columns.point_labels(cell)


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("masked_content", "0", "fill"),
        ("masked_content", "Latent noise", "latent_noise"),
        ("multimask", "false", "best"),
        ("multimask", "TRUE", "all"),
        ("multimask", "largest", "largest"),
        ("auto", "everything", True),
        ("auto", "no", False),
        ("mask_invert", "1", True),
        ("mask_invert", "0.0", False),
        ("action", "Remove object", "remove_object"),
        ("strength", "0.75", 0.75),
        ("mask_grow", "-3", -3),
    ],
)
def test_cells_mean_what_users_of_other_tools_write_into_them(column, cell, value):
    assert edit_columns.PARSERS[column](cell) == value


@EXAMPLES
@hypothesis.given(st.sampled_from(sorted(edit_columns.PARSERS)), st.text(max_size=12))
def test_no_cell_crashes_a_parser(column, cell):
    with contextlib.suppress(BadCell):
        edit_columns.PARSERS[column](cell)


@EXAMPLES
@hypothesis.given(PICTURES, PICTURES)
def test_proportions_are_alike_both_ways_or_not_at_all(one, other):
    assert sizes.alike(one, other, 0.02) == sizes.alike(other, one, 0.02)
    assert sizes.alike(one, Size(one.width * 3, one.height * 3), 0.02)
