"""Compiled models, as a setting: UNets are compiled once for each shape, and what came of it is kept on disk."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch

from workers.loaded import Loaded

How = Literal["", "regional", "graphs"]
SHAPES = (1, 2, 4, 8, 16)  # images in one call, and no others: each new shape costs seconds to minutes
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")  # nearly all of a UNet's time, and only a few kinds of each
MOST_VARIANTS = 128  # of one function: shapes, sizes, guided or not, LoRAs. torch stops at 8, and computes as before


def keep_in(folder: os.PathLike[str]) -> None:
    """Where compiled code stays for the next process: it is code, so that nobody else may write there."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.fspath(folder))


def begin(model: Loaded, how: How) -> None:
    """Compile the model's UNet, when it is first called; where that fails, it computes as before.

    `regional`: block by block. `graphs`: all of it, and replayed as a CUDA graph.
    """
    if not how or model.pipeline is None:
        return
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    torch._dynamo.config.accumulated_recompile_limit = len(BLOCKS) * MOST_VARIANTS
    torch._dynamo.config.suppress_errors = True  # a host without a compiler makes the same pictures, slower
    unet = model.pipeline.unet
    if how == "graphs":
        unet.forward = _graphed(unet.forward)
    else:
        for block in _blocks(unet):
            block.compile(dynamic=False)
    model.shapes, model.compiled = SHAPES, how


def _blocks(unet: torch.nn.Module) -> Sequence[torch.nn.Module]:
    return [module for module in unet.modules() if type(module).__name__ in BLOCKS]


def _graphed(forward: Any) -> Any:
    replayed: Any = torch.compile(forward, mode="reduce-overhead", dynamic=False)

    def step(*given: Any, **more: Any) -> tuple[torch.Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        return (replayed(*given, **more)[0].clone(),)  # the next step writes where this one's result was

    return step
