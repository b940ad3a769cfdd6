"""Pictures per second on one device: what a worker calls, against the plain call that a person would write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch

from bench import table
from bench.rig import Rig
from bench.site import BenchError
from bench.table import Line, Part, number
from shared.catalog import Catalog, Model
from shared.jobs import Row, Txt2Img
from workers import batches, compiled
from workers.batches import Item
from workers.loaded import Loaded
from workers.models import Models
from workers.pipelines.runners import RUNNERS

ROUNDS, QUICK_ROUNDS = 3, 1
PLAIN_PICTURES = 2  # of each round, one after the other


@dataclass(frozen=True)
class Case:
    """What is drawn, and what is wanted of it: pictures/s, and how many times the plain call's."""

    family: str
    side: int
    batch: int
    tflop: float  # per picture: steps of a guided UNet and the autoencoder, see the publication of each
    goal: float
    goal_over_plain: float
    needed_s: float  # about
    how: compiled.How = ""
    steps: int = 20

    @property
    def title(self) -> str:
        return f"{self.family} {self.side}x{self.side}, {self.steps} steps, {self.how or 'not compiled'}"


SD15 = Case("sd15", 512, 16, 34.7, 11.0, 4.5, 60)
SDXL = Case("sdxl", 1024, 8, 281.0, 1.6, 2.5, 100)
CASES = {
    "sd15": SD15,
    "sdxl": SDXL,
    "sd15-graphs": replace(SD15, how="graphs", needed_s=110),
    "sdxl-regional": replace(SDXL, how="regional", needed_s=120),
    "sd15-regional": replace(SD15, how="regional", needed_s=80),
}


def measure(case: Case, rig: Rig, tflops: float, part: Part) -> None:
    """In a quick bench small, and not compiled: on a CPU that takes minutes."""
    if rig.quick:
        case = replace(case, side=64, batch=2, steps=2, how="")
    entry = rig.model(case.family)
    model, plain, items = _worker(rig, entry, case), _plain(rig, entry), _items(entry, case)
    draw = partial(_draw, model, items)
    draw()  # compiles
    before = draw()
    _plainly(plain, items[:1])
    pairs = []
    for _ in range(QUICK_ROUNDS if rig.quick else ROUNDS):
        ours = len(items) / rig.seconds(draw)
        pairs.append((ours, PLAIN_PICTURES / rig.seconds(lambda: _plainly(plain, items[:PLAIN_PICTURES]))))
    rate = float(np.median([ours for ours, _ in pairs]))
    part.lines.append(Line(case.title, f"{number(rate)} img/s", "", rate, "img/s", case.goal))
    part.lines.append(table.ratio("the same, over diffusers' plain call (fp16)", "img/s", pairs, case.goal_over_plain))
    part.notes += [_equality(case, before, draw()), rig.share(case.title, rate, case.tflop, tflops)]
    part.profile.append(_stages(rig, case, model, items, draw))


def _worker(rig: Rig, entry: Model, case: Case) -> Loaded:
    known = Catalog(defaults={"model": entry.name}, models={entry.name: entry})
    model: Loaded = Models(known, rig.device, 1 << 40, compile_how=case.how).get(entry.name)
    torch._dynamo.config.suppress_errors = False  # a figure of what was not compiled would say nothing
    return model


def _plain(rig: Rig, entry: Model) -> Any:
    """As the documentation of diffusers shows it: half precision, one picture a call; with the same sampler."""
    dtype = torch.float16 if rig.device.type == "cuda" else torch.float32
    pipeline = diffusers.DiffusionPipeline.from_pretrained(entry.path, dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    return pipeline.to(rig.device)


def _items(entry: Model, case: Case) -> list[Item]:
    """A batch of rows, no two prompts alike."""
    jobs = [
        Txt2Img(
            model=entry.name, prompt=f"a photograph of a lighthouse, number {n}", seed=n, width=case.side,
            height=case.side, num_inference_steps=case.steps, guidance_scale=7.5, scheduler="dpmpp_2m",
        )
        for n in range(case.batch)
    ]  # fmt: skip
    rows = [Row(row=n, line=n, cells={}, job=job, job_id="0" * 64) for n, job in enumerate(jobs, 1)]
    return batches.items(rows)


def _draw(model: Loaded, items: Sequence[Item]) -> list[Any]:
    """One model call, to the pictures on the host; its texts are encoded anew, as those of new rows are."""
    _forget(model, items)
    pictures = [*RUNNERS["txt2img"](batches.filled(items, model.shapes), model, lambda _: None)]
    if any(picture is None for picture in pictures):
        raise BenchError("the model drew values that are not finite: its rate says nothing")
    return pictures


def _forget(model: Loaded, items: Sequence[Item]) -> None:
    model.texts.forget()
    model.texts.expect([item.job for item in items])


def _plainly(pipeline: Any, items: Sequence[Item]) -> None:
    for item in items:
        job = item.job
        pipeline(
            job.prompt,
            width=job.width,
            height=job.height,
            num_inference_steps=job.num_inference_steps,
            guidance_scale=job.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(job.seed),
        )


def _equality(case: Case, before: list[Any], after: list[Any]) -> str:
    """The gate: the same rows in a batch of the same shape give the same pixels."""
    apart = max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(before, after, strict=True))
    return f"{case.title}: drawn again, " + ("equal pixel for pixel" if not apart else f"UP TO {apart}/255 APART")


def _stages(rig: Rig, case: Case, model: Loaded, items: Sequence[Item], draw: Callable[[], object]) -> str:
    """Where the seconds of one call go."""
    _forget(model, items)
    texts = rig.seconds(lambda: model.texts.arguments([item.job for item in items]))
    vae = model.pipeline.vae
    side = case.side // 8
    latents = torch.randn(len(items), vae.config.latent_channels, side, side, device=rig.device, dtype=vae.dtype)
    with torch.inference_mode():
        decoding = rig.seconds(lambda: vae.decode(latents, return_dict=False))
    whole = rig.seconds(draw)
    steps = 1000 * (whole - texts - decoding) / case.steps
    return (
        f"{case.title}: {whole:.3f} s a call of {len(items)}: texts {texts:.3f} s, autoencoder {decoding:.3f} s, "
        f"and {case.steps} steps of {steps:.1f} ms"
    )
