"""Every kind of job and the function that runs a batch of it."""

from collections.abc import Callable, Sequence
from typing import Any

from shared.images import Pixels
from workers.batches import Item
from workers.pipelines.call import OnStep
from workers.pipelines.img2img import img2img
from workers.pipelines.inpaint import inpaint
from workers.pipelines.segment import segment
from workers.pipelines.txt2img import txt2img

Runner = Callable[[Sequence[Item], Any, OnStep], Sequence[Pixels | None]]
RUNNERS: dict[str, Runner] = {
    "txt2img": txt2img,
    "img2img": img2img,
    "inpaint": inpaint,
    "outpaint": inpaint,
    "mask_edit": inpaint,
    "segment": segment,
}
