"""What a row asks for after its picture is made. Pure: HWC RGB uint8 in, the same out; nothing is changed in place."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from shared import post
from shared.images import Pixels


def apply(pixels: Pixels, steps: Sequence[str]) -> Pixels:
    """`pixels` (HWC, RGB, uint8 in [0, 255]) after all steps, in order; only `upscale` changes their number."""
    if not steps:
        return pixels
    image = Image.fromarray(pixels)
    for step in steps:
        name, amount = post.split(step)
        image = FUNCTIONS[name](image, amount)
    return np.asarray(image)


def _upscale(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.LANCZOS)


FUNCTIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image, preserve_tone=True),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "saturation": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "sharpen": lambda image, amount: image.filter(ImageFilter.UnsharpMask(2, round(100 * amount), 0)),
    "denoise": lambda image, radius: image.filter(ImageFilter.MedianFilter(2 * int(radius) + 1)),
    "upscale": _upscale,
}
