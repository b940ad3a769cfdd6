"""A second pass: the picture is drawn on at a larger size, as two calls of diffusers do it."""

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from test_families import draw, far, load, plain, plain_pipeline, sample

from producer import rows
from producer.rows import ReadOptions
from shared import catalog, jobs
from shared.images import Pixels
from shared.jobs import Txt2Img
from shared.settings import Settings
from workers.batches import Item
from workers.pipelines import call

SECOND = {"hires_scale": 1.5, "hires_steps": 5, "hires_strength": 0.6}


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, tiny_models.save(request.param, tmp_path_factory.mktemp(request.param))


def by_two_calls(item: Item, folder: Path) -> Pixels:
    """Diffusers alone: text to image, a larger copy, image to image."""
    start = Image.fromarray(plain(item, folder)).resize((96, 96), Image.Resampling.LANCZOS)
    pipeline, arguments = plain_pipeline(item, folder)
    second: Any = diffusers.AutoPipelineForImage2Image.from_pipe(pipeline)
    second.set_progress_bar_config(disable=True)
    arguments = {name: value for name, value in arguments.items() if name not in ("width", "height")} | {
        "image": call.to_floats([np.asarray(start)]),
        "num_inference_steps": item.job.hires_steps,
        "strength": item.job.hires_strength,
        "generator": torch.Generator("cpu").manual_seed(item.job.seed),
    }
    return (second(**arguments).images[0] * 255).round().astype(np.uint8)


def test_a_second_pass_draws_what_two_calls_of_diffusers_draw(folder: tuple[str, Path], one_thread: None) -> None:
    family, path = folder
    items = [sample(seed, Txt2Img, **SECOND) for seed in (3, 4)]
    drawn = draw(items, load(tiny_models.entry(family, path)))
    assert [picture.shape for picture in drawn] == [(96, 96, 3)] * 2
    assert [far(picture, by_two_calls(item, path)) <= 1 for picture, item in zip(drawn, items, strict=True)] == [
        True
    ] * 2


def check(tmp_path: Path, text: str) -> tuple[list[jobs.Row], list[str]]:
    path = tmp_path / "hires.csv"
    path.write_text(text)
    known, settings = catalog.load(), Settings()
    report = rows.check(path, ReadOptions(), known, settings)
    if report.faults:
        return [], [str(fault) for fault in report.faults]
    found = rows.read(path, ReadOptions(), known, settings, report)
    return [jobs.Row.model_validate(json.loads(entry.text)) for entry in found], []


def test_a_row_that_says_a_scale_alone_takes_the_steps_of_the_first_pass(tmp_path: Path) -> None:
    made, _ = check(tmp_path, "prompt,steps,hr_scale\na,9,1.5\na,9,\na,9,1\n")
    found = [(row.job.hires_scale, row.job.hires_steps) for row in made if isinstance(row.job, Txt2Img)]
    assert found == [(1.5, 9), (1.0, 0), (1.0, 0)]
    assert len({jobs.batch_key(row.job) for row in made}) == 2


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("5,,", "from 1 to 4"),
        ("4,,", "expected a multiple of 8 from"),
        ("1.5,4,0.1", "from 0.25"),
        ("1.5,60,", "at most 50 with the scheduler 'lcm'"),
    ],
)
def test_a_second_pass_that_cannot_be_is_refused(cells: str, words: str, tmp_path: Path) -> None:
    scheduler = "lcm" if "60" in cells else ""
    text = f"prompt,width,steps,scheduler,hires_scale,hires_steps,hires_strength\na,256,8,{scheduler},{cells}\n"
    _, (fault,) = check(tmp_path, text)
    assert words in fault
