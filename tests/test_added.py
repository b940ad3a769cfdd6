"""Autoencoders, LoRAs and skipped layers change a picture as plain calls of diffusers do, and leave nothing behind."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import ldm
import numpy as np
import pytest
import tiny_models
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_families import KINDS, far, plain_pipeline, sample

from shared.catalog import Model
from shared.errors import BadInput, ModelError
from shared.images import Pixels
from shared.jobs import Inpaint, Txt2Img
from workers import hang
from workers.batches import Item
from workers.dress import dress
from workers.loaded import Loaded
from workers.models import Models
from workers.pipelines.runners import RUNNERS
from workers.shard import ShardRun

FAMILIES = ("sd15", "sd2", "sdxl", "sd15-inpaint")
CASES = [(family, kind) for family, kind in KINDS if family in FAMILIES]


class Things:
    """A model of a family, an autoencoder and two LoRAs for it, as files and loaded."""

    def __init__(self, family: str, folder: Path):
        self.family = family
        self.path = tiny_models.save(family, folder)
        base: Any = family.removesuffix("-inpaint")
        entries = [tiny_models.entry(family, self.path)]
        other = tiny_models.pipeline(family, folder / "configs", seed=9)
        self.vae = folder / "vae"
        other.vae.save_pretrained(self.vae)
        entries.append(added("vae", "vae", self.vae))
        entries.append(added("vae-ldm", "vae", self._ldm(other.vae, folder), base=base, config=folder / "configs/vae"))
        self.loras = {}
        for seed, name in enumerate(("one", "two.five"), 1):
            self.loras[name] = self._lora(other, folder / name, seed)
            entries.append(added(name, "lora", self.loras[name], base=base))
        self.models = Models(tiny_models.known(*entries), torch.device("cpu"), 1 << 40)

    def _ldm(self, vae: Any, folder: Path) -> Path:
        save_file({name: tensor.contiguous() for name, tensor in ldm.vae(vae).items()}, folder / "vae.safetensors")
        return folder / "vae.safetensors"

    def _lora(self, pipeline: Any, folder: Path, seed: int) -> Path:
        """Written by diffusers itself; of UNet and text encoder."""
        torch.manual_seed(seed)
        layers = {}
        targets = {"unet": ["to_q", "to_k", "to_v", "to_out.0"], "text_encoder": ["q_proj", "v_proj"]}
        for part, modules in targets.items():
            net = getattr(pipeline, part)
            net.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=modules), f"a{seed}")
            state = get_peft_model_state_dict(net, adapter_name=f"a{seed}")
            layers[f"{part}_lora_layers"] = {key: torch.randn_like(value) * 0.2 for key, value in state.items()}
        type(pipeline).save_lora_weights(folder, **layers)
        return folder / "pytorch_lora_weights.safetensors"

    def draw(self, items: list[Item]) -> list[Pixels]:
        model = self.models.get(f"tiny-{self.family}")
        dress(model, items[0].job, self.models.get)
        found = RUNNERS[items[0].job.kind](items, model, lambda _: None)
        return [picture for picture in found if picture is not None]

    def plain(self, item: Item) -> Pixels:
        """By diffusers alone."""
        job = item.job
        pipeline, arguments = plain_pipeline(item, self.path)
        if job.vae:
            pipeline.register_modules(vae=diffusers.AutoencoderKL.from_pretrained(self.vae))
        for name, _ in job.loras:
            pipeline.load_lora_weights(self.loras[name], adapter_name=name.replace(".", ""))
        if job.loras:
            names, weights = zip(*job.loras, strict=True)
            pipeline.set_adapters([name.replace(".", "") for name in names], list(weights))
        if (
            self.family != "sdxl"
        ):  # diffusers looks for a module that transformers has renamed (huggingface/diffusers#14124)
            pipeline.text_encoder.__dict__["text_model"] = pipeline.text_encoder
        images = pipeline(**arguments, clip_skip=job.clip_skip or None).images
        return (images[0] * 255).round().astype(np.uint8)


def added(name: str, family: str, path: Path, **more: Any) -> Model:
    made = tiny_models.entry(family, path, **more)
    return made.model_copy(update={"name": name})


@pytest.fixture(scope="module")
def things(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Things]:
    return cache(lambda family: Things(family, tmp_path_factory.mktemp(family)))


@pytest.mark.parametrize(
    "fields",
    [
        {"vae": "vae"},
        {"loras": (("one", 1.0),)},
        {"loras": (("one", 0.6), ("two.five", -0.4))},
        {"clip_skip": 1},
        {"vae": "vae", "loras": (("two.five", 0.8),), "clip_skip": 2},
    ],
    ids=["vae", "lora", "two loras", "clip skip", "all"],
)
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_what_is_added_changes_a_picture_as_diffusers_itself_does(
    family: str, kind: type, fields: dict[str, Any], things: Callable[[str], Things]
) -> None:
    mine = things(family)
    (bare,) = mine.draw([sample(3, kind)])
    (drawn,) = mine.draw([sample(3, kind, **fields)])
    assert far(drawn, mine.plain(sample(3, kind, **fields))) <= 1
    assert far(drawn, bare) > 1
    assert np.array_equal(mine.draw([sample(3, kind)])[0], bare)  # and nothing of it stays


def test_a_single_file_autoencoder_draws_what_its_folder_draws(things: Callable[[str], Things]) -> None:
    mine = things("sd15")
    one, other = (mine.draw([sample(4, Txt2Img, vae=name)])[0] for name in ("vae", "vae-ldm"))
    assert far(one, other) <= 1


def test_a_row_with_loras_has_the_same_pixels_among_other_neighbours(things: Callable[[str], Things]) -> None:
    mine, worn = things("sd15"), {"loras": (("one", 1.0),)}
    first = mine.draw([sample(1, Inpaint, **worn), sample(2, Inpaint, **worn)])[0]
    second = mine.draw([sample(5, Inpaint, **worn), sample(1, Inpaint, **worn)])[1]
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("family", "other"), [("sd15", "sdxl"), ("sdxl", "sd15")])
def test_a_lora_of_another_architecture_is_refused_with_both_named_and_leaves_nothing(
    family: str, other: str, things: Callable[[str], Things], tmp_path: Path
) -> None:
    mine = things(family)
    foreign = added("foreign", "lora", things(other).loras["one"])
    mine.models.known.models["foreign"] = foreign
    (bare,) = mine.draw([sample(6, Txt2Img)])
    with pytest.raises(ModelError, match=f"foreign does not fit model tiny-{family}") as caught:
        mine.draw([sample(6, Txt2Img, loras=(("foreign", 1.0),))])
    assert caught.value.model == "demo-shapes+foreign"  # what the job names, together: each may serve others
    assert len(str(caught.value)) < 500
    assert np.array_equal(mine.draw([sample(6, Txt2Img)])[0], bare)


def test_a_lora_of_parts_that_no_model_has_is_refused(things: Callable[[str], Things], tmp_path: Path) -> None:
    mine = things("sd15")
    tensors = load_file(mine.loras["one"])
    renamed = {f"transformer.{name.partition('.')[2]}": value for name, value in tensors.items()}
    save_file(renamed, tmp_path / "odd.safetensors")
    mine.models.known.models["odd"] = added("odd", "lora", tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="odd does not fit model tiny-sd15"):
        mine.draw([sample(6, Txt2Img, loras=(("odd", 1.0),))])


def test_a_model_is_whole_again_after_a_shard_with_loras(things: Callable[[str], Things]) -> None:
    mine = things("sd2")
    model: Loaded = mine.models.get("tiny-sd2")
    names = set(model.pipeline.unet.state_dict())
    mine.draw([sample(3, Txt2Img, loras=(("one", 1.0),))])
    mine.draw([sample(3, Txt2Img)])
    assert set(model.pipeline.unet.state_dict()) == names
    assert model.loras == ()


def test_a_lora_of_which_only_a_part_fits_is_refused_and_leaves_nothing(
    things: Callable[[str], Things], tmp_path: Path
) -> None:
    mine = things("sd15")
    (bare,) = mine.draw([sample(6, Txt2Img)])
    tensors = load_file(mine.loras["one"])
    odd = {name.replace("down_blocks.0.attentions", "down_blocks.0.others"): value for name, value in tensors.items()}
    assert odd.keys() != tensors.keys()
    save_file(odd, tmp_path / "part.safetensors")
    mine.models.known.models["part"] = added("part", "lora", tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match="part does not fit model tiny-sd15"):
        mine.draw([sample(6, Txt2Img, loras=(("part", 1.0),))])
    assert np.array_equal(mine.draw([sample(6, Txt2Img)])[0], bare)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_lora_that_lacks_a_tensor_is_refused_with_its_name(
    part: str, things: Callable[[str], Things], tmp_path: Path
) -> None:
    mine = things("sd15")
    tensors = load_file(mine.loras["one"])
    lacking = next(name for name in tensors if name.startswith(part) and "lora_A" in name)
    save_file({name: value for name, value in tensors.items() if name != lacking}, tmp_path / "torn.safetensors")
    mine.models.known.models["torn"] = added("torn", "lora", tmp_path / "torn.safetensors")
    with pytest.raises(ModelError, match=f"lacks lora.{lacking}"):
        mine.draw([sample(6, Txt2Img, loras=(("torn", 1.0),))])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), MemoryError(), RuntimeError("CUDA error: lost")])
def test_a_device_in_trouble_is_not_held_against_the_lora(
    error: Exception, things: Callable[[str], Things], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = things("sd15")
    model = mine.models.get("tiny-sd15")
    mine.draw([sample(6, Txt2Img)])  # wears nothing
    with monkeypatch.context() as patched:
        patched.setattr(model.pipeline, "load_lora_weights", lambda *_, **__: raise_(error))
        with pytest.raises(type(error)):
            mine.draw([sample(6, Txt2Img, loras=(("one", 1.0),))])
    assert mine.draw([sample(6, Txt2Img, loras=(("one", 1.0),))])


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("name", ["half", "eval", "a.b"])
def test_a_lora_may_have_any_name_of_the_catalog(name: str, things: Callable[[str], Things]) -> None:
    mine = things("sd15")
    for each in (name, "a_b"):
        mine.models.known.models[each] = added(each, "lora", mine.loras["one"])
    assert mine.draw([sample(6, Txt2Img, loras=((name, 1.0), ("a_b", 0.5)))])


def test_an_autoencoder_of_other_levels_is_refused(things: Callable[[str], Things], tmp_path: Path) -> None:
    mine = things("sd15")
    small = diffusers.AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4)
    small.save_pretrained(tmp_path / "small")
    mine.models.known.models["small"] = added("small", "vae", tmp_path / "small")
    with pytest.raises(ModelError, match="small does not fit model tiny-sd15"):
        mine.draw([sample(6, Txt2Img, vae="small")])


def test_a_row_that_skips_more_layers_than_there_are_fails_with_the_reason(things: Callable[[str], Things]) -> None:
    with pytest.raises(BadInput, match="clip_skip is 3; the model's text encoder has 3 layers"):
        things("sd15").draw([sample(6, Txt2Img, clip_skip=3)])


def test_a_shard_puts_on_what_its_rows_name(things: Callable[[str], Things]) -> None:
    mine = things("sd15")
    model = mine.models.get("tiny-sd15")
    host = SimpleNamespace(models=mine.models, settings=SimpleNamespace(hang_s=900), must_drain=lambda: False)
    claim: Any = SimpleNamespace(shard=SimpleNamespace(model="tiny-sd15+vae+one"))
    shard: Any = ShardRun(host, claim, SimpleNamespace(check=lambda: None), lambda _: None)  # type: ignore[arg-type]
    for fields in ({}, {"loras": (("one", 1.0),)}, {"vae": "vae"}):
        wanted = replace(sample(3, Txt2Img, **fields), ready=None)
        with hang.watched(900):  # as a worker does; else each step would set a clock that ends this process
            (drawn,) = shard._run([wanted], model)
        assert np.array_equal(drawn, mine.draw([wanted])[0])
        assert (model.loras, model.vae) == (fields.get("loras", ()), fields.get("vae", ""))


@pytest.mark.parametrize("name", ["vae", "vae-ldm"])
def test_an_autoencoder_that_lacks_a_tensor_is_refused_with_its_name(
    name: str, things: Callable[[str], Things], tmp_path: Path
) -> None:
    mine = things("sd15")
    entry = mine.models.known.models[name]
    path = tmp_path / entry.path.name
    shutil.copytree(entry.path, path) if entry.path.is_dir() else shutil.copy(entry.path, path)
    file = next(path.glob("*.safetensors")) if path.is_dir() else path
    tensors = {key: value for key, value in load_file(file).items() if key != "decoder.conv_out.bias"}
    save_file(tensors, file, {"format": "pt"})
    mine.models.known.models["torn-vae"] = added("torn-vae", "vae", path, base="sd15", config=entry.config)
    with pytest.raises(ModelError, match=r"lacks vae.decoder.conv_out.bias"):
        mine.draw([sample(6, Txt2Img, vae="torn-vae")])
