"""The device is told what to do and not asked: pictures come while the next call begins, and no step waits."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_models
import torch
from test_families import load, sample

from shared.errors import Canceled, Paused, Unreachable
from shared.jobs import Txt2Img
from shared.schedulers import SCHEDULERS
from shared.shards import Claim, Shard
from workers import batches, shard
from workers.arriving import Arriving
from workers.batches import Item
from workers.host import Draining
from workers.loaded import Loaded
from workers.pipelines import call
from workers.shard import ShardRun

NOWHERE = torch.device("meta")  # it computes shapes and has no values: whoever asks it for one fails
NOISE_BY_SEED = "dpmpp_sde"  # draws its noise with torchsde, which counts on the CPU
SAMPLERS = [next(n for n in SCHEDULERS if SCHEDULERS[n].class_name == kind) for kind in
            dict.fromkeys(each.class_name for each in SCHEDULERS.values())]  # fmt: skip


# --- a call that asks nothing ---


@pytest.fixture(scope="module")
def nowhere(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    @cache
    def made(family: str) -> Loaded:
        model = load(tiny_models.entry(family, tiny_models.save(family, tmp_path_factory.mktemp(family))))
        for pipeline in model.pipelines:
            pipeline.to(NOWHERE)
        model.device = model.texts.device = NOWHERE
        return model

    return made


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != NOISE_BY_SEED])
def test_a_call_never_waits_for_the_device(name: str, family: str, nowhere: Callable[[str], Loaded]) -> None:
    model, fields = nowhere(family), {"scheduler": name, "guidance_end": 0.5}
    items = [sample(1, Txt2Img, guidance_scale=1.0, **fields), sample(2, Txt2Img, guidance_scale=7.0, **fields)]
    arguments = call.arguments(items, model, model.pipeline, lambda _: None) | {"output_type": "latent"}
    latents = model.pipeline(**arguments, generator=call.generators(items), width=64, height=64).images
    assert latents.shape == (2, 4, 8, 8) and latents.device == NOWHERE


def test_that_device_would_not_have_answered(nowhere: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    model, items = nowhere("sd15"), [sample(1, Txt2Img, scheduler="ddim")]
    arguments = call.arguments(items, model, model.pipeline, lambda _: None) | {"output_type": "latent"}
    own = diffusers.DDIMScheduler.set_timesteps  # which counts on the device
    monkeypatch.setattr(type(model.pipeline.scheduler), "set_timesteps", own)
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        model.pipeline(**arguments, generator=call.generators(items), width=64, height=64)


# --- pictures on their way ---


def test_pictures_are_the_floats_as_bytes_and_none_where_a_value_is_not_finite() -> None:
    images = torch.full((4, 3, 2, 5), 0.5)
    images[0, :, 0, 0] = torch.tensor([0.0, 1.0, 2.0])
    images[1, 1, 1, 4], images[3, 0, 0, 0] = float("nan"), float("inf")
    arriving = Arriving(images)
    first, second, third, fourth = arriving
    assert len(arriving) == 4 and second is None and fourth is None
    assert first is not None and first.shape == (2, 5, 3) and first.dtype == np.uint8
    assert first[0, 0].tolist() == [0, 255, 255] and third is not None and (third == 128).all()


class Late:
    """A moment that the device comes to when it is told."""

    told: list["Late"]

    def __init__(self, _device: torch.device):
        self.over = False
        self.told.append(self)

    def wait(self) -> None:
        self.over = True

    def since(self, _earlier: "Late") -> float:
        return 1.5


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[Late]:
    Late.told = []
    monkeypatch.setattr(shard, "Moment", Late)
    return Late.told


def a_run(most: int) -> Any:
    """A shard on a host with nothing but a clock, whose ledger notes which rows are in a model call."""
    marked: list[list[int]] = []
    host: Any = SimpleNamespace(
        device=torch.device("cpu"),
        settings=SimpleNamespace(batch_images=most, hang_s=60.0),
        ledger=SimpleNamespace(mark_rows=lambda _, rows: marked.append(list(rows)), noted=lambda _: None),
        preparation=SimpleNamespace(prepare=lambda items: (list(items), {})),
        inputs=SimpleNamespace(want=lambda _: None),
        models=SimpleNamespace(get=lambda *_: None),
        must_drain=lambda: False,
    )
    beat: Any = SimpleNamespace(check=lambda: None)
    run = ShardRun(host, Claim("r", Shard("000000", "m", 0, 0, 1, 9), 1), beat, lambda _: None)
    return run, marked


def a_model() -> Any:
    return SimpleNamespace(name="m", identity="i", device=torch.device("cpu"))


def rows(count: int) -> list[Item]:
    return [batches.items([sample(n, Txt2Img).row.model_copy(update={"row": n})])[0] for n in range(1, count + 1)]


def test_the_next_call_begins_before_the_pictures_of_the_last_have_come(
    late: list[Late], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, looked = [], []

    class Pictures(list[int]):
        def __getitem__(self, n: Any) -> Any:
            looked.append((len(calls), n))
            return super().__getitem__(n)

    def draw(items: Any, *_: Any) -> Pictures:
        calls.append(len(items))
        return Pictures(range(len(items)))

    monkeypatch.setitem(shard.drawing.RUNNERS, "txt2img", draw)
    added: list[Any] = []
    uploads: Any = SimpleNamespace(add=lambda _, picture, made: added.append((picture, made)))
    run, marked = a_run(most=2)
    run._make(rows(5), a_model(), uploads)
    assert (calls, looked) == ([2, 2, 1], [])
    assert marked == [[1, 2], [1, 2, 3, 4], [3, 4, 5]]  # what the device works on may be what ends the process
    assert all(moment.over for moment in late[1::2])  # every call is waited for, while somebody watches
    assert [picture() for picture, _ in added] == [0, 1, 0, 1, 0]
    assert added[0][1]()["seconds"] == {"batch": 1.5} and added[0][1]()["batch_shape"] == [2, 64, 64]


def test_rows_whose_pictures_have_come_are_not_charged_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shard.drawing.RUNNERS, "txt2img", lambda items, *_: [None] * len(items))
    run, marked = a_run(most=2)
    run._make(rows(3), a_model(), SimpleNamespace(add=lambda *_: None))
    assert marked == [[1, 2], [3]]


def test_what_a_device_says_late_is_its_own_fault_and_no_rows(
    late: list[Late], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Late) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Late, "wait", broken)
    monkeypatch.setitem(shard.drawing.RUNNERS, "txt2img", lambda items, *_: [None] * len(items))
    run, _ = a_run(most=2)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run._make(rows(2), a_model(), SimpleNamespace(add=lambda *_: None))
    assert not run.errors


@pytest.mark.parametrize("stop", [Canceled("c"), Paused("p"), Draining("d"), Unreachable("u")])
def test_what_was_drawn_before_a_stop_is_stored(
    stop: Exception, late: list[Late], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(shard.drawing.RUNNERS, "txt2img", lambda items, *_: [None] * len(items))
    run, _ = a_run(most=2)
    added: list[Any] = []
    settled: list[int] = []
    run.host.store = SimpleNamespace()
    run.host.models = SimpleNamespace(get=lambda *_, **__: a_model(), identities={})
    marks = iter([None, stop])

    def mark(*_: Any) -> None:
        if error := next(marks):
            raise error

    class Uploads:
        def __init__(self, *_: Any):
            pass

        def __enter__(self) -> "Uploads":
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def __contains__(self, item: Item) -> bool:
            return item.key in added

        def add(self, item: Item, *_: Any) -> None:
            added.append(item.key)

        def settle(self) -> None:
            settled.append(len(added))

    run.host.ledger.mark_rows = mark
    monkeypatch.setattr(shard, "Uploads", Uploads)
    monkeypatch.setattr(shard.bury, "rows_of", lambda *_: [item.row for item in rows(4)])
    monkeypatch.setattr(run, "_commit", lambda *_: None)
    is_end = isinstance(stop, Canceled)
    with nullcontext() if is_end else pytest.raises(type(stop)):
        run.run()
    assert added == [(1, 0), (2, 0)]
    assert settled == ([] if is_end else [2])
    assert set(run.errors) == ({(3, 0), (4, 0)} if is_end else set())
