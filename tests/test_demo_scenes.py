"""Synthetic scenes and their captions."""

import numpy as np
import pytest

from workers.demo.captions import PATTERN_WORDS, PLACE_WORDS, SIZE_WORDS, caption
from workers.demo.scenes import COLORS, PATTERNS, PLACES, SHAPES, SIZES, Scene, is_held_out, render, sample, silhouette


def scenes(count: int, held_out: bool = False, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample(rng, held_out) for _ in range(count)]


def test_the_same_seed_makes_the_same_scenes_captions_and_pictures():
    one, other = np.random.default_rng(4), np.random.default_rng(4)
    for _ in range(20):
        first, second = sample(one), sample(other)
        assert first == second
        assert caption(first, one) == caption(second, other)
        assert np.array_equal(render(first), render(second))


def test_held_out_combinations_are_never_sampled_for_training():
    assert not any(is_held_out(s.shape, s.color, s.background) for s in scenes(3000))
    assert all(is_held_out(s.shape, s.color, s.background) for s in scenes(300, held_out=True))


def test_training_still_shows_every_shape_color_and_background():
    seen = scenes(3000)
    assert {(s.shape, s.color) for s in seen} == {(shape, color) for shape in SHAPES for color in COLORS}
    assert {s.background for s in seen} == set(COLORS)
    assert {s.size for s in seen} == set(SIZES)
    assert {s.place for s in seen} == set(PLACES)
    assert {s.pattern for s in seen} == set(PATTERNS)


def test_the_vocabulary_is_as_large_as_promised():
    assert len(COLORS) >= 8
    assert len(SHAPES) >= 6


def test_the_colors_of_a_scene_differ():
    for s in scenes(500):
        assert len({s.color, s.background, s.accent}) == 3


def test_captions_name_the_attributes():
    rng = np.random.default_rng(1)
    for s in scenes(500):
        text = caption(s, rng)
        assert s.color in text
        assert s.shape in text
        assert f"{s.background}" in text
        assert "  " not in text
        assert not text.startswith(",")
        assert ", ," not in text
        if s.pattern != "plain":
            assert any(words.format(accent=s.accent, way="").strip() in text for words in PATTERN_WORDS[s.pattern])


def test_captions_never_name_a_wrong_size_or_place():
    rng = np.random.default_rng(2)
    for s in scenes(500):
        words = caption(s, rng).replace(",", "").split()
        wrong = {word for size, names in SIZE_WORDS.items() if size != s.size for word in names}
        assert not wrong & set(words)
        phrases = [phrase for place, names in PLACE_WORDS.items() if place != s.place for phrase in names]
        assert not any(f" {phrase} " in f" {' '.join(words)} " and phrase not in _longer(s) for phrase in phrases)


def _longer(scene: Scene) -> str:
    """Phrases of the right place, which may hold a phrase of another one ("at the top left" holds "at the top")."""
    return " | ".join(PLACE_WORDS[scene.place])


@pytest.mark.parametrize("size", [64, 128, 200])
def test_the_object_lies_inside_the_picture_at_any_size(size: int):
    for s in scenes(60):
        cover = silhouette(s, size)
        assert cover.shape == (size, size)
        edges = (cover[0], cover[-1], cover[:, 0], cover[:, -1])
        assert not any(edge.any() for edge in edges)
        assert cover.max() == 255


def test_edges_are_smooth():
    picture = render(Scene("circle", "black", "large", "center", "white"))
    assert picture.shape == (128, 128, 3)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture)) > 8


def test_the_background_color_covers_more_than_its_pattern():
    for s in scenes(300):
        if s.pattern == "plain":
            continue
        picture = render(s).astype(int)
        base, accent = (np.abs(picture - COLORS[c]).sum(-1).__lt__(30).sum() for c in (s.background, s.accent))
        assert base > 1.2 * accent
