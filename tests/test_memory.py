"""Memory: what does not fit goes through in smaller batches, then with less of everything, and what fitted is known."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from fleet import Fleet, wait_for
from test_families import far, sample

from producer import verify
from producer.session import Session
from shared import settings as settings_
from shared.broker import Broker
from shared.images import Pixels
from shared.jobs import Img2Img, Inpaint, Txt2Img
from shared.settings import Settings
from workers import fits, memory
from workers.batches import Item
from workers.fits import Fit
from workers.loaded import Loaded
from workers.memory import ATTENTION, LADDER, OFFLOAD, VAE
from workers.models import Models
from workers.pipelines.runners import RUNNERS

SHORT = "short_app:app"
LONG = " ".join(["star"] * 40)  # two windows of the tiny text encoder
MODELS = """
default = "tiny"
[models.tiny]
family = "sd15"
path = "{path}"
identity = "{identity}"
defaults = {{ width = 64, height = 64, num_inference_steps = 1, guidance_scale = 4.0, scheduler = "euler" }}
limits = {{ min_size = 64 }}
"""


# --- which rung is next, and what is remembered ---


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ((), (VAE, ATTENTION, OFFLOAD)),
        ((VAE,), (ATTENTION, OFFLOAD)),
        ((VAE, ATTENTION), (OFFLOAD,)),
        (LADDER, ()),
        (("of a later version",), LADDER),
    ],
)
def test_what_is_left_are_the_rungs_that_were_not_used(used: memory.Rungs, expected: memory.Rungs) -> None:
    assert memory.left(LADDER, used) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (SimpleNamespace(pipeline="some", device=torch.device("cuda", 0)), LADDER),
        (SimpleNamespace(pipeline="some", device=torch.device("cpu")), (VAE, ATTENTION)),
        (SimpleNamespace(pipeline="some", device=torch.device("mps")), (VAE, ATTENTION)),
        (SimpleNamespace(pipeline=None, device=torch.device("cuda", 0)), ()),
        (SimpleNamespace(device=torch.device("cuda", 0)), ()),  # Segment Anything
    ],
)
def test_a_model_has_the_rungs_that_help_where_it_is(model: Any, expected: memory.Rungs) -> None:
    assert memory.ladder(model) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Fit(8), Fit(4), Fit(4)),
        (Fit(2), Fit(4), Fit(2)),
        (Fit(1, (VAE,)), Fit(4), Fit(1, (VAE,))),
        (Fit(1, (VAE,)), Fit(1, (VAE, ATTENTION)), Fit(1, (VAE, ATTENTION))),
    ],
)
def test_of_two_findings_the_one_that_needs_less_memory_stays(one: Fit, other: Fit, expected: Fit) -> None:
    assert fits.smaller(one, other) == fits.smaller(other, one) == expected


def test_what_fitted_is_kept_by_what_decides_about_memory() -> None:
    job = sample(1, Txt2Img).job
    variants = [{"width": 128}, {"height": 128}, {"guidance_scale": 1.0}]
    jobs = [job, sample(1, Img2Img).job, *(job.model_copy(update=fields) for fields in variants)]
    found = [fits.key(each, "identity", "gpu", 1) for each in jobs]
    found += [fits.key(job, *other) for other in (("id", "gpu", 1), ("identity", "cpu", 1), ("identity", "gpu", 2))]
    assert len(set(found)) == len(found) == 8
    alike = job.model_copy(update={"seed": 7, "prompt": "another", "guidance_scale": 9.0, "num_inference_steps": 50})
    assert fits.key(alike, "identity", "gpu", 1) == found[0]


def test_what_fitted_is_remembered_for_a_day_and_no_longer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    broker, other = Broker(settings), Broker(settings)
    fits.remember(broker, "fit:a", Fit(3, (VAE,)))
    assert fits.known(other, "fit:a", 8) == Fit(3, (VAE,))
    assert fits.known(other, "fit:a", 2) == Fit(2, (VAE,))
    assert fits.known(other, "fit:b", 8) == Fit(8)
    assert 0 <= 86_400_000 - broker.redis.pttl("fit:a") < 60_000
    monkeypatch.setattr(fits, "REMEMBERED_S", 0.05)
    fits.remember(broker, "fit:a", Fit(1))
    wait_for(lambda: fits.known(other, "fit:a", 8) == Fit(8), "the limit to be forgotten")


# --- a model that saves memory ---


@pytest.fixture(scope="module")
def loaded(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    @cache
    def load(family: str) -> Loaded:
        entry = tiny_models.entry(family, tiny_models.save(family, tmp_path_factory.mktemp(family)))
        model: Loaded = Models(tiny_models.known(entry), torch.device("cpu"), 1 << 40).get(entry.name)
        return model

    return load


def wide(kind: type, **fields: object) -> Item:
    """Twice as wide and high as the autoencoder's tiles."""
    item = sample(3, kind, width=128, height=128, **fields)
    start, cells = (
        np.kron(each, np.ones((2, 2, 1)[: each.ndim], np.uint8)) for each in (item.ready.start, item.ready.cells)
    )
    return replace(item, ready=SimpleNamespace(start=start, cells=cells))


