"""A safety checker: what it holds back is a failure with its reason, and is stored nowhere."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from test_families import sample
from transformers import CLIPConfig, CLIPImageProcessor

from producer import recognition
from shared import catalog
from shared.errors import ModelError
from shared.jobs import Txt2Img, batch_key
from workers import hang
from workers.models import Models
from workers.shard import ShardRun

SIDE = 32
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG: dict[str, Any] = {
    "projection_dim": 8,
    "text_config": TOWER,
    "vision_config": TOWER | {"image_size": SIDE, "patch_size": 16},
}


def save(folder: Path) -> Path:
    """One that holds back what is more like its first concept, the first picture of `pictures`, than not at all."""
    torch.manual_seed(2)
    net = StableDiffusionSafetyChecker(CLIPConfig(**CONFIG))
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    with torch.no_grad():
        seen = processor([pictures()[0]], return_tensors="pt").pixel_values
        net.concept_embeds[:] = net.visual_projection(net.vision_model(seen)[1])
        net.concept_embeds_weights.fill_(0.999)
        net.special_care_embeds_weights.fill_(2.0)
    net.save_pretrained(folder)
    return folder


def pictures() -> list[np.ndarray]:
    noise = np.random.default_rng(1)
    return [np.full((64, 64, 3), 250, np.uint8), noise.integers(0, 255, (64, 64, 3)).astype(np.uint8)]


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> catalog.Model:
    path = save(tmp_path_factory.mktemp("checker"))
    return tiny_models.entry("safety", path).model_copy(update={"name": "guard"})


def test_it_tells_pictures_apart_as_diffusers_itself_does(checker: catalog.Model) -> None:
    loaded = Models(tiny_models.known(checker), torch.device("cpu"), 1 << 40).get("guard")
    assert loaded.holds_back(pictures()) == [True, False]
    plain = StableDiffusionSafetyChecker.from_pretrained(checker.path)
    seen = CLIPImageProcessor.from_pretrained(checker.path)(pictures(), return_tensors="pt").pixel_values
    assert plain(clip_input=seen, images=[picture.copy() for picture in pictures()])[1] == [True, False]


def test_what_it_holds_back_fails_with_the_reason_and_its_neighbour_is_stored(
    checker: catalog.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_models.save("sd15", tmp_path)
    entries = tiny_models.entry("sd15", path), checker
    models = Models(tiny_models.known(*entries), torch.device("cpu"), 1 << 40)
    run: Any = SimpleNamespace(host=SimpleNamespace(models=models, settings=SimpleNamespace(hang_s=60)), errors={})
    run._get = models.get
    run._on_step = lambda _: lambda _: None
    run._without_unsafe = lambda *given: ShardRun._without_unsafe(run, *given)
    monkeypatch.setitem(ShardRun._run.__globals__["RUNNERS"], "txt2img", lambda *_: pictures())
    items = [replace(sample(seed, Txt2Img, safety_checker="guard"), ready=None) for seed in (1, 2)]
    with hang.watched(60):
        first, second = ShardRun._run(run, items, models.get("tiny-sd15"))
    assert first is None
    assert np.array_equal(second, pictures()[1])
    assert list(run.errors) == [items[0].key]
    kind, text = run.errors[items[0].key]
    assert kind == "UnsafeImage" and "the safety checker guard holds it back; nothing was stored" in text
    assert batch_key(items[0].job) != batch_key(sample(1, Txt2Img).job)


def test_a_checker_that_lacks_a_tensor_is_refused(checker: catalog.Model, tmp_path: Path) -> None:
    save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["concept_embeds"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    entry = tiny_models.entry("safety", tmp_path)
    with pytest.raises(ModelError, match=r"lacks safety_checker\.concept_embeds"):
        Models(tiny_models.known(entry), torch.device("cpu"), 1 << 40).get(entry.name)


def test_a_folder_says_that_it_is_one(checker: catalog.Model) -> None:
    assert recognition.look(checker.path) == ("safety", None)
