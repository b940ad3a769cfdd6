"""Phrases that name objects of a picture, and which objects each phrase names."""

from dataclasses import dataclass

import numpy as np

from workers.demo import crowds, scenes
from workers.demo.captions import SIZE_WORDS
from workers.demo.scenes import COLORS, SHAPES, Scene

ARTICLES = ("the ", "a ", "")
ANY_SHAPE = ("object", "shape", "thing")
GROUND = ("background", "the background")
# How often a phrase names color and shape, size too, color alone, shape alone, or the background.
WAYS, SHARES = ("color shape", "size color shape", "color", "shape", "ground"), (0.45, 0.1, 0.15, 0.2, 0.1)
ABSENT_SHARE = 0.25  # of the phrases: made up, so that most of them name nothing in the picture


@dataclass(frozen=True)
class Phrase:
    """Empty parts are not said and match everything."""

    text: str
    size: str = ""
    color: str = ""
    shape: str = ""
    ground: bool = False

    def names(self, scene: Scene) -> bool:
        parts = (self.size, scene.size), (self.color, scene.color), (self.shape, scene.shape)
        return not self.ground and all(said in ("", is_) for said, is_ in parts)


def draw(rng: np.random.Generator, objects: tuple[Scene, ...]) -> Phrase:
    """A random phrase, most often about one of the objects."""
    way = str(rng.choice(WAYS, p=SHARES))
    if way == "ground":
        return Phrase(_pick(rng, GROUND), ground=True)
    scene = scenes.sample(rng) if rng.random() < ABSENT_SHARE else objects[rng.integers(len(objects))]
    shape = scene.shape if "shape" in way and scene.shape != crowds.BLOB else ""
    color = scene.color if "color" in way or not shape else ""
    return say(rng, scene.size if "size" in way else "", color, shape)


def say(rng: np.random.Generator, size: str, color: str, shape: str) -> Phrase:
    words = (_pick(rng, SIZE_WORDS[size]) if size else "", color, shape or _pick(rng, ANY_SHAPE))
    article = _pick(rng, ARTICLES)
    text = (article + " ".join(word for word in words if word)).replace("a orange", "an orange")
    return Phrase(text, size if words[0] else "", color, shape)


def mask(phrase: Phrase, objects: tuple[Scene, ...], labels: np.ndarray) -> np.ndarray:
    """What the phrase names: HxW bool."""
    if phrase.ground:
        return labels == 0
    return np.isin(labels, [number for number, scene in enumerate(objects, 1) if phrase.names(scene)])


def vocabulary() -> list[str]:
    return [*COLORS, *SHAPES, *ANY_SHAPE, *GROUND, *(word for words in SIZE_WORDS.values() for word in words if word)]


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
