"""The training loop that all stages share: schedule, checkpoints, loss log."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import torch
from torch import nn

from workers.demo.config import Stage
from workers.demo.progress import Progress

LOG_EVERY = 10  # steps
CLIP_NORM = 1.0


class Task(Protocol):
    """A stage's batch and loss; all of its randomness comes from the two generators."""

    def loss(self, rng: np.random.Generator, noise: torch.Generator, /) -> torch.Tensor: ...


@dataclass(frozen=True)
class Place:
    """Where a run keeps its files, and what all of its stages share."""

    folder: Path
    seed: int
    bf16: bool
    progress: Progress

    def checkpoint(self, name: str) -> Path:
        return self.folder / f"{name}.pt"

    @property
    def log(self) -> Path:
        return self.folder / "loss.jsonl"


def learning_rate(step: int, stage: Stage) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < stage.warmup_steps:
        return stage.learning_rate * (step + 1) / stage.warmup_steps
    done = (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps)
    return stage.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def generators(seed: int, name: str, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """A step's randomness depends on its number alone, so nothing of it has to be saved to resume exactly."""
    rng = np.random.default_rng([seed, crc32(name.encode()), step])
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


def run(
    name: str, task: Task, model: nn.Module, stage: Stage, place: Place, after_step: Callable[[int], None] | None = None
) -> None:
    """Train to the stage's last step, from its checkpoint where there is one."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], betas=(0.9, 0.99), weight_decay=0.01
    )
    first = _resume(place.checkpoint(name), model, optimizer)
    _forget_later(place.log, name, first)
    losses: list[float] = []
    with _open_log(place.log) as log, place.progress.stage(name, first, stage.steps) as show:
        for step in range(first, stage.steps):
            losses.append(_step(name, step, task, model, optimizer, stage, place))
            if after_step is not None:
                after_step(step)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == stage.steps:
                mean = sum(losses) / len(losses)
                log({"stage": name, "step": step + 1, "loss": round(mean, 6)})
                show(step + 1, mean)
                losses.clear()
            if (step + 1) % stage.checkpoint_every == 0 or step + 1 == stage.steps:
                _save(place.checkpoint(name), step + 1, model, optimizer)
    model.eval()


def _step(
    name: str, step: int, task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage, place: Place
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, stage)
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=place.bf16):
        loss = task.loss(*generators(place.seed, name, step))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.item()


def _save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write beside the old checkpoint, then take its place: a crash leaves one of the two whole."""
    fresh = path.with_suffix(".new")
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, fresh)
    fresh.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on with."""
    if not path.exists():
        return 0
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"]


def _forget_later(log: Path, name: str, step: int) -> None:
    """Drop the lines of steps that are about to be taken again."""
    if log.exists():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        kept = [row for row in rows if row["stage"] != name or row["step"] <= step]
        log.write_text("".join(json.dumps(row) + "\n" for row in kept))


@contextmanager
def _open_log(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    with path.open("a", buffering=1) as file:
        yield lambda row: print(json.dumps(row), file=file)
