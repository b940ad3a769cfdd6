"""Edits made ready for the model: inputs read, masks found, windows cut. What is wrong with a row is its own error."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared import jobs
from shared.errors import BadInput, EmptySelection
from shared.images import Pixels
from shared.jobs import ALPHA, Inpaint, MaskEdit, Outpaint
from workers import clone, masks, window
from workers.batches import Item
from workers.masks import Mask
from workers.models import Models
from workers.originals import Original
from workers.ready import Found, Ready, Region

if TYPE_CHECKING:  # torchvision takes seconds to import: only who selects waits
    from workers.sam import Segmenter

Refused = dict[tuple[int, int], BadInput]
Selected = tuple[tuple[Found, ...], dict[str, float]]  # masks, and the seconds that finding them took


class Pictures(Protocol):
    """Where the inputs come from: the storage (`workers.inputs`), or the scenes of an evaluation."""

    def picture(self, name: str, /) -> Original: ...

    def mask(self, name: str, /) -> NDArray[np.uint8]: ...


@dataclass
class Preparation:
    """Makes a batch of items ready, with what a worker has at hand."""

    inputs: Pictures
    models: Models

    def prepare(self, items: Sequence[Item]) -> tuple[list[Item], Refused]:
        """The items with what the model needs, and by key those that cannot be made.

        Raises Unreachable, ModelError, and whatever the mask models raise.
        """
        refused: Refused = {}
        if not jobs.inputs(items[0].job):
            return list(items), refused
        found = self._selected(items, refused)
        made = []
        for item in items:
            if item.key not in refused:
                try:
                    made.append(replace(item, ready=self._ready(item, *found.get(item.key, ((), {})))))
                except BadInput as error:
                    refused[item.key] = error
        return made, refused

    # --- selections ---

    def _selected(self, items: Sequence[Item], refused: Refused) -> dict[Any, Selected]:
        """What the selectors find, by key: one embedding per picture, all of its prompts decoded together."""
        found: dict[Any, Selected] = {}
        rest: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            if isinstance(item.job, jobs.Segment | MaskEdit):
                rest[item.job.image].append(item)
        while rest:
            segmenter = self._beside(items[0])(items[0].job.mask_model)
            groups = {name: rest.pop(name) for name in [*rest][: segmenter.together]}
            originals, seconds = self._look(groups, segmenter, refused)
            for name, original in originals.items():
                embed = {"embed": seconds[name]} if name in seconds else {}
                answers = self._ask(name, original, groups[name], segmenter)
                found |= _accepted(groups[name], answers, embed, refused)
        return found

    def _look(
        self, groups: Mapping[str, Sequence[Item]], segmenter: "Segmenter", refused: Refused
    ) -> tuple[dict[str, Original], dict[str, float]]:
        """The pictures of these groups of rows, embedded together, and the seconds of each that was not known."""
        originals: dict[str, Original] = {}
        for name, group in groups.items():
            try:
                original = self.inputs.picture(name)
                segmenter.check(original.pixels)
                originals[name] = original
            except BadInput as error:
                refused |= dict.fromkeys((item.key for item in group), error)
        return originals, segmenter.study({name: original.pixels for name, original in originals.items()})

    def _ask(self, name: str, original: Original, group: Sequence[Item], segmenter: "Segmenter") -> list[Any]:
        from workers import select  # noqa: PLC0415  # torchvision takes seconds to import: only who selects waits

        segmenter.look(name, original.pixels)
        return select.select([item.job for item in group], name, original, segmenter, self._beside(group[0]))

    def _beside(self, item: Item) -> Callable[[str], Any]:
        """Loads what finds masks; the model that draws is in use: it comes next."""
        drawing, *_ = jobs.models(item.job).values()
        return partial(self.models.get, beside=drawing)

    # --- kinds ---

    def _ready(self, item: Item, found: tuple[Found, ...], seconds: dict[str, float]) -> Ready:
        job = item.job
        original = self.inputs.picture(job.image)
        if isinstance(job, jobs.Segment):
            return Ready(original, original.pixels, found=found, seconds=seconds)
        if isinstance(job, jobs.Img2Img):
            whole = window.whole(*_size(original.pixels))
            return Ready(original, original.pixels, start=window.cut(original.pixels, whole, job.width, job.height))
        canvas, alpha = original.pixels, original.alpha
        if isinstance(job, Outpaint):
            sides = (job.expand_left, job.expand_top, job.expand_right, job.expand_bottom)
            mask = window.new_area(*_size(canvas), *sides, job.overlap)
            canvas = window.expand(canvas, *sides)
            alpha = None if alpha is None else _opaque_around(alpha, sides)
        elif isinstance(job, Inpaint):
            mask = self._given(job, original)
        elif not found:
            return Ready(original, canvas, alpha, seconds=seconds, keep=True)
        else:
            mask = ~found[0].mask if job.action == "replace_background" else found[0].mask
        ready = Ready(original, canvas, alpha, found=found, seconds=seconds)
        return masked(job, ready, mask)

    def _given(self, job: Inpaint, original: Original) -> Mask:
        if job.mask_image == ALPHA:
            if original.alpha is None:
                raise BadInput("mask_image is 'alpha', but the picture has no transparency; give a mask file")
            mask = ~masks.binary(original.alpha)
        else:
            mask = masks.binary(masks.fit(self.inputs.mask(job.mask_image), *_size(original.pixels)))
        return ~mask if job.mask_invert else mask


def _accepted(
    group: Sequence[Item], answers: Sequence[Any], seconds: dict[str, float], refused: Refused
) -> dict[Any, Selected]:
    """By key, what was found for rows on one picture; of the others, why not goes into `refused`."""
    found: dict[Any, Selected] = {}
    for item, answer in zip(group, answers, strict=True):
        if isinstance(answer, EmptySelection) and getattr(item.job, "on_empty", "") == "keep":
            found[item.key] = ((), seconds)
        elif isinstance(answer, BadInput):
            refused[item.key] = answer
        else:
            found[item.key] = (tuple(answer), seconds)
            seconds = {}  # the embedding is paid for once
    return found


def masked(job: Any, ready: Ready, mask: Mask) -> Ready:
    """Pure: the mask grown and feathered, the window around it, and what the model starts from."""
    grown = masks.grow(mask, getattr(job, "mask_grow", 0))
    box = masks.box_of(grown)
    if box is None:
        if getattr(job, "on_empty", "") == "keep":
            return replace(ready, keep=True)
        if mask.any():
            raise BadInput(f"mask_grow {job.mask_grow} shrinks the mask to nothing; choose a number nearer to 0")
        raise BadInput("the mask is empty: white is drawn anew, see mask_invert and mask_grow")
    if grown.all():
        raise BadInput("the mask covers the whole picture: nothing would be kept; see mask_invert, or use img2img")
    canvas, alpha = ready.canvas, masks.feather(grown, job.mask_blur)
    if alpha.all():
        raise BadInput("the mask's soft edge covers the whole picture: nothing would be kept; lower mask_blur")
    place = _window(job, box, canvas)
    start = window.cut(canvas, place, job.width, job.height)
    cells = window.cells(alpha, place, job.width, job.height)
    if job.masked_content == "fill" and job.strength < 1:  # at 1 the model starts from noise
        filled = clone.clone(start, cells > 0)
        start = window.fill(start, cells > 0) if filled is None else filled
    return replace(
        ready,
        start=start,
        cells=cells,
        region=Region(alpha, place),
        canvas_alpha=_shown(job, ready.canvas_alpha, alpha),
    )


def _window(job: Any, box: tuple[int, int, int, int], canvas: Pixels) -> window.Window:
    padding = getattr(job, "padding_mask_crop", None)
    if padding is None:
        return window.whole(*_size(canvas))
    return window.around(box, padding, job.width, job.height, *_size(canvas))


def _shown(job: Any, transparency: NDArray[np.uint8] | None, alpha: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The picture's own transparency; where it was the mask itself, what is drawn anew becomes visible."""
    if transparency is None or getattr(job, "mask_image", "") != ALPHA:
        return transparency
    return np.maximum(transparency, alpha)


def _opaque_around(alpha: NDArray[np.uint8], sides: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    left, top, right, bottom = sides
    return np.pad(alpha, ((top, bottom), (left, right)), constant_values=255)


def _size(pixels: Pixels) -> tuple[int, int]:
    """width, height."""
    return pixels.shape[1], pixels.shape[0]
