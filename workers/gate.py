"""Pictures that must not count as done: NaN, black, flat."""

import numpy as np

from shared.errors import BadImage
from shared.images import Pixels


def check(pixels: Pixels | None) -> Pixels:
    """`pixels` (HWC, RGB, uint8), or None where the model returned NaN or infinity. Raises BadImage with the reason."""
    if pixels is None:
        raise BadImage("the model returned NaN or infinity; try another seed, or full precision for this model")
    low, high = int(np.min(pixels)), int(np.max(pixels))
    if high == 0:
        raise BadImage("the picture is black; try another seed")
    if high == low:
        raise BadImage(f"the picture is flat: every value is {low}; try another seed or more steps")
    return pixels
