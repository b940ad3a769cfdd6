"""The pipelines of edits with the model that ships: neighbours, strength, masked content, UNets of nine channels."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from shared import catalog
from shared.jobs import Img2Img, Inpaint, Row
from workers.batches import Item
from workers.demo.scenes import COLORS
from workers.diffusion import Inpaint as InpaintPipeline
from workers.loaded import Loaded
from workers.models import Models
from workers.pipelines.img2img import img2img
from workers.pipelines.inpaint import inpaint

SIDE = 64
COMMON = {
    "model": "demo-shapes",
    "image": "i",
    "width": SIDE,
    "height": SIDE,
    "num_inference_steps": 3,
    "guidance_scale": 2.0,
    "scheduler": "euler_a",  # draws noise in every step
}


@pytest.fixture(scope="module")
def model(one_thread: None) -> Any:
    return Models(catalog.load(), torch.device("cpu"), 1 << 40).get("demo-shapes")


def item(seed: int, kind: type = Inpaint, **fields: object) -> Item:
    """An item with a picture of its own and a mask over its right half."""
    rng = np.random.default_rng(seed)
    values = {**COMMON, "mask_image": "m", "prompt": f"a red circle {seed}", "seed": seed, **fields}
    job = kind(**{name: value for name, value in values.items() if name in kind.model_fields})
    cells = np.zeros((SIDE, SIDE), np.uint8)
    cells[:, SIDE // 2 :] = 255
    start = np.broadcast_to(rng.choice(list(COLORS.values())), (SIDE, SIDE, 3)).astype(np.uint8)
    ready = SimpleNamespace(start=start, cells=cells)
    return replace(Item(Row(row=seed + 1, line=1, cells={}, job=job, job_id="0" * 64), 0), ready=ready)


@pytest.mark.parametrize(("run", "kind"), [(inpaint, Inpaint), (img2img, Img2Img)])
def test_a_row_has_the_same_pixels_among_other_neighbours(run, kind: type, model: Loaded) -> None:
    mine = item(1, kind, strength=0.7)
    first = run([mine, *(item(n, kind, strength=0.7) for n in (2, 3))], model, lambda _: None)[0]
    second = run([*(item(n, kind, strength=0.7) for n in (7, 8)), mine], model, lambda _: None)[2]
    assert np.array_equal(first, second)


def test_outside_the_mask_the_drawing_stays_near_its_input_and_inside_it_does_not(model: Loaded) -> None:
    mine = item(4)
    (drawn,) = inpaint([mine], model, lambda _: None)
    far = np.abs(drawn.astype(int) - mine.ready.start).mean(-1)
    assert far[:, : SIDE // 4].mean() < 20
    assert far[:, 3 * SIDE // 4 :].mean() > 2 * far[:, : SIDE // 4].mean()


def test_what_the_mask_begins_with_decides_what_a_weak_edit_draws(model: Loaded) -> None:
    drawn = {}
    for content in ("original", "latent_noise", "latent_nothing"):
        (drawn[content],) = inpaint([item(5, masked_content=content, strength=0.4)], model, lambda _: None)
    assert not np.array_equal(drawn["original"], drawn["latent_noise"])
    assert not np.array_equal(drawn["latent_noise"], drawn["latent_nothing"])


def test_a_weak_image_to_image_stays_nearer_to_its_input_than_a_strong_one(model: Loaded) -> None:
    far = []
    for strength in (0.34, 1.0):
        mine = item(6, Img2Img, strength=strength)
        (drawn,) = img2img([mine], model, lambda _: None)
        far.append(np.abs(drawn.astype(int) - mine.ready.start).mean())
    assert far[0] < far[1]


def test_a_unet_of_nine_channels_is_given_mask_and_masked_picture(model: Loaded) -> None:
    torch.manual_seed(0)
    parts = dict(model.pipeline.components)
    parts["unet"] = UNet2DConditionModel.from_config({**parts["unet"].config, "in_channels": 9}).eval()
    nine = replace(model, further={"inpaint": InpaintPipeline(**parts, requires_safety_checker=False)})
    nine.further["inpaint"].set_progress_bar_config(disable=True)
    first, second = item(7), item(7)
    second.ready.cells = 255 - second.ready.cells
    (one,), (other,) = (inpaint([each], nine, lambda _: None) for each in (first, second))
    assert one.shape == (SIDE, SIDE, 3)
    assert not np.array_equal(one, other)


def test_each_step_may_stop_the_call(model: Loaded) -> None:
    def stop(step: int) -> None:
        raise KeyError(step)

    with pytest.raises(KeyError):
        inpaint([item(8)], model, stop)
