"""Compiled models: few shapes, what fills a batch up is not stored, and who cannot compile draws as before."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_arriving import a_run, rows
from test_families import far, sample

from shared.jobs import Txt2Img
from workers import batches, compiled, drawing, host, subbatches
from workers.batches import Item
from workers.compiled import SHAPES, How
from workers.loaded import Loaded
from workers.models import Models
from workers.pipelines.runners import RUNNERS

CPU = torch.device("cpu")
Backend = Callable[[torch.fx.GraphModule, Sequence[torch.Tensor]], Any]


# --- shapes ---


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_batch_is_filled_up_to_a_shape_that_was_said_to_fit(count: int, fits: int) -> None:
    taken = [*rows(1) * min(count, batches.most(fits, SHAPES))]
    filled = batches.filled(taken, SHAPES)
    assert filled[: len(taken)] == taken
    assert len(filled) in SHAPES and len(filled) <= fits
    assert len(filled) < 2 * len(taken)


def test_a_picture_that_is_made_again_has_the_shape_of_its_record() -> None:
    (item,) = rows(1)
    again = Item(item.row.model_copy(update={"batch_images": 3}), 0)
    assert len(batches.filled([again], SHAPES)) == 3
    assert batches.filled([], SHAPES) == []


def test_what_fills_a_batch_up_is_drawn_and_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def draw(items: Sequence[Item], *_: Any) -> list[Any]:
        calls.append(len(items))
        return [f"picture {item.key}" for item in items]

    monkeypatch.setitem(RUNNERS, "txt2img", draw)
    model = Loaded("m", "i", CPU, None, 1, shapes=SHAPES, compiled="regional")
    run, _ = a_run(most=12)
    added: list[Any] = []

    class Uploads:
        def add(self, item: Item, picture: Any, made: Any) -> None:
            added.append((item.key, picture(), made()))

    run._make(rows(11), model, Uploads())
    assert calls == [8, 4]
    assert [(key, picture) for key, picture, _ in added] == [((n, 0), f"picture ({n}, 0)") for n in range(1, 12)]
    assert [made["batch_shape"][0] for _, _, made in added] == [8] * 8 + [4] * 3
    assert {made["compiled"] for _, _, made in added} == {"regional"}


# --- models ---


@pytest.fixture
def entry(tmp_path: Path) -> Any:
    return tiny_models.entry("sd15", tiny_models.save("sd15", tmp_path / "model"))


def loaded(entry: Any, how: How) -> Loaded:
    model: Loaded = Models(tiny_models.known(entry), CPU, 1 << 40, compile_how=how).get(entry.name)
    return model


def captured(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    """What torch captures goes to this backend: the usual one takes a minute and a half for a model this small."""
    torch._dynamo.reset()  # what an earlier test gave up on
    compile_, chosen = torch.compile, {"backend": lambda graph, inputs, **_: backend(graph, inputs)}
    monkeypatch.setattr(torch, "compile", lambda *given, **more: compile_(*given, **more | chosen))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("how", ["regional", "graphs"])
def test_a_compiled_model_draws_the_same_pictures(how: How, entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[str] = []

    def note(graph: torch.fx.GraphModule, _: Sequence[torch.Tensor]) -> Any:
        graphs.append(graph.code)
        return graph.forward

    captured(monkeypatch, note)
    plain, model = loaded(entry, ""), loaded(entry, how)
    assert (plain.shapes, plain.compiled, model.shapes, model.compiled) == ((), "", SHAPES, how)
    items = [sample(seed, Txt2Img) for seed in (1, 2)]
    before = [picture() for picture in drawn(items, plain)]
    assert not graphs
    after = [picture() for picture in drawn(items, model)]
    assert (len(graphs) == 1) == (how == "graphs") and graphs
    assert max(far(one, other) for one, other in zip(before, after, strict=True)) <= 1
    kept = len(graphs)
    drawn([sample(seed, Txt2Img) for seed in (3, 4)], model)
    assert len(graphs) == kept  # nothing is compiled anew for other prompts and seeds


def drawn(items: Sequence[Item], model: Loaded) -> list[Any]:
    ready = [Item(item.row, item.n) for item in items]
    return drawing.draw(ready, model, (), lambda name: name, lambda _: None)[0]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("how", ["regional", "graphs"])
def test_a_host_that_cannot_compile_draws_as_before(how: How, entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def fail(*given: object) -> Any:
        tried.append(given)
        raise RuntimeError("no compiler")

    captured(monkeypatch, fail)
    items = [sample(1, Txt2Img)]
    (expected,), (found,) = drawn(items, loaded(entry, "")), drawn(items, loaded(entry, how))
    assert tried
    assert np.array_equal(found(), expected())


def test_compiled_code_is_kept_for_the_next_process_where_nobody_else_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compiled.keep_in(tmp_path / "models" / host.COMPILED)
    kept = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert kept == tmp_path / "models" / host.COMPILED
    assert kept.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    compiled.keep_in(tmp_path / "other")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"


# --- autoencoders ---


@pytest.mark.usefixtures("one_thread")
def test_an_autoencoder_decodes_a_large_batch_in_parts(entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(entry, "")
    sizes: list[int] = []
    vae = model.pipeline.vae
    vae.decoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    latents = torch.randn(19, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = torch.cat([vae.decode(one[None]).sample for one in latents])
        sizes.clear()
        parts = vae.decode(latents, return_dict=False)[0]
    assert sizes == [subbatches.MOST, subbatches.MOST, 3]
    assert torch.allclose(parts, whole, atol=1e-5)
