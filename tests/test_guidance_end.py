"""Guidance that ends early: as diffusers' own callbacks do it for one picture, here for batches and for masks too."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny_models
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from test_families import KINDS, draw, far, load, plain_pipeline, sample

from shared.jobs import Inpaint, Txt2Img, batch_key
from workers.loaded import Loaded

FAMILIES = ("sd15", "sdxl", "sd15-inpaint", "sdxl-inpaint")
CASES = [(family, kind) for family, kind in KINDS if family in FAMILIES]
STEPS = {"num_inference_steps": 8, "strength": 1.0, "guidance_scale": 20.0}  # or random weights show no guidance


@pytest.fixture(scope="module")
def loaded(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Loaded, Any]]:
    def made(family: str) -> tuple[Loaded, Any]:
        path = tiny_models.save(family, tmp_path_factory.mktemp(family))
        return load(tiny_models.entry(family, path)), path

    return cache(made)


@pytest.mark.parametrize(("family", "kind"), [case for case in CASES if case[1] is not Inpaint])
def test_it_draws_what_the_callback_of_diffusers_draws(
    family: str, kind: type, loaded: Callable[[str], tuple[Loaded, Any]]
) -> None:
    model, path = loaded(family)
    item = sample(3, kind, **STEPS, guidance_end=0.5)
    pipeline, arguments = plain_pipeline(item, path)
    # Theirs cuts when the step of this index has ended: four are guided.
    callback = (SDXLCFGCutoffCallback if family == "sdxl" else SDCFGCutoffCallback)(None, 3)
    (expected,) = pipeline(**arguments, callback_on_step_end=callback).images
    assert far(draw([item], model)[0], (expected * 255).round().astype(np.uint8)) <= 1
    assert far(draw([item], model)[0], draw([sample(3, kind, **STEPS)], model)[0]) > 1


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_after_it_each_picture_goes_through_the_unet_once(
    family: str, kind: type, loaded: Callable[[str], tuple[Loaded, Any]]
) -> None:
    model, _ = loaded(family)
    seen: list[int] = []
    hook = model.pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    items = [sample(seed, kind, **STEPS, guidance_end=0.25) for seed in (3, 4)]
    pictures = draw(items, model)
    hook.remove()
    assert seen == [4] * 2 + [2] * 6
    assert far(pictures[1], draw(items[1:], model)[0]) <= 1


def test_rows_of_another_end_never_share_a_model_call() -> None:
    assert batch_key(sample(1, Txt2Img, guidance_end=0.5).job) != batch_key(sample(1, Txt2Img).job)
