"""Pictures of one to three objects on one background, with the mask of each: what the demo mask models learn from."""

from dataclasses import dataclass, replace
from math import cos, hypot, pi, sin

import numpy as np

from workers.demo import scenes
from workers.demo.scenes import COLORS, Scene

MOST = 3  # objects
BLOB = "blob"  # a shape without a name, so that the models learn to follow edges and not only six outlines
BLOB_SHARE = 0.3  # of the objects beside the first
GAP = 0.02  # between two objects, as a share of the side
TRIES = 12  # to find a free place


@dataclass(frozen=True)
class Crowd:
    """image: HWC uint8 in [0, 255], RGB; labels: HxW uint8, 0 = background, i + 1 = objects[i]."""

    image: np.ndarray
    labels: np.ndarray
    objects: tuple[Scene, ...]


def draw(rng: np.random.Generator, size: int = 128, held_out: bool = False, most: int = MOST) -> Crowd:
    """The first object is a scene as `scenes.sample` gives it; others stand where there is room for them."""
    first = scenes.sample(rng, held_out)
    objects, covers = [first], [scenes.silhouette(first, size)]
    for _ in range(int(rng.integers(most))):
        other = _beside(rng, objects)
        if other is not None:
            objects.append(other)
            covers.append(_blob(rng, other, size) if other.shape == BLOB else scenes.silhouette(other, size))
    picture, labels = scenes.ground(first, size), np.zeros((size, size), np.uint8)
    for number, (scene, cover) in enumerate(zip(objects, covers, strict=True), 1):
        scenes.blend(picture, cover, COLORS[scene.color])
        labels[cover > 127] = number
    return Crowd((picture + 0.5).astype(np.uint8), labels, tuple(objects))


def _beside(rng: np.random.Generator, objects: list[Scene]) -> Scene | None:
    """An object that touches no other and differs from the background; None where none was found."""
    first = objects[0]
    for _ in range(TRIES):
        scene = scenes.sample(rng)
        free = all(hypot(scene.x - o.x, scene.y - o.y) > 1.05 * (scene.radius + o.radius) + GAP for o in objects)
        unseen = scenes.is_held_out(scene.shape, scene.color, first.background)
        known = not unseen or scenes.is_held_out(first.shape, first.color, first.background)
        if free and known and scene.color not in (first.background, first.accent):
            return replace(scene, shape=BLOB) if rng.random() < BLOB_SHARE else scene
    return None


def _blob(rng: np.random.Generator, scene: Scene, size: int) -> np.ndarray:
    """A random smooth outline: HxW uint8 in [0, 255]."""
    turns = np.arange(64) * 2 * pi / 64
    reach = 0.75 + sum(rng.uniform(-0.12, 0.12) * np.cos(k * turns + rng.uniform(0, 2 * pi)) for k in (1, 2, 3, 5))
    radii = scene.radius * np.clip(reach, 0.3, 1.0)
    corners = [(scene.x + r * cos(t), scene.y + r * sin(t)) for r, t in zip(radii, turns, strict=True)]
    return scenes.filled(corners, size)
