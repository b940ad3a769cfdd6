"""Textual inversions: words of a prompt that stand for learned vectors, as diffusers itself puts them in."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import save_file
from test_families import far, plain_pipeline, sample
from trap import Trap

from producer import recognition
from shared import embeddings
from shared.errors import ModelError, UsageError
from shared.images import Pixels
from shared.jobs import Txt2Img
from workers.batches import Item
from workers.dress import dress, teach
from workers.models import Models
from workers.pipelines.runners import RUNNERS

FAMILIES = ("sd15", "sd2", "sdxl")
WORDS = 3  # that a name stands for
ENCODERS = (("clip_l", tiny_models.WIDTH), ("clip_g", tiny_models.WIDTH_2))
find = embeddings.finder(["EasyNegative", "easy", "style.v2"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a cat", []),
        ("easynegative, EasyNegative", ["EasyNegative"]),
        ("(easy:1.2), [style.v2].", ["easy", "style.v2"]),
        ("uneasy easy-going easy_ style.v21 style.v2.5 my.easy", []),
        ("embedding:EASY and embedding:style.v2.", ["embedding:easy", "embedding:style.v2"]),
        ("une éeasy, easyé, ea\u017fy, \u0130easy", []),
        ("Embedding:nothing.here, easy", ["easy", "embedding:nothing.here"]),
    ],
)
def test_a_name_is_a_word_of_its_own_in_any_case(text: str, names: list[str]) -> None:
    assert find(text) == names


def test_a_name_is_replaced_where_it_is_found() -> None:
    text = "Easy, (embedding:easynegative:1.3) uneasy"
    assert embeddings.replaced(text, {"easy": "<e>", "EasyNegative": "<n>"}) == "<e>, (<n>:1.3) uneasy"
    assert embeddings.replaced(text, {}) == text
    assert embeddings.replaced("\u0130nk ink", {"ink": "<i>"}) == "\u0130nk <i>"


class Things:
    """A model of a family, and a textual inversion for it."""

    def __init__(self, family: str, folder: Path):
        self.family = family
        self.path = tiny_models.save(family, folder)
        self.file = folder / "Sunny.safetensors"
        self.vectors = vectors(family)
        save_file(self.vectors, self.file)
        base: Any = family
        self.models = Models(
            tiny_models.known(
                tiny_models.entry(family, self.path),
                tiny_models.entry("embedding", self.file, base=base).model_copy(update={"name": "Sunny"}),
            ),
            torch.device("cpu"),
            1 << 40,
        )

    def draw(self, *items: Item) -> list[Pixels]:
        model = self.models.get(f"tiny-{self.family}")
        teach(model, items[0].job, self.models.get)
        dress(model, items[0].job, self.models.get)
        return [picture for picture in RUNNERS["txt2img"](items, model, lambda _: None) if picture is not None]

    def plain(self, item: Item) -> Pixels:
        """By diffusers alone; its words have its own brackets."""
        pipeline, arguments = plain_pipeline(item, self.path)
        ends = ("", "_2") if self.family == "sdxl" else ("",)
        for end, tensor in zip(ends, self.vectors.values(), strict=True):
            parts = {part: getattr(pipeline, f"{part}{end}") for part in ("tokenizer", "text_encoder")}
            pipeline.load_textual_inversion({"<sunny>": tensor}, token="<sunny>", **parts)
            for module in parts["text_encoder"].modules():  # or transformers takes the new word for the text's end
                if hasattr(module, "eos_token_id"):
                    module.eos_token_id = parts["tokenizer"].eos_token_id
        for side in ("prompt", "negative_prompt"):
            arguments[side] = embeddings.replaced(arguments[side], {"Sunny": "<sunny>"})
        return (pipeline(**arguments).images[0] * 255).round().astype(np.uint8)


def vectors(family: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    if family == "sdxl":
        return {name: torch.randn(WORDS, width) for name, width in ENCODERS}
    return {"emb_params": torch.randn(WORDS, tiny_models.WIDTH)}


@pytest.fixture(scope="module")
def things(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Things]:
    return cache(lambda family: Things(family, tmp_path_factory.mktemp(family)))


def named(seed: int, **texts: str) -> Item:
    return sample(seed, Txt2Img, embeddings=("Sunny",), **texts)


@pytest.mark.parametrize("texts", [{"prompt": "a sunny circle"}, {"negative_prompt": "blue, SUNNY"}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_named_word_changes_a_picture_as_diffusers_itself_does(
    family: str, texts: dict[str, str], things: Callable[[str], Things]
) -> None:
    mine = things(family)
    (bare,) = mine.draw(sample(3, Txt2Img, **texts))
    (drawn,) = mine.draw(named(3, **texts))
    assert far(drawn, mine.plain(named(3, **texts))) <= 1
    assert far(drawn, bare) > 1
    assert np.array_equal(mine.draw(sample(3, Txt2Img, **texts))[0], bare)  # a row that names none says words


@pytest.mark.parametrize("family", FAMILIES)
def test_a_named_word_may_weigh_and_counts_as_many_tokens_as_it_has_vectors(
    family: str, things: Callable[[str], Things]
) -> None:
    mine = things(family)
    drawn = [mine.draw(named(3, prompt=f"a {word} circle"))[0] for word in ("sunny", "(sunny:1.0)", "(sunny:1.4)")]
    assert np.array_equal(drawn[0], drawn[1])
    assert far(drawn[0], drawn[2]) > 0
    texts = mine.models.get(f"tiny-{family}").texts
    many = " ".join(["sunny"] * (tiny_models.CLIP["max_position_embeddings"] // WORDS + 1))
    assert texts.windows(sample(1, Txt2Img, prompt="a").job) == 1
    assert texts.windows(named(1, prompt=many).job) == 2


def test_vectors_of_another_architecture_are_refused_with_both_named(things: Callable[[str], Things]) -> None:
    mine = things("sdxl")
    foreign = tiny_models.entry("embedding", things("sd15").file).model_copy(update={"name": "foreign"})
    mine.models.known.models["foreign"] = foreign
    with pytest.raises(ModelError, match=r"foreign does not fit model tiny-sdxl: its words are \[32\] wide") as caught:
        teach(mine.models.get("tiny-sdxl"), sample(1, Txt2Img, embeddings=("foreign",)).job, mine.models.get)
    assert caught.value.model == "demo-shapes+foreign"


def test_a_lesson_that_failed_half_way_is_learned_the_next_time(
    things: Callable[[str], Things], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = things("sdxl")
    model = Models(mine.models.known, torch.device("cpu"), 1 << 40).get("tiny-sdxl")
    resize = model.pipeline.text_encoder_2.resize_token_embeddings

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no memory is left")

    monkeypatch.setattr(model.pipeline.text_encoder_2, "resize_token_embeddings", fail)
    with pytest.raises(MemoryError):
        teach(model, named(1).job, mine.models.get)
    monkeypatch.setattr(model.pipeline.text_encoder_2, "resize_token_embeddings", resize)
    teach(model, named(1).job, mine.models.get)
    texts = {"prompt": "a sunny circle"}
    (drawn,) = RUNNERS["txt2img"]([named(3, **texts)], model, lambda _: None)
    assert np.array_equal(drawn, mine.draw(named(3, **texts))[0])


FORMS: dict[str, Any] = {
    "a1111.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 32)}, "name": "x", "step": 9},
    "diffusers.bin": {"<x>": torch.ones(32)},
}


@pytest.mark.parametrize("name", FORMS)
def test_files_of_torch_are_read_without_running_code(name: str, tmp_path: Path) -> None:
    torch.save(FORMS[name], tmp_path / name)
    entry = tiny_models.entry("embedding", tmp_path / name)
    loaded = Models(tiny_models.known(entry), torch.device("cpu"), 1 << 40).get(entry.name)
    assert [set(tensor.unique().tolist()) for tensor in loaded.vectors] == [{1.0}]
    assert [tensor.ndim for tensor in loaded.vectors] == [2]


@pytest.mark.parametrize("name", ["words.pt", "words.bin"])
def test_a_file_that_holds_code_is_refused_and_the_code_does_not_run(name: str, tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": Trap(tmp_path / "sprung")}}, tmp_path / name)
    with pytest.raises(UsageError, match="which is code"):
        recognition.look(tmp_path / name)
    entry = tiny_models.entry("embedding", tmp_path / name)
    with pytest.raises(ModelError, match="does not load as a textual inversion"):
        Models(tiny_models.known(entry), torch.device("cpu"), 1 << 40).get(entry.name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "tensors", "base"),
    [
        ("one.safetensors", {"emb_params": torch.zeros(2, 768)}, "sd15"),
        ("two.safetensors", {"emb_params": torch.zeros(2, 1024)}, "sd2"),
        ("xl.safetensors", {"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "sdxl"),
        ("old.pt", {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}}, "sd15"),
        ("concept.bin", {"<x>": torch.zeros(768)}, "sd15"),
    ],
)
def test_a_file_says_that_it_is_one_and_what_it_goes_with(name: str, tensors: Any, base: str, tmp_path: Path) -> None:
    save = save_file if name.endswith(".safetensors") else torch.save
    save(tensors, tmp_path / name)
    assert recognition.look(tmp_path / name) == ("embedding", base)
