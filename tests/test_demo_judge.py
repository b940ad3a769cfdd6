"""The judge must see in a rendered scene what was put there."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from workers.demo.judge import judge, largest_blob
from workers.demo.scenes import COLORS, PATTERNS, PLACES, SHAPES, SIZES, Scene, render, sample

BLUR = ImageFilter.GaussianBlur(1.0)


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(BLUR))


def noisy(image: np.ndarray) -> np.ndarray:
    grain = np.random.default_rng(0).normal(0, 8, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def at(size: str, place: str) -> tuple[float, float, float]:
    radius = SIZES[size]
    x, y = (float(np.clip(0.5 + 0.24 * side, radius + 0.045, 1 - radius - 0.045)) for side in PLACES[place])
    return radius, x, y


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_size_and_place_is_told_on_plain_ground(shape: str):
    pairs = itertools.cycle(itertools.permutations(COLORS, 2))
    for size, place in itertools.product(SIZES, PLACES):
        color, background = next(pairs)
        radius, x, y = at(size, place)
        found = judge(render(Scene(shape, color, size, place, background, radius=radius, x=x, y=y)))
        assert (found.background, found.color, found.shape, found.place) == (background, color, shape, place)


def test_every_pair_of_colors_is_told():
    for color, background in itertools.permutations(COLORS, 2):
        found = judge(render(Scene("star", color, "medium", "center", background)))
        assert (found.background, found.color, found.shape) == (background, color, "star")


@pytest.mark.parametrize("change", [np.asarray, blurred, noisy])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_scenes_are_told_nearly_always(pattern: str, change):
    rng = np.random.default_rng(7)
    drawn = [s for s in (sample(rng) for _ in range(1500)) if s.pattern == pattern][:80]
    found = [judge(change(render(s))) for s in drawn]
    right = [
        (v.background == s.background, v.color == s.color, v.shape == s.shape)
        for v, s in zip(found, drawn, strict=True)
    ]
    assert np.mean(right, axis=0).min() >= 0.97


def test_a_picture_of_one_color_has_no_object():
    found = judge(np.full((128, 128, 3), COLORS["blue"], np.uint8))
    assert (found.background, found.color, found.shape) == ("blue", "", "")


def test_grain_without_an_object_has_no_color():
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert judge(noise).color == ""


def test_a_wrong_shape_is_not_taken_for_the_right_one():
    found = judge(render(Scene("square", "red", "large", "center", "white", radius=0.26)))
    assert found.shape == "square"
    assert found.shape_overlap > 0.95


def test_the_largest_blob_is_found_among_several():
    mask = np.zeros((12, 12), bool)
    mask[1:3, 1:3] = mask[5:10, 4:9] = mask[6, 9:12] = True
    mask[7, 6] = False
    blob = largest_blob(mask)
    assert blob.sum() == 25 - 1 + 3
    assert not blob[1, 1]
