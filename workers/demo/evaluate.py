"""Measures how often pictures show what their prompts say: python -m workers.demo.evaluate"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from workers.demo.captions import caption
from workers.demo.judge import Verdict, judge
from workers.demo.scenes import Scene, sample

WEIGHTS = Path(__file__).parent / "weights" / "demo-shapes"
SEED = 20_000  # of the prompts, and of the first picture
GOALS = {"background": 0.95, "color": 0.95, "shape": 0.90}
SCHEDULERS = {
    "default": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


@dataclass(frozen=True)
class Case:
    prompt: str
    scene: Scene
    held_out: bool
    seed: int


@dataclass(frozen=True)
class Settings:
    steps: int = 20
    guidance: float = 2.0
    batch_size: int = 10
    size: int = 0  # 0: the model's own


def cases(count: int) -> list[Case]:
    """Every other case is a combination that training never showed."""
    rng = np.random.default_rng(SEED)
    out = []
    for i in range(count):
        scene = sample(rng, held_out=bool(i % 2))
        out.append(Case(caption(scene, rng), scene, bool(i % 2), SEED + i))
    return out


def load(folder: Path, scheduler: str) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    name, changes = SCHEDULERS[scheduler]
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **changes)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline: StableDiffusionPipeline, todo: list[Case], settings: Settings) -> Iterator[np.ndarray]:
    """One picture per case, in order: HWC uint8 in [0, 255]."""
    for start in range(0, len(todo), settings.batch_size):
        part = todo[start : start + settings.batch_size]
        found = pipeline(
            [case.prompt for case in part],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            height=settings.size or None,
            width=settings.size or None,
            generator=[torch.Generator().manual_seed(case.seed) for case in part],
            output_type="np",
        )
        yield from (found.images * 255).round().astype(np.uint8)


def is_right(case: Case, verdict: Verdict) -> dict[str, bool]:
    """What of the prompt was kept."""
    scene = case.scene
    return {
        "background": verdict.background == scene.background,
        "color": verdict.color == scene.color,
        "shape": verdict.shape == scene.shape,
    }


def shares(results: list[tuple[Case, dict[str, bool]]]) -> dict[str, dict[str, float]]:
    """Part of the cases (all, seen, held-out) -> property -> share that is right."""
    parts = {
        "all": results,
        "seen": [result for result in results if not result[0].held_out],
        "held-out": [result for result in results if result[0].held_out],
    }
    return {
        part: {name: float(np.mean([right[name] for _, right in rows])) for name in GOALS}
        for part, rows in parts.items()
    }


def grid(images: list[np.ndarray], columns: int) -> Image.Image:
    columns = min(columns, len(images))
    rows = [np.concatenate(images[i : i + columns], 1) for i in range(0, len(images) - columns + 1, columns)]
    return Image.fromarray(np.concatenate(rows))


def report(table: dict[str, dict[str, float]]) -> None:
    print(f"{'':10}" + "".join(f"{name:>12}" for name in GOALS))
    for part, row in table.items():
        print(f"{part:10}" + "".join(f"{row[name]:12.1%}" for name in GOALS))
    verdicts = ("reached" if table["all"][name] >= goal else "MISSED" for name, goal in GOALS.items())
    print(f"{'goal':10}" + "".join(f"{goal:12.0%}" for goal in GOALS.values()))
    print(f"{'':10}" + "".join(f"{verdict:>12}" for verdict in verdicts))


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="model folder (default: the one that ships)")
    parser.add_argument("--count", type=int, default=200, help="prompts, half of them held-out (default: %(default)s)")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="default")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--size", type=int, default=0, help="side of the pictures (default: the model's own)")
    parser.add_argument("--grid", type=Path, help="save the first 60 pictures, ten in a row, as this PNG")
    parser.add_argument("--wrong", type=Path, help="save number, prompt and verdict of every miss as JSON lines")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    chosen = options(arguments)
    settings = Settings(chosen.steps, chosen.guidance, chosen.batch_size, chosen.size)
    todo, started = cases(chosen.count), time.monotonic()
    images = list(pictures(load(chosen.model, chosen.scheduler), todo, settings))
    verdicts = [judge(image) for image in images]
    results = [(case, is_right(case, verdict)) for case, verdict in zip(todo, verdicts, strict=True)]
    print(f"{len(todo)} prompts, scheduler {chosen.scheduler}, {settings.steps} steps, guidance {settings.guidance}")
    report(shares(results))
    print(f"{time.monotonic() - started:.0f} s")
    if chosen.grid:
        grid(images[:60], 10).save(chosen.grid)
    if chosen.wrong:
        chosen.wrong.write_text("".join(misses(results, verdicts)))
    return 0


def misses(results: list[tuple[Case, dict[str, bool]]], verdicts: list[Verdict]) -> list[str]:
    """A JSON line for each picture with a fault."""
    rows = enumerate(zip(results, verdicts, strict=True))
    wrong = ((i, case, verdict) for i, ((case, right), verdict) in rows if not all(right.values()))
    return [
        json.dumps({"picture": i, "prompt": case.prompt, "seen": asdict(verdict)}) + "\n" for i, case, verdict in wrong
    ]


if __name__ == "__main__":
    sys.exit(main())