def draw(item: Item, model: Loaded, rungs: memory.Rungs) -> Pixels:
    with memory.saving(model, rungs):
        (picture,) = RUNNERS[item.job.kind]([item], model, lambda _: None)
    assert picture is not None
    return picture


@pytest.mark.parametrize("kind", [Txt2Img, Img2Img, Inpaint])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_tiles_change_pixels_further_rungs_do_not_and_none_leaves_anything_behind(
    family: str, kind: type, loaded: Callable[[str], Loaded]
) -> None:
    model = loaded(family)
    more = {"masked_content": "latent_noise"} if kind is Inpaint else {}
    plain = draw(wide(kind, **more), model, ())
    tiled = draw(wide(kind, **more), model, (VAE,))
    for count in (1, 2, 3):
        saved = draw(wide(kind, **more), model, LADDER[:count])
        assert far(saved, tiled) <= 1 < far(saved, plain)
        assert np.array_equal(draw(wide(kind, **more), model, ()), plain)
    assert not [part for part in model.pipeline.components.values() if hasattr(part, "_hf_hook")]
    assert not model.pipeline.vae.use_slicing
    assert {type(each) for each in model.pipeline.unet.attn_processors.values()} == {AttnProcessor2_0}


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])  # sd2 has layers of one head
def test_attention_in_slices_and_parts_on_the_cpu_change_no_more_than_rounding(
    family: str, loaded: Callable[[str], Loaded]
) -> None:
    model, item = loaded(family), sample(5, Txt2Img)
    assert far(draw(item, model, (ATTENTION, OFFLOAD)), draw(item, model, ())) <= 1
    assert np.array_equal(draw(item, model, (OFFLOAD,)), draw(item, model, ()))


def test_a_batch_that_fails_switches_off_what_it_saved_with(loaded: Callable[[str], Loaded]) -> None:
    model = loaded("sd15")
    plain = draw(wide(Txt2Img), model, ())
    with pytest.raises(ValueError, match="broken"), memory.saving(model, LADDER):
        raise ValueError("broken")
    assert np.array_equal(draw(wide(Txt2Img), model, ()), plain)


def test_parts_that_were_offloaded_are_on_the_device_again_for_the_next_batch(loaded: Callable[[str], Loaded]) -> None:
    model = loaded("sd15")
    model.pipeline.unet.to("meta")  # stands for another device than the model's
    found = SimpleNamespace(pipeline=model.pipeline, device=torch.device("meta"))
    with memory.saving(found, ()):
        places = {part.device.type for part in (model.pipeline.unet, model.pipeline.vae, model.pipeline.text_encoder)}
    assert places == {"meta"}
    loaded.cache_clear()  # type: ignore[attr-defined]  # its weights are gone


# --- workers ---


