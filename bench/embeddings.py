"""Pictures per second through the image encoder of Segment Anything, against the package's own predictor."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor, sam_model_registry

from bench import table
from bench.photos import photo
from bench.rig import Rig
from bench.table import Line, Part, number
from workers import sam
from workers.sam import Segmenter

TFLOP = 5.961  # of ViT-H and 1024 x 1024 pixels
GOAL, GOAL_OVER_PACKAGE = 60.0, 6.0
PICTURES, PLAIN_PICTURES = 64, 6
ROUNDS = 3
NEEDED_S = 45.0


def measure(rig: Rig, tflops: float, part: Part) -> None:
    """ViT-H with random weights; a narrow one in a quick bench."""
    net = _net(rig).to(rig.device)
    plain = SamPredictor(net.eval().requires_grad_(False))
    pictures = [photo(n) for n in range(2 if rig.quick else PICTURES)]
    few = pictures[:PLAIN_PICTURES]
    _plainly(plain, few[:1])
    plain_rates = [len(few) / rig.seconds(lambda: _plainly(plain, few)) for _ in range(1 if rig.quick else ROUNDS)]
    segmenter = sam.placed("vit-h", "0" * 64, net, rig.device)  # changes the net: it is what a worker has
    _encode(segmenter, pictures, "warm")
    rates = [
        len(pictures) / rig.seconds(lambda turn=turn: _encode(segmenter, pictures, f"{turn}"))
        for turn in range(len(plain_rates))
    ]
    rate = float(np.median(rates))
    part.lines.append(Line("Segment Anything ViT-H, embeddings", f"{number(rate)} img/s", "", rate, "img/s", GOAL))
    pairs = list(zip(rates, plain_rates, strict=True))
    part.lines.append(table.ratio("the same, over the package's predictor (fp32)", "img/s", pairs, GOAL_OVER_PACKAGE))
    share = rig.share("ViT-H", rate, TFLOP, tflops)
    part.notes.append(f"{share}; pictures are resized on the CPU, which is part of the time")
    part.profile.append(f"{len(pictures)} pictures, {segmenter.together} in a call, {os.cpu_count()} CPU cores")


def _net(rig: Rig) -> Any:
    if not rig.quick:
        return sam_model_registry["vit_h"]()
    return sam.sized({"size": 64, "patch": 16, "width": 16, "layers": 2, "heads": 2, "decoder": 16})


@torch.inference_mode()
def _plainly(predictor: SamPredictor, pictures: Sequence[np.ndarray]) -> None:
    for picture in pictures:
        predictor.set_image(picture)


def _encode(segmenter: Segmenter, pictures: Sequence[np.ndarray], turn: str) -> None:
    """As a worker prepares batches; names that were not seen before."""
    size = segmenter.together
    for start in range(0, len(pictures), size):
        some = pictures[start : start + size]
        segmenter.study({f"{turn}-{start + n}": picture for n, picture in enumerate(some)})
