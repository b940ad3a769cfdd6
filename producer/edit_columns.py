"""The columns of edits and selections, by all the names that users know, and what their cells may say."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from producer.cells import NO, YES, decimal, number, plain, truth, whole, whole_number, word
from producer.faults import BadCell
from producer.sizes import SIDES, Amount, Anchor
from shared.jobs import MOST_AREA, Box, Point

# Canonical name -> what users of other tools call it. `multimask_output` is SAM's own name, with its own values.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": ("init_image", "init_images", "source_image"),
    "mask_image": ("mask", "source_mask"),
    "strength": ("denoising_strength", "denoise", "sd_strength"),
    "mask_invert": ("inpainting_mask_invert", "reverse"),
    "mask_blur": ("sd_mask_blur", "edge_radius"),
    "mask_grow": (),
    "masked_content": ("inpainting_fill", "infill"),
    "padding_mask_crop": ("inpaint_full_res_padding", "hd_strategy_crop_margin"),
    "on_empty": (),
    **{f"expand_{side}": () for side in SIDES},
    "anchor": (),
    "overlap": (),
    "points": (),
    "point_labels": (),
    "box": (),
    "mask_text": (),
    "text_threshold": (),
    "mask_regions": (),
    "auto": (),
    "multimask": ("multimask_output",),
    "min_mask_region_area": (),
    "points_per_side": (),
    "pred_iou_thresh": (),
    "stability_score_thresh": (),
    "action": (),
    "mask_model": (),
    "mask_text_model": (),
}
OWN = ("image", "mask_image", "points", "point_labels", "box", "mask_text")  # differ from row to row

MOST_POINTS = 256
MOST_BLUR = 1024  # pixels
MOST_PIXELS = 1 << 16
MOST_GROW = 4096  # pixels
MOST_PERCENT = 1000

_MASKED_CONTENT = {  # A1111 counts them
    "original": "original",
    "fill": "fill",
    "latent_noise": "latent_noise",
    "latent_nothing": "latent_nothing",
    "0": "fill",
    "1": "original",
    "2": "latent_noise",
    "3": "latent_nothing",
}
_MULTIMASK = {
    "best": "best",
    "largest": "largest",
    "all": "all",
    **dict.fromkeys(NO, "best"),
    **dict.fromkeys(YES, "all"),
}
_ACTIONS = {name: name for name in ("replace_background", "replace_object", "remove_object")}
_EVERYTHING = {**dict.fromkeys((*YES, "everything", "all", "auto"), True), **dict.fromkeys(NO, False)}
_PLACES = {"left": (0, 0), "right": (0, 2), "top": (1, 0), "bottom": (1, 2)}  # across or down, and where
_LABEL = re.compile(r"[01](?:\.0*)?")


def points(cell: str) -> list[Point]:
    """`x,y;x,y`."""
    pairs = [pair for pair in cell.split(";") if pair.strip()]
    if len(pairs) > MOST_POINTS:
        raise BadCell(f"at most {MOST_POINTS} points", found=f"{len(pairs)} points")
    found = [_numbers(pair) for pair in pairs]
    if not found or any(pair is None or len(pair) != 2 for pair in found):
        raise BadCell("points as x,y;x,y in pixels", "a comma inside a point, a semicolon between two")
    return [(pair[0], pair[1]) for pair in found if pair]


def point_labels(cell: str) -> list[int]:
    """`1;0`: for each point, whether it is in the object."""
    labels = [label for label in re.split(r"[;,\s]+", cell) if label]
    if not labels or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadCell("a label for each point, as 1;0", "1: in the object, 0: outside of it")
    return [int(label[0]) for label in labels]


def box(cell: str) -> Box:
    """`x1,y1,x2,y2`: left, top, right, bottom."""
    numbers = _numbers(cell.replace(";", ","))
    if numbers is None or len(numbers) != 4:
        raise BadCell("a box as x1,y1,x2,y2 in pixels", "left, top, right, bottom")
    left, top, right, bottom = numbers
    if right <= left or bottom <= top:
        raise BadCell("a box of some area: x1 below x2 and y1 below y2", "left, top, right, bottom")
    return left, top, right, bottom


def expand(cell: str) -> Amount:
    """Pixels, or `25%` of the picture's width or height."""
    if cell.endswith("%"):
        return Amount(decimal(cell[:-1].rstrip(), 0, MOST_PERCENT), percent=True)
    if (pixels := whole_number(cell.lower().removesuffix("px").rstrip())) is None or not 0 <= pixels <= MOST_PIXELS:
        raise BadCell(f"pixels from 0 to {MOST_PIXELS}, or a share of the picture such as 25%")
    return Amount(pixels)


def anchor(cell: str) -> Anchor:
    """Where the picture stays in its larger canvas: `center`, `left`, `top left` ..."""
    words = [name for name in plain(cell).split("_") if name not in ("center", "centre", "middle")]
    if set(words) - _PLACES.keys() or len({_PLACES[name][0] for name in words}) < len(words):
        raise BadCell("center, left, right, top, bottom, or a corner such as 'top left'")
    return Anchor(**{("across", "down")[_PLACES[name][0]]: _PLACES[name][1] for name in words})


def one_mask(cell: str) -> str:
    """`multimask` of an edit."""
    if (choice := word(cell, _MULTIMASK, ("best", "largest"))) == "all":
        raise BadCell("best or largest", "an edit has one mask")
    return choice


def _numbers(text: str) -> list[float] | None:
    """Separated by commas or spaces; None where one is no number."""
    found = [number(part) for part in re.split(r"\s*,\s*|\s+", text.strip())]
    return [value for value in found if value is not None] if None not in found else None


# What a cell of these columns means, whatever the row's kind; without one, the job's own default holds.
PARSERS: Mapping[str, Callable[[str], Any]] = {
    "strength": lambda cell: decimal(cell, 0, 1),
    "mask_invert": truth,
    "mask_blur": lambda cell: whole(cell, 0, MOST_BLUR),
    "mask_grow": lambda cell: whole(cell, -MOST_GROW, MOST_GROW),
    "masked_content": lambda cell: word(cell, _MASKED_CONTENT, ("original", "fill", "latent_noise", "latent_nothing")),
    "padding_mask_crop": lambda cell: whole(cell, 0, MOST_PIXELS),
    "on_empty": lambda cell: word(cell, {"fail": "fail", "keep": "keep"}),
    **{f"expand_{side}": expand for side in SIDES},
    "anchor": anchor,
    "overlap": lambda cell: whole(cell, 0, MOST_GROW),
    "points": points,
    "point_labels": point_labels,
    "box": box,
    "text_threshold": lambda cell: decimal(cell, 0, 1),
    "mask_regions": lambda cell: word(cell, {"union": "union", "best": "best"}),
    "auto": lambda cell: word(cell, _EVERYTHING, ("yes", "no")),
    "multimask": lambda cell: word(cell, _MULTIMASK, ("best", "largest", "all")),
    "min_mask_region_area": lambda cell: whole(cell, 0, MOST_AREA),
    "points_per_side": lambda cell: whole(cell, 1, 256),
    "pred_iou_thresh": lambda cell: decimal(cell, 0, 1),
    "stability_score_thresh": lambda cell: decimal(cell, 0, 1),
    "action": lambda cell: word(cell, _ACTIONS),
}
