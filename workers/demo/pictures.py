"""Crowds drawn ahead of training, and the changes of light that each step sees them in."""

from dataclasses import dataclass

import numpy as np

from workers.demo import crowds
from workers.demo.scenes import Scene

GRAIN = 6.0  # largest deviation of the noise, of 255
GAIN = 0.12  # by how much a color channel grows or shrinks at most
SLOPE = 0.2  # by how much one side is darker than the other at most


@dataclass(frozen=True)
class Pictures:
    """images: NHWC uint8 in [0, 255], RGB; labels: NHxW uint8, 0 = background, i + 1 = objects[n][i]."""

    images: np.ndarray
    labels: np.ndarray
    objects: list[tuple[Scene, ...]]

    def varied(self, rng: np.random.Generator, picks: np.ndarray) -> np.ndarray:
        """Some pictures in another light, so that a model does not rely on exact colors: NHWC uint8."""
        images = self.images[picks].astype(np.float32)
        count, side = images.shape[:2]
        gain = rng.uniform(1 - GAIN, 1 + GAIN, (count, 1, 1, 3)).astype(np.float32)
        slope = np.linspace(-0.5, 0.5, side, dtype=np.float32)
        across, down = rng.uniform(-SLOPE, SLOPE, (2, count, 1, 1)).astype(np.float32)
        light = 1 + across * slope[None, None, :] + down * slope[None, :, None]
        grain = rng.standard_normal(images.shape, np.float32) * rng.uniform(0, GRAIN, (count, 1, 1, 1)).astype("f4")
        plain = rng.random((count, 1, 1, 1)) < 0.3
        return np.where(plain, images, images * gain * light[..., None] + grain).clip(0, 255).astype(np.uint8)


def draw(count: int, size: int, seed: int) -> Pictures:
    """Picture i depends on the seed and i alone, so a resumed run draws the same ones."""
    images = np.empty((count, size, size, 3), np.uint8)
    labels = np.empty((count, size, size), np.uint8)
    objects = []
    for i in range(count):
        crowd = crowds.draw(np.random.default_rng([seed, i]), size)
        images[i], labels[i] = crowd.image, crowd.labels
        objects.append(crowd.objects)
    return Pictures(images, labels, objects)
