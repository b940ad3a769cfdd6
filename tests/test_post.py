"""Post-processing: pure functions over pictures, asked for in a column."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from producer import columns
from producer.faults import BadCell
from shared import post as steps_
from workers import post

EXAMPLES = hypothesis.settings(max_examples=60)
PICTURES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)))
STEPS = st.one_of(
    st.just("autocontrast"),
    *(
        st.integers(int(low), int(high)).map(lambda n, name=name: f"{name}:{n}")
        for name, (low, high) in ((name, limits) for name, limits in steps_.STEPS.items() if limits)
    ),
)


def test_every_step_that_a_row_may_ask_for_is_done_by_a_worker() -> None:
    assert set(post.FUNCTIONS) == set(steps_.STEPS)


@EXAMPLES
@hypothesis.given(PICTURES, st.lists(STEPS.filter(lambda step: "upscale" not in step), max_size=4))
def test_steps_keep_size_and_type_and_leave_what_they_are_given_alone(pixels: np.ndarray, steps: list[str]) -> None:
    before = pixels.copy()
    made = post.apply(pixels, steps)
    assert (made.shape, made.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(pixels, before)
    assert np.array_equal(made, post.apply(pixels, steps))


@EXAMPLES
@hypothesis.given(PICTURES, st.sampled_from(["brightness:1", "contrast:1", "saturation:1", "sharpen:0"]))
def test_the_neutral_amount_changes_nothing(pixels: np.ndarray, step: str) -> None:
    assert np.array_equal(post.apply(pixels, [step]), pixels)


@EXAMPLES
@hypothesis.given(PICTURES, PICTURES.map(lambda p: p[0, 0]), st.integers(2, 4))
def test_a_flat_picture_stays_flat_and_grows_by_the_factor(pixels: np.ndarray, color: np.ndarray, factor: int) -> None:
    flat = np.broadcast_to(color, pixels.shape).copy()
    assert np.array_equal(post.apply(flat, ["sharpen:2", "denoise:2"]), flat)
    large = post.apply(flat, [f"upscale:{factor}"])
    assert large.shape == (flat.shape[0] * factor, flat.shape[1] * factor, 3)
    assert np.array_equal(np.unique(large.reshape(-1, 3), axis=0), [color])


@EXAMPLES
@hypothesis.given(PICTURES)
def test_without_saturation_all_channels_are_equal_and_without_brightness_all_is_black(pixels: np.ndarray) -> None:
    gray = post.apply(pixels, ["saturation:0"])
    assert np.array_equal(gray, np.repeat(gray[..., :1], 3, axis=-1))
    assert not post.apply(pixels, ["brightness:0"]).any()


@EXAMPLES
@hypothesis.given(PICTURES.filter(lambda p: np.ptp(p) > 2))
def test_autocontrast_of_a_gray_picture_reaches_black_and_white(pixels: np.ndarray) -> None:
    gray = np.repeat(pixels[..., :1], 3, axis=-1)
    hypothesis.assume(np.ptp(gray) > 2)
    made = post.apply(gray, ["autocontrast"])
    assert (made.min(), made.max()) in ((0, 255), (0, 254))  # Pillow rounds down


@EXAMPLES
@hypothesis.given(PICTURES, st.lists(STEPS, max_size=3))
def test_steps_are_done_in_order(pixels: np.ndarray, steps: list[str]) -> None:
    one_by_one = pixels
    for step in steps:
        one_by_one = post.apply(one_by_one, [step])
    assert np.array_equal(post.apply(pixels, steps), one_by_one)


def test_cells_are_read_into_the_shortest_spelling() -> None:
    assert columns.post(" Autocontrast ; brightness: 1.10;;upscale:2.0;") == (
        "autocontrast",
        "brightness:1.1",
        "upscale:2",
    )


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("brighness:1.1", "did you mean 'brightness'"),
        ("brightness", "a number from 0.0 to 4.0"),
        ("contrast:5", "a number from 0.0 to 4.0"),
        ("denoise:1.5", "a whole number from 1 to 3"),
        ("autocontrast:1", "without a number"),
        ("upscale:2;upscale:2", "one upscale"),
        (";".join(["sharpen:1"] * 9), "at most 8 steps"),
    ],
)
def test_a_bad_step_says_what_was_expected(cell: str, words: str) -> None:
    with pytest.raises(BadCell) as caught:
        columns.post(cell)
    assert words in f"{caught.value.expected}; {caught.value.hint}"
