"""Words for scenes: the prompts that the demo model understands."""

import numpy as np

from workers.demo.scenes import Scene

SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized", ""),
    "large": ("large", "big", "huge"),
}
PLACE_WORDS = {
    "top left": ("in the top left corner", "in the upper left corner", "at the top left"),
    "top": ("at the top", "near the top", "in the upper part"),
    "top right": ("in the top right corner", "in the upper right corner", "at the top right"),
    "left": ("on the left", "on the left side", "at the left edge"),
    "center": ("in the center", "in the middle", "at the center"),
    "right": ("on the right", "on the right side", "at the right edge"),
    "bottom left": ("in the bottom left corner", "in the lower left corner", "at the bottom left"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
    "bottom right": ("in the bottom right corner", "in the lower right corner", "at the bottom right"),
}
PATTERN_WORDS = {
    "stripes": ("{accent} stripes", "{way} {accent} stripes"),
    "dots": ("{accent} dots", "{accent} polka dots", "{accent} spots"),
}
TEMPLATES = (
    "a {size} {color} {shape} {place} on a {background} background{pattern}",
    "a {size} {color} {shape} on a {background} background{pattern}, {place}",
    "a {size} {color} {shape} {place}, {background} background{pattern}",
    "{size} {color} {shape}, {background} background{pattern}, {place}",
    "{color} {shape}, {size}, {place}, on {background}{pattern}",
    "{size} {color} {shape} {place} on {background}{pattern}",
    "on a {background} background{pattern}, a {size} {color} {shape} {place}",
    "a {background} background{pattern} and a {size} {color} {shape} {place}",
    "{place}, a {size} {color} {shape} on a {background} background{pattern}",
    "a picture of a {size} {color} {shape} {place} on a {background} background{pattern}",
    "there is a {size} {color} {shape} {place} on a {background} background{pattern}",
    "{background} background{pattern}, {size} {color} {shape} {place}",
)
SAY_PLACE = 0.75  # how often a caption names the place
SAY_SIZE = 0.8


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of many ways to say what the scene shows; color, shape and background are always named."""
    text = _pick(rng, TEMPLATES).format(
        size=_pick(rng, SIZE_WORDS[scene.size]) if rng.random() < SAY_SIZE else "",
        place=_pick(rng, PLACE_WORDS[scene.place]) if rng.random() < SAY_PLACE else "",
        pattern=" with " + _pattern(scene, rng) if scene.accent else "",
        background=scene.background,
        color=scene.color,
        shape=scene.shape,
    )
    return _tidy(text)


def _pattern(scene: Scene, rng: np.random.Generator) -> str:
    way = "vertical" if scene.vertical else "horizontal"
    return _pick(rng, PATTERN_WORDS[scene.pattern]).format(accent=scene.accent, way=way)


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]


def _tidy(text: str) -> str:
    """Close the gaps that words left unsaid leave behind, and say "an orange"."""
    parts = (" ".join(part.split()) for part in text.split(","))
    text = ", ".join(part for part in parts if part)
    return text.replace("a orange", "an orange")
