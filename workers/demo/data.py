"""Pictures and captions to learn from: synthetic scenes, or a folder of captioned images."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from workers.demo import captions, scenes
from workers.demo.config import Config, ConfigError, Data


@dataclass(frozen=True)
class Pictures:
    """images: NHWC uint8 in [0, 255], RGB; captions[i] are all the texts of images[i]."""

    images: np.ndarray
    captions: list[list[str]]

    def texts(self) -> list[str]:
        return [text for texts in self.captions for text in texts]


def load(config: Config) -> Pictures:
    if config.data.folder is not None:
        return _read_folder(config.data.folder, config.data.size)
    return draw(config.data, config.seed)


def draw(data: Data, seed: int) -> Pictures:
    """Scene i depends on the seed and i alone, so a resumed run draws the same pictures."""
    images = np.empty((data.scenes, data.size, data.size, 3), np.uint8)
    texts = []
    for i, image in enumerate(images):
        rng = np.random.default_rng([seed, i])
        scene = scenes.sample(rng)
        image[:] = scenes.render(scene, data.size)
        texts.append([captions.caption(scene, rng) for _ in range(data.captions_per_scene)])
    return Pictures(images, texts)


def _read_folder(folder: Path, size: int) -> Pictures:
    """A Hugging Face ImageFolder: each line of metadata.jsonl has file_name and text."""
    rows = [_read_row(folder, number, line) for number, line in _lines(folder / "metadata.jsonl")]
    if not rows:
        raise ConfigError(f"{folder / 'metadata.jsonl'}: holds no captions")
    images = np.stack([_read_image(path, size) for path, _ in rows])
    return Pictures(images, [[text] for _, text in rows])


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_row(folder: Path, number: int, line: str) -> tuple[Path, str]:
    try:
        row = json.loads(line)
        return folder / row["file_name"], str(row["text"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        where = f"{folder / 'metadata.jsonl'}, line {number}"
        raise ConfigError(f"{where}: expected an object with file_name and text ({error!r})") from error


def _read_image(path: Path, size: int) -> np.ndarray:
    """The middle square of the image: HWC uint8 in [0, 255], RGB."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS))
    except (OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: {error}") from error
