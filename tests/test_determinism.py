"""Pixels depend on the job, not on its neighbours, its place in the batch or the worker: with the shipped model."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fleet import Fleet

from shared import catalog, images, keys
from shared import settings as settings_
from shared.jobs import Row
from shared.settings import Settings
from workers.batches import Item
from workers.models import Models
from workers.pipelines.txt2img import txt2img

BATCH = 4
STEPS = 4
SCHEDULERS = ("dpmpp_2m", "euler_a", "ddpm", "unipc")  # two of them draw noise in every step


@pytest.fixture
def real_fleet(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Workers with the model that ships with the project, one thread each, and batches of four."""
    for name, value in {"THREADS": 1, "BATCH_IMAGES": BATCH, "SHARD_ROWS": 8}.items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    fleet = Fleet(settings_.load(), tmp_path)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def models() -> Models:
    torch.set_num_threads(1)
    return Models(catalog.load(), torch.device("cpu"), 1 << 40)


def rows_of(order: list[int]) -> str:
    """Sixteen rows, four per scheduler, each with a seed and a guidance of its own."""
    lines = [f"a red circle on a blue background,{i},{STEPS},{SCHEDULERS[i % 4]},{3 + i % 3}" for i in order]
    return "prompt,seed,steps,scheduler,guidance_scale\n" + "\n".join(lines) + "\n"


def pictures(fleet: Fleet, run: str) -> dict[int, bytes]:
    """Every picture of a run by its seed."""
    lines = [json.loads(line) for line in fleet.lines(run)]
    return {line["job"]["seed"]: fleet.store.get(keys.inside(run, line["key"])) or b"" for line in lines}


def test_shuffled_rows_on_two_workers_give_identical_files_row_by_row(real_fleet: Fleet, models: Models) -> None:
    with real_fleet.worker(0, app="workers.app:app"), real_fleet.worker(1, app="workers.app:app"):
        first = real_fleet.submit(rows_of(list(range(16))), run="first").run
        shuffled = real_fleet.submit(
            rows_of([int(i) for i in np.random.default_rng(3).permutation(16)]), run="second"
        ).run
        assert real_fleet.finish(first, 120)["done"] == real_fleet.finish(shuffled, 120)["done"] == 16
    before, after = pictures(real_fleet, first), pictures(real_fleet, shuffled)
    assert sorted(before) == sorted(after) == list(range(16))
    assert [seed for seed in before if before[seed] != after[seed]] == []
    assert len(set(before.values())) == 16
    again_from_manifest(real_fleet, first, models)


def again_from_manifest(fleet: Fleet, run: str, models: Models) -> None:
    """A manifest line is enough to make its picture again: job, seed, and the shape of its batch."""
    for text in fleet.lines(run)[::5]:
        line = json.loads(text)
        row = Row(row=1, line=1, cells={}, job=line["job"], job_id=line["job_id"])
        shape = line["batch_shape"][0]
        assert (shape, line["threads"]) == (BATCH, 1)
        (picture, *_) = txt2img([Item(row, 0)] * shape, models.get(line["model"]["name"]), lambda _: None)
        stored = images.decode(fleet.store.get(keys.inside(run, line["key"])) or b"")
        assert np.array_equal(picture, stored), line["job"]


def test_a_picture_does_not_depend_on_its_place_in_the_batch(models: Models) -> None:
    model = models.get("demo-shapes")
    items = [item(seed, "euler_a") for seed in range(BATCH)]
    forward = txt2img(items, model, lambda _: None)
    backward = txt2img(items[::-1], model, lambda _: None)[::-1]
    assert all(np.array_equal(one, other) for one, other in zip(forward, backward, strict=True))


def test_no_setting_leaks_from_one_batch_into_the_next(models: Models) -> None:
    model = models.get("demo-shapes")
    alone = txt2img([item(7, "dpmpp_2m")], model, lambda _: None)[0]
    txt2img([item(7, "dpmpp_2m_karras")], model, lambda _: None)
    txt2img([item(7, "ddpm")], model, lambda _: None)
    assert np.array_equal(txt2img([item(7, "dpmpp_2m")], model, lambda _: None)[0], alone)


def item(seed: int, scheduler: str) -> Item:
    job = {
        "kind": "txt2img", "model": "demo-shapes", "prompt": "a large green star on a white background",
        "width": 128, "height": 128,
        "num_inference_steps": STEPS, "guidance_scale": 4.0, "scheduler": scheduler, "seed": seed,
    }  # fmt: skip
    return Item(Row.model_validate({"row": seed + 1, "line": 1, "cells": {}, "job": job, "job_id": "0" * 64}), 0)


def test_the_shipped_model_is_the_one_that_the_catalog_names() -> None:
    model = catalog.load().models["demo-shapes"]
    assert catalog.identity(model.path) == model.identity
    size_bytes = sum(path.stat().st_size for path in model.path.rglob("*") if path.is_file())
    assert size_bytes <= 16_000_000


def test_guidance_may_differ_between_the_rows_of_a_batch(models: Models) -> None:
    model = models.get("demo-shapes")
    low, high = item(1, "euler"), item(1, "euler")
    high = Item(high.row.model_copy(update={"job": high.row.job.model_copy(update={"guidance_scale": 9.0})}), 0)
    mixed = txt2img([low, high], model, lambda _: None)
    assert np.array_equal(mixed[0], txt2img([low, low], model, lambda _: None)[0])
    assert np.array_equal(mixed[1], txt2img([high, high], model, lambda _: None)[0])
    assert not np.array_equal(mixed[0], mixed[1])


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_no_scheduler_clips_latents(models: Models, scheduler: str) -> None:
    assert models.get("demo-shapes").scheduler(scheduler, [1]).config.clip_sample is False
