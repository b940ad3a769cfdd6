"""What a worker keeps loaded."""

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fleet import Fleet

from shared import catalog
from shared.catalog import Catalog, Model
from shared.jobs import MaskEdit
from workers import models, select
from workers.loaded import Loaded
from workers.models import Models
from workers.prepare import Preparation

CPU = torch.device("cpu")


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """Three models with 100 bytes on disk, which take 150 in memory."""
    found = {}
    for name in ("a", "b", "c"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "weights").write_bytes(name.encode() * 100)
        found[name] = Model(name=name, family="sd15", path=folder, identity=catalog.identity(folder))
    monkeypatch.setitem(models.LOADERS, "sd15", lambda entry, on: Loaded(entry.name, entry.identity, on, None, 150))
    return Catalog(defaults={"model": "a"}, models=found)


def test_a_model_stays_loaded_and_the_least_recently_used_leaves_first(known: Catalog) -> None:
    held = Models(known, CPU, most_bytes=450)
    first = held.get("a")
    held.get("b")
    held.get("c")
    assert held.get("a") is first
    held.most_bytes = 300
    held.get("a")
    assert list(held._loaded) == ["c", "a"]


def test_the_old_model_has_left_memory_before_the_new_one_comes(
    known: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, seen = Models(known, CPU, most_bytes=200), []
    old = weakref.ref(held.get("a"))
    gc.disable()  # what a worker does by itself must be enough
    try:
        load = models.LOADERS["sd15"]
        monkeypatch.setitem(models.LOADERS, "sd15", lambda entry, on: seen.append(old()) or load(entry, on))
        held.get("b")
    finally:
        gc.enable()
    assert seen == [None]


def test_the_model_in_use_stays_however_large(known: Catalog) -> None:
    held = Models(known, CPU, most_bytes=10)
    assert held.get("b").name == "b"
    assert held.get("b") is held.get("b")


def test_what_goes_with_a_model_does_not_push_it_out(known: Catalog) -> None:
    held = Models(known, CPU, most_bytes=10)
    first = held.get("a")
    for name in ("b", "c"):
        held.get(name, beside="a")
        assert list(held._loaded) == ["a", name]
    assert held.get("a") is first


def test_a_mask_model_does_not_push_out_the_model_that_draws_next(
    known: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Models(known, CPU, most_bytes=10)
    first = held.get("a")
    segmenter = {"together": 1, "check": lambda *_: None, "study": lambda *_: {}, "look": lambda *_: False}
    for name, value in segmenter.items():
        monkeypatch.setattr(Loaded, name, value, raising=False)
    monkeypatch.setattr(select, "select", lambda *given: given[-1]("c") and [[]])
    inputs: Any = SimpleNamespace(picture=lambda _: SimpleNamespace(pixels=None))
    job = MaskEdit.model_construct(model="a", mask_model="b", image="x", loras=(), embeddings=())
    Preparation(inputs, held)._selected([SimpleNamespace(job=job, key=(0, 0))], {})  # type: ignore[list-item]
    assert list(held._loaded) == ["a", "c"]
    assert held.get("a") is first


OTHER = """
[models.{name}]
family = "sd15"
path = "{name}"
identity = "{identity}"
"""


def test_a_file_that_alternates_between_models_loads_each_of_them_once(fleet: Fleet, tmp_path: Path) -> None:
    names, overlay = ("null", "second", "third"), tmp_path / "models.toml"
    for name in names[1:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
        text = OTHER.format(name=name, identity=catalog.identity(tmp_path / name))
        overlay.write_text(overlay.read_text() + text)
    fleet.catalog = catalog.load(overlay)
    fleet.workers_log = tmp_path / "workers.log"
    table = "".join(f"row {n},{names[n % 3]},64,64,2\n" for n in range(96))
    run = fleet.submit("prompt,model,width,height,steps\n" + table).run
    with fleet.worker(models_bytes="1"):  # one at a time
        assert fleet.finish(run)["done"] == 96
    assert fleet.workers_log.read_text().count("left to make room") == 2