@pytest.fixture
def short(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    entry = tiny_models.entry("sd15", tiny_models.save("sd15", tmp_path / "tiny"))
    (tmp_path / "models.toml").write_text(MODELS.format(path=entry.path, identity=entry.identity))
    for name, value in {"THREADS": 1, "BATCH_IMAGES": 4, "MODELS": tmp_path / "models.toml"}.items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    fleet = Fleet(settings_.load(), tmp_path)
    yield fleet
    fleet.close()


def calls(fleet: Fleet) -> list[list[Any]]:
    """[width, images, rungs] of each since the last look."""
    found = [json.loads(line) for line in fleet.drawn.read_text().splitlines()] if fleet.drawn.exists() else []
    fleet.drawn.unlink(missing_ok=True)
    return found


def produce(fleet: Fleet, name: str, *rows: str, counts: tuple[int, int]) -> list[dict[str, Any]]:
    """The manifest of a run of rows `prompt,width`."""
    run = fleet.submit("prompt,width\n" + "\n".join(rows) + "\n", run=name).run
    found = fleet.finish(run, 120)
    assert (found["done"], found["failed"]) == counts
    return [json.loads(line) for line in fleet.lines(run)]


def test_what_does_not_fit_goes_down_the_ladder_and_the_next_worker_knows_how_far(
    short: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with short.worker(app=SHORT):
        (line,) = produce(short, "wide", "star,256", counts=(1, 0))
        assert line["memory"] == ["vae_tiling", "attention_slicing", "cpu_offload"]
        assert line["batch_shape"] == [1, 64, 256]
        assert calls(short) == [[256, 1, list(LADDER[:count])] for count in range(4)]

        (line,) = produce(short, "plain", "star,64", counts=(1, 0))
        assert ("memory" in line, calls(short)) == (False, [[64, 1, []]])

        found = produce(short, "several", *[f"star {n},128" for n in range(4)], counts=(4, 0))
        assert [line["memory"] for line in found] == [["vae_tiling"]] * 4
        tried, *made = [[images, rungs] for _, images, rungs in calls(short) if images != 2]
        assert (tried, made[:2]) == ([4, []], [[1, []], [1, ["vae_tiling"]]])

        produce(short, "four", *[f"star {n},64" for n in range(4)], counts=(4, 0))
        assert calls(short) == [[64, 4, []], [64, 2, []], [64, 2, []]]

    with short.worker(1, app=SHORT):
        found = produce(short, "again", "moon,256", *[f"moon {n},128" for n in range(2)], counts=(3, 0))
        assert [len(line["memory"]) for line in found] == [3, 1, 1]
        produce(short, "four-again", *[f"moon {n},64" for n in range(4)], counts=(4, 0))
        expected = [[64, 2, []], [64, 2, []], [128, 1, [VAE]], [128, 1, [VAE]], [256, 1, list(LADDER)]]
        assert sorted(calls(short)) == expected

        for key in short.ledger.redis.scan_iter("fit:*"):
            short.ledger.redis.pexpire(key, 1)  # a day later
        wait_for(lambda: not list(short.ledger.redis.scan_iter("fit:*")), "the limits to be forgotten")
        produce(short, "a-day-later", *[f"sun {n},64" for n in range(4)], counts=(4, 0))
        assert calls(short)[0] == [64, 4, []]

        capsys.readouterr()
        code = verify.verify(Session(short.ledger, short.store, short.app, None), "several", True, 4)
        made_again = json.loads(capsys.readouterr().out)["made_again"]
        assert (code, {line["text"] for line in made_again}) == (0, {"made again, with equal pixels"})
        assert calls(short) == [[128, 1, [VAE]]] * 4


def test_a_row_that_fits_nowhere_fails_with_its_reason_and_the_rest_of_its_shard_is_done(short: Fleet) -> None:
    with short.worker(app=SHORT):
        found = produce(short, "mixed", "star,64", f"{LONG},64", "moon,64", counts=(2, 1))
        assert [line["state"] for line in found] == ["done", "failed", "done"]
        reason = ("OutOfMemory", "one image alone does not fit into the device's memory")
        assert (found[1]["error_type"], found[1]["error"]) == reason
        assert not any("memory" in line for line in found)
        assert sorted(calls(short)) == [[64, 1, list(LADDER[:count])] for count in range(4)] + [[64, 2, []]]
        (line,) = produce(short, "too-wide", "star,320", counts=(0, 1))
        assert line["error_type"] == "OutOfMemory"
        assert list(short.ledger.redis.scan_iter("fit:*")) == []  # nothing fitted: nothing is known
