"""Every sampler draws what diffusers alone draws with it, among any neighbours, and leaves nothing behind."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from test_inpaint import item

from shared import catalog
from shared.images import Pixels
from shared.jobs import Img2Img, Inpaint, Txt2Img
from shared.schedulers import SAMPLERS, SCHEDULERS
from workers.batches import Item
from workers.loaded import Loaded
from workers.models import Models
from workers.pipelines import call
from workers.pipelines.runners import RUNNERS

# Every sampler, and every schedule type with one of them.
TRIED = [*SAMPLERS, *(name for name in SCHEDULERS if name.startswith(("dpmpp_2m_", "euler_")) and name not in SAMPLERS)]
SHIPPED = catalog.load().models["demo-shapes"].path
CONFIG = diffusers.DPMSolverMultistepScheduler.from_pretrained(SHIPPED, subfolder="scheduler").config
PLAIN = {
    Txt2Img: StableDiffusionPipeline,
    Img2Img: StableDiffusionImg2ImgPipeline,
    Inpaint: StableDiffusionInpaintPipeline,
}


@pytest.fixture(scope="module")
def model(one_thread: None) -> Any:
    return Models(catalog.load(), torch.device("cpu"), 1 << 40).get("demo-shapes")


def draw(items: list[Item], model: Loaded) -> list[Pixels]:
    return [picture for picture in RUNNERS[items[0].job.kind](items, model, lambda _: None) if picture is not None]


def with_diffusers_alone(wanted: Item, model: Loaded) -> Pixels:
    """The same picture by a pipeline of diffusers' own and a text, a number and a generator per argument."""
    job, scheduler = wanted.job, SCHEDULERS[wanted.job.scheduler]
    pipeline = PLAIN[type(job)](**model.pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    further = {"noise_sampler_seed": [job.seed]} if job.scheduler.startswith("dpmpp_sde") else {}
    pipeline.scheduler = getattr(diffusers, scheduler.class_name).from_config(CONFIG, **scheduler.config, **further)
    arguments: dict[str, Any] = {"height": job.height, "width": job.width}
    if isinstance(job, Img2Img | Inpaint):
        arguments = {"image": call.to_floats([wanted.ready.start]), "strength": job.strength}
    if isinstance(job, Inpaint):
        arguments |= {"mask_image": torch.from_numpy(wanted.ready.cells).float()[None, None] / 255}
        arguments |= {"height": job.height, "width": job.width}
    images = pipeline(
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        num_inference_steps=job.num_inference_steps,
        guidance_scale=job.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(job.seed),
        output_type="np",
        **arguments,
    ).images
    return (images[0] * 255).round().astype(np.uint8)


@pytest.mark.parametrize("kind", [Txt2Img, Img2Img, Inpaint])
@pytest.mark.parametrize("scheduler", TRIED)
def test_a_sampler_draws_what_diffusers_itself_draws(scheduler: str, kind: type, model: Loaded) -> None:
    mine = sample(3, kind, scheduler)
    (drawn,) = draw([mine], model)
    assert far(drawn, with_diffusers_alone(mine, model)) <= 1


@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_a_sampler_gives_each_row_the_noise_of_its_own_seed(scheduler: str, model: Loaded) -> None:
    items = [sample(seed, Txt2Img, scheduler, prompt="a red circle") for seed in (3, 4, 3)]
    first, second, third = draw(items, model)
    backward = draw(items[::-1], model)
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    assert np.array_equal(backward[1], second) and np.array_equal(backward[0], third)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("scheduler", SAMPLERS)
def test_a_sampler_can_do_few_steps(scheduler: str, steps: int, model: Loaded) -> None:
    (drawn,) = draw([sample(5, Txt2Img, scheduler, num_inference_steps=steps)], model)
    assert drawn.std() > 0


def test_no_setting_of_a_sampler_stays_for_the_next_one(model: Loaded) -> None:
    before = draw([sample(7, Txt2Img, "dpmpp_2m")], model)[0]
    for other in ("dpmpp_3m_sde_karras", "dpmpp_2m_sde_beta", "lcm", "pndm", "dpmpp_sde"):
        draw([sample(7, Txt2Img, other)], model)
        assert np.array_equal(draw([sample(7, Txt2Img, "dpmpp_2m")], model)[0], before)


def sample(seed: int, kind: type, scheduler: str, **fields: object) -> Item:
    settings: dict[str, object] = {"num_inference_steps": 5, "guidance_scale": 2.5, "negative_prompt": "blue"}
    return item(seed, kind, **{"scheduler": scheduler, "strength": 0.7, **settings, **fields})


def far(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())
