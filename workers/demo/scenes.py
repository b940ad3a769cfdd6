"""Synthetic captioned scenes: one shape of a color and a size at a place, on a plain or patterned background."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (220, 35, 40),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 50),
    "green": (35, 155, 65),
    "blue": (40, 85, 225),
    "purple": (135, 50, 175),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
SIZES = {"small": 0.155, "medium": 0.205, "large": 0.265}  # radius, as a share of the picture's side
PLACES = {
    "top left": (-1, -1),
    "top": (0, -1),
    "top right": (1, -1),
    "left": (-1, 0),
    "center": (0, 0),
    "right": (1, 0),
    "bottom left": (-1, 1),
    "bottom": (0, 1),
    "bottom right": (1, 1),
}
PATTERNS = ("plain", "stripes", "dots")
PATTERN_SHARE = 0.3  # of the scenes, the others have a plain background
MARGIN = 0.045  # free border around the object, as a share of the side
OVERSAMPLE = 4  # drawn this much larger, then averaged down
PERIODS = (3, 4)  # how often a pattern repeats across the picture


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a picture shows; lengths are shares of the picture's side."""

    shape: str
    color: str
    size: str
    place: str
    background: str  # of a pattern: the color that covers most of it
    pattern: str = "plain"
    accent: str = ""  # second color of a pattern
    radius: float = 0.2
    x: float = 0.5  # center of the object
    y: float = 0.5
    period: int = 4  # repeats of the pattern across the picture
    phase: float = 0.0  # shift of the pattern, in periods
    vertical: bool = False  # direction of stripes


def is_held_out(shape: str, color: str, background: str) -> bool:
    """True for the one in eight combinations that training never shows."""
    colors = list(COLORS)
    return (SHAPES.index(shape) + 3 * colors.index(color) + 5 * colors.index(background)) % 8 == 0


def sample(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A random scene, from the held-out combinations or from all others."""
    while True:
        shape = SHAPES[rng.integers(len(SHAPES))]
        background, color, accent = rng.choice(list(COLORS), 3, replace=False).tolist()
        if is_held_out(shape, color, background) == held_out:
            return _arrange(rng, shape, color, background, accent)


def _arrange(rng: np.random.Generator, shape: str, color: str, background: str, accent: str) -> Scene:
    size = list(SIZES)[rng.integers(len(SIZES))]
    place = list(PLACES)[rng.integers(len(PLACES))]
    pattern = PATTERNS[1 + rng.integers(len(PATTERNS) - 1)] if rng.random() < PATTERN_SHARE else "plain"
    radius = SIZES[size] * rng.uniform(0.94, 1.06)
    x, y = (_center(rng, side, radius) for side in PLACES[place])
    return Scene(
        shape,
        color,
        size,
        place,
        background,
        pattern,
        accent if pattern != "plain" else "",
        radius,
        x,
        y,
        period=PERIODS[rng.integers(len(PERIODS))],
        phase=rng.random(),
        vertical=bool(rng.integers(2)),
    )


def _center(rng: np.random.Generator, side: int, radius: float) -> float:
    """Where the object's center lies on one axis; side is -1, 0 or 1."""
    shift = 0.5 + 0.24 * side + rng.uniform(-0.02, 0.02)
    return float(np.clip(shift, radius + MARGIN, 1 - radius - MARGIN))


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """The picture: HWC uint8 in [0, 255], RGB, anti-aliased."""
    picture = ground(scene, size)
    blend(picture, silhouette(scene, size), COLORS[scene.color])
    return (picture + 0.5).astype(np.uint8)


def ground(scene: Scene, size: int = 128) -> np.ndarray:
    """The background alone: HWC float32 in [0, 255], RGB."""
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = COLORS[scene.background]
    if scene.pattern != "plain":
        blend(picture, _pattern(scene, size), COLORS[scene.accent])
    return picture


def blend(picture: np.ndarray, cover: np.ndarray, color: tuple[int, int, int]) -> None:
    """Paint over an HWC float picture where the HxW uint8 cover says so."""
    picture += (cover[..., None] / np.float32(255)) * (np.asarray(color, np.float32) - picture)


def silhouette(scene: Scene, size: int = 128) -> np.ndarray:
    """How much of each pixel the object covers: HxW uint8 in [0, 255]."""
    return filled([(scene.x + scene.radius * px, scene.y + scene.radius * py) for px, py in outline(scene.shape)], size)


def filled(corners: Sequence[tuple[float, float]], size: int) -> np.ndarray:
    """How much of each pixel a polygon covers: corners as shares of the side; HxW uint8 in [0, 255]."""
    side = size * OVERSAMPLE
    canvas = Image.new("L", (side, side))
    ImageDraw.Draw(canvas).polygon([(side * x, side * y) for x, y in corners], fill=255)
    return np.asarray(canvas.reduce(OVERSAMPLE))


def _pattern(scene: Scene, size: int) -> np.ndarray:
    """Cover of the accent color: HxW uint8 in [0, 255]; less than half of the area."""
    steps = (np.arange(size * OVERSAMPLE) + 0.5) / (size * OVERSAMPLE)
    wave = np.abs((steps * scene.period + scene.phase) % 1 - 0.5)  # distance from the middle of the period
    across, down = wave[None, :], wave[:, None]
    if scene.pattern == "stripes":
        cover = np.broadcast_to((across if scene.vertical else down) < 0.17, (len(steps), len(steps)))
    else:
        cover = across**2 + down**2 < 0.27**2
    return np.asarray(Image.fromarray(cover.astype(np.uint8) * 255).reduce(OVERSAMPLE))


@lru_cache
def outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Corners (x, y) of the shape, at most about 1 from its center, y down."""
    return tuple(_OUTLINES[shape]())


def _around(corners: int, start: float = -pi / 2, radii: tuple[float, ...] = (1.0,)) -> list[tuple[float, float]]:
    angles = [start + 2 * pi * i / corners for i in range(corners)]
    return [(radii[i % len(radii)] * cos(a), radii[i % len(radii)] * sin(a)) for i, a in enumerate(angles)]


def _heart() -> list[tuple[float, float]]:
    turns = [2 * pi * i / 72 for i in range(72)]
    return [(sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 16 - 0.12) for t in turns]


def _cross() -> list[tuple[float, float]]:
    a, b = 0.95, 0.32
    return [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]


def _triangle() -> list[tuple[float, float]]:
    return [(0.0, -0.92), (1.0, 0.8), (-1.0, 0.8)]


_OUTLINES = {
    "circle": lambda: _around(96, radii=(0.95,)),
    "square": lambda: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": _triangle,
    "star": lambda: _around(10, radii=(1.05, 0.46)),
    "heart": _heart,
    "cross": _cross,
}
