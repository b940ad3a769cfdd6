"""Prompts of any length and with weighed words, and that neither changes the picture of a neighbour."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from test_families import draw, far, load, plain_pipeline, sample

from shared.jobs import Img2Img, Txt2Img
from workers import batches, texts
from workers.fits import length as length_of
from workers.loaded import Loaded

FAMILIES = ("sd15", "sd2", "sdxl")
READERS = (*FAMILIES, "sdxl-refiner")
MOST = 32  # tokens of a tiny encoder, with a beginning and an end
LONG = "a large red circle on a blue background, and a small green star beside it, " * 2


@pytest.fixture(scope="module")
def loaded(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    return cache(
        lambda family: load(tiny_models.entry(family, tiny_models.save(family, tmp_path_factory.mktemp(family))))
    )


def by_hand(model: Loaded, ids: list[int], clip_skip: int = 0) -> torch.Tensor:
    """One window of tokens through the encoders, as Stable Diffusion takes them."""
    is_xl = hasattr(model.pipeline, "text_encoder_2")
    found = []
    for end in ("", "_2")[: 1 + is_xl]:
        tokenizer, encoder = (getattr(model.pipeline, f"{part}{end}") for part in ("tokenizer", "text_encoder"))
        if tokenizer is None:  # of the refiner
            continue
        whole = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        whole += [tokenizer.pad_token_id] * (MOST - len(whole))
        with torch.inference_mode():
            hidden = encoder(torch.tensor([whole]), output_hidden_states=True).hidden_states[-(clip_skip + 1 + is_xl)]
            found.append(hidden if is_xl else encoder.final_layer_norm(hidden))
    return torch.cat(found, dim=-1)


def tokenizer_of(model: Loaded) -> Any:
    return model.pipeline.tokenizer or model.pipeline.tokenizer_2


def ids_of(model: Loaded, text: str) -> list[int]:
    return list(tokenizer_of(model)(text).input_ids[1:-1])


@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("family", READERS)
def test_a_long_prompt_goes_through_the_encoder_in_windows_that_end_between_words(
    family: str, clip_skip: int, loaded: Callable[[str], Loaded]
) -> None:
    model = loaded(family)
    tokens, pieces = ids_of(model, LONG), tokenizer_of(model).tokenize(LONG)
    windows = []
    while tokens:
        end = min(MOST - 2, len(tokens))
        while len(tokens) > MOST - 2 and not pieces[end - 1].endswith("</w>"):
            end -= 1
        windows.append(by_hand(model, tokens[:end], clip_skip))
        tokens, pieces = tokens[end:], pieces[end:]
    assert len(windows) > 1
    assert torch.allclose(model.texts.encode(LONG, clip_skip).embeds, torch.cat(windows, dim=1), atol=1e-5)


@pytest.mark.parametrize("family", READERS)
def test_a_weight_moves_words_away_from_nothing_and_one_leaves_them(
    family: str, loaded: Callable[[str], Loaded]
) -> None:
    model = loaded(family)
    plain, nothing = by_hand(model, ids_of(model, "a red circle")), by_hand(model, [])
    weights = torch.ones(1, MOST, 1)
    weights[:, 2] = 1.5  # bos, a, red
    expected = nothing + (plain - nothing) * weights
    assert torch.allclose(model.texts.encode("a (red:1.5) circle").embeds, expected, atol=1e-5)
    assert torch.equal(model.texts.encode("a (red:1) circle").embeds, model.texts.encode("a red circle").embeds)
    assert torch.equal(model.texts.encode(r"a \(red\)").embeds, by_hand(model, ids_of(model, "a (red)")))


@pytest.mark.parametrize("kind", [Txt2Img, Img2Img])
@pytest.mark.parametrize("family", FAMILIES)
def test_long_and_weighed_prompts_change_the_picture_beyond_where_one_window_ends(
    family: str, kind: type, loaded: Callable[[str], Loaded]
) -> None:
    model = loaded(family)
    prompts = (LONG, LONG + "(on a yellow background:1.4)", LONG + "on a yellow background")
    pictures = [draw([sample(3, kind, prompt=prompt)], model)[0] for prompt in prompts]
    assert all(not np.array_equal(one, other) for one, other in pairwise(pictures))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_negative_prompt_needs_no_long_prompt(family: str, loaded: Callable[[str], Loaded]) -> None:
    model = loaded(family)
    arguments = model.texts.arguments([sample(3, Txt2Img, prompt="a star", negative_prompt=LONG).job])
    assert arguments["prompt_embeds"].shape == arguments["negative_prompt_embeds"].shape
    assert arguments["prompt_embeds"].shape[1] == 2 * MOST
    assert torch.equal(arguments["prompt_embeds"][:, MOST:], model.texts.encode("").embeds)
    assert draw([sample(3, Txt2Img, prompt="a star", negative_prompt=LONG)], model)


def test_texts_of_other_lengths_are_other_batches(loaded: Callable[[str], Loaded]) -> None:
    def length(item: Any) -> int:
        return length_of(loaded("sd15"), item)

    items = [sample(1, Txt2Img), sample(2, Txt2Img), sample(3, Txt2Img, prompt=LONG), sample(4, Txt2Img)]
    assert [length(item) for item in items] == [1, 1, 2, 1]
    assert batches.first(items, 4, length) == items[:2]
    assert batches.first(sorted(items, key=length), 4, length) == [items[0], items[1], items[3]]


@pytest.mark.parametrize("text", ["", "a red circle", LONG, "é" * 40, "🟥" * 12, "a (red:1.3) circle " * 9])
def test_the_length_that_is_foretold_is_the_length_that_comes(text: str, loaded: Callable[[str], Loaded]) -> None:
    texts = loaded("sd15").texts
    count = texts.windows(sample(1, Txt2Img, prompt=text, negative_prompt="").job)
    assert texts.encode(text).embeds.shape[1] == count * MOST


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("sdxl", tmp_path_factory.mktemp("second"))


@pytest.mark.parametrize(
    "texts",
    [{"prompt_2": "in blue"}, {"negative_prompt_2": "in blue"}, {"prompt_2": "x", "negative_prompt_2": "y"}],
    ids=str,
)
def test_the_second_encoder_reads_another_text_as_in_diffusers(
    texts: dict[str, str], folder: Path, one_thread: None
) -> None:
    model = load(tiny_models.entry("sdxl", folder))
    (drawn,) = draw([sample(3, Txt2Img, **texts)], model)
    pipeline, arguments = plain_pipeline(sample(3, Txt2Img), folder)
    expected = (pipeline(**arguments, **texts).images[0] * 255).round().astype(np.uint8)
    assert far(drawn, expected) <= 1
    assert far(drawn, draw([sample(3, Txt2Img)], model)[0]) > 1


def test_a_second_text_may_be_longer_than_the_first_and_weigh_its_words(loaded: Callable[[str], Loaded]) -> None:
    texts, width = loaded("sdxl").texts, tiny_models.WIDTH
    embeds = texts.encode("a cat", second=f"(red:1.5) {LONG}").embeds
    first, second = texts.encode("a cat").embeds, texts.encode(f"(red:1.5) {LONG}").embeds
    assert embeds.shape == second.shape
    assert torch.allclose(embeds[:, :MOST, :width], first[:, :, :width], atol=1e-5)
    assert torch.allclose(embeds[..., width:], second[..., width:], atol=1e-5)
    assert torch.allclose(embeds[:, MOST : 2 * MOST, :width], texts.encode("").embeds[..., :width], atol=1e-5)
    assert texts.windows(sample(1, Txt2Img, prompt="a cat", prompt_2=LONG).job) == len(embeds[0]) // MOST


@pytest.mark.parametrize("second", ["(ugly:1.3)", LONG, "()"], ids=["weighed", "long", "nothing"])
def test_one_of_two_texts_may_be_empty(second: str, loaded: Callable[[str], Loaded]) -> None:
    texts = loaded("sdxl").texts
    embeds = texts.encode("", second=second).embeds
    assert torch.allclose(embeds[:, :MOST, : tiny_models.WIDTH], texts.encode("").embeds[..., : tiny_models.WIDTH])
    assert texts.encode("(a:1.2)", second=second).embeds.shape[1] % MOST == 0


# --- several texts in one run ---


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_are_expected_are_encoded_together_each_as_if_alone(
    family: str, loaded: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(family)
    names = [f"a red circle, number {n}" for n in range(5)]
    jobs = [sample(n, Txt2Img, prompt=name, negative_prompt="").job for n, name in enumerate(names)]
    jobs.append(jobs[0].model_copy(update={"prompt": "a (red:1.5) circle"}))
    model.texts.forget()
    alone = [model.texts.arguments([job]) for job in jobs]
    monkeypatch.setitem(texts.TOGETHER, "cpu", 4)
    model.texts.forget()
    runs: list[int] = []
    (_, encoder), *_ = model.texts._encoders()
    hook = encoder.register_forward_pre_hook(lambda _, given: runs.append(len(given[0])))
    try:
        model.texts.expect(jobs)
        together = [model.texts.arguments([job]) for job in jobs]
    finally:
        hook.remove()
        model.texts.expect([])
        model.texts.forget()
    plain = [size for size in runs if size != 1]
    assert set(plain[:2]) == {4} and len(plain) == 2 + (family == "sdxl")  # a weighed text's summary has its own
    for one, other in zip(alone, together, strict=True):
        for name in one:
            assert torch.allclose(one[name], other[name], atol=1e-5)


def test_a_text_is_the_same_whoever_goes_along(
    loaded: Callable[[str], Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("sd15")
    monkeypatch.setitem(texts.TOGETHER, "cpu", 4)
    job = sample(1, Txt2Img, prompt="a red circle", negative_prompt="").job
    found = []
    for others in ([], ["a star"], ["a star", "a cross", "a heart", "a square", "a triangle"]):
        model.texts.forget()
        model.texts.expect([job.model_copy(update={"prompt": other}) for other in others])
        found.append(model.texts.arguments([job])["prompt_embeds"])
    model.texts.expect([])
    model.texts.forget()
    assert all(torch.equal(found[0], each) for each in found)
