"""Every family of Stable Diffusion draws what a plain call of diffusers draws, in every kind of job."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import ldm
import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from test_inpaint import item
from tiny_models import SIDE
from trap import Trap

from shared import catalog, families
from shared.catalog import Model
from shared.errors import ModelError
from shared.images import Pixels
from shared.jobs import Img2Img, Inpaint, Txt2Img
from workers.batches import Item
from workers.loaded import Loaded
from workers.models import Models
from workers.pipelines import call
from workers.pipelines.runners import RUNNERS

pytestmark = pytest.mark.usefixtures("one_thread")
DIFFUSION = families.of_column("model")
KINDS = [(family, kind) for family in DIFFUSION for kind in (Txt2Img, Img2Img, Inpaint)]
KINDS = [(family, kind) for family, kind in KINDS if kind is Inpaint or not family.endswith("-inpaint")]
Make = Callable[[str], Model]


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The catalog's entry for a model of that family in diffusers' format."""

    @cache
    def make(family: str) -> Model:
        return tiny_models.entry(family, tiny_models.save(family, tmp_path_factory.mktemp(family)))

    return make


@pytest.fixture(scope="module")
def loaded(entry: Make) -> Callable[[str], Loaded]:
    return cache(lambda family: load(entry(family)))


def load(entry: Model) -> Any:
    return Models(tiny_models.known(entry), torch.device("cpu"), 1 << 40).get(entry.name)


def sample(seed: int, kind: type, **fields: object) -> Item:
    settings = {"scheduler": "euler_a", "strength": 0.7, "num_inference_steps": 4, "guidance_scale": 4.0}
    return item(seed, kind, **{**settings, "negative_prompt": "blue", **fields})


def draw(items: list[Item], model: Loaded) -> list[Pixels]:
    return [picture for picture in RUNNERS[items[0].job.kind](items, model, lambda _: None) if picture is not None]


def plain_pipeline(wanted: Item, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Diffusers' own pipeline from the folder, and the arguments of a call: texts, numbers, a generator."""
    job, auto = wanted.job, diffusers.AutoPipelineForText2Image
    arguments: dict[str, Any] = {"height": job.height, "width": job.width}
    if isinstance(job, Img2Img):
        auto = diffusers.AutoPipelineForImage2Image
        arguments = {"image": call.to_floats([wanted.ready.start]), "strength": job.strength}
    if isinstance(job, Inpaint):
        auto = diffusers.AutoPipelineForInpainting
        mask = torch.from_numpy(wanted.ready.cells).float()[None, None] / 255
        arguments |= {"image": call.to_floats([wanted.ready.start]), "strength": job.strength, "mask_image": mask}
    pipeline = auto.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    return pipeline, arguments | {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt or None,
        "num_inference_steps": job.num_inference_steps,
        "guidance_scale": job.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(job.seed),
        "output_type": "np",
    }


def plain(wanted: Item, folder: Path) -> Pixels:
    """The same picture by diffusers alone."""
    pipeline, arguments = plain_pipeline(wanted, folder)
    return (pipeline(**arguments).images[0] * 255).round().astype(np.uint8)


def far(one: Pixels, other: Pixels) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("negative", ["blue", ""])
@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_family_draws_what_diffusers_itself_draws(
    family: str, kind: type, negative: str, entry: Make, loaded: Callable[[str], Loaded]
) -> None:
    mine = sample(3, kind, negative_prompt=negative)
    (drawn,) = draw([mine], loaded(family))
    expected = plain(mine, entry(family).path)
    assert drawn.shape == (SIDE, SIDE, 3) and drawn.std() > 0
    assert far(drawn, expected) <= 1


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_a_row_of_any_family_has_the_same_pixels_among_other_neighbours(
    family: str, kind: type, loaded: Callable[[str], Loaded]
) -> None:
    mine = sample(1, kind, guidance_scale=3.0)
    first = draw([mine, sample(2, kind), sample(5, kind)], loaded(family))[0]
    second = draw([sample(7, kind), sample(8, kind), mine], loaded(family))[2]
    assert np.array_equal(first, second)


@pytest.mark.parametrize("content", ["latent_noise", "latent_nothing"])
@pytest.mark.parametrize("family", DIFFUSION)
def test_every_family_can_begin_under_the_mask_with_noise_or_nothing(
    family: str, content: str, loaded: Callable[[str], Loaded]
) -> None:
    (drawn,) = draw([sample(4, Inpaint, masked_content=content)], loaded(family))
    assert drawn.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", DIFFUSION)
def test_a_single_file_draws_what_its_diffusers_folder_draws(
    family: str, suffix: str, entry: Make, loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    single = load(as_single_file(family, entry(family), tmp_path, suffix))
    mine = sample(6, Inpaint if family.endswith("-inpaint") else Txt2Img)
    assert far(draw([mine], single)[0], draw([mine], loaded(family))[0]) <= 1  # tensors lie at other places in memory


def as_single_file(family: str, folder: Model, into: Path, suffix: str = ".safetensors") -> Model:
    path = into / f"model{suffix}"
    tensors = ldm.checkpoint(diffusers.DiffusionPipeline.from_pretrained(folder.path, local_files_only=True))
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"state_dict": tensors}, path)
    described = folder.path.parent / "configs"
    return tiny_models.entry(family, path, tokenizer=tiny_models.vocabulary(into / "words"), config=described)


@pytest.mark.parametrize(
    "lacking",
    [
        "model.diffusion_model.middle_block.1.norm.weight",
        "first_stage_model.decoder.conv_out.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_a_single_file_that_lacks_a_tensor_is_refused_with_its_name(lacking: str, entry: Make, tmp_path: Path) -> None:
    single = as_single_file("sd15", entry("sd15"), tmp_path)
    save_file({name: value for name, value in load_file(single.path).items() if name != lacking}, single.path)
    with pytest.raises(ModelError, match=lacking.rsplit(".", 2)[-2]) as caught:
        load(again(single))
    assert str(single.path) in str(caught.value)


@pytest.mark.parametrize(
    "lacking",
    [
        "unet/conv_out.bias",
        "vae/decoder.conv_in.weight",
        "text_encoder/text_model.final_layer_norm.weight",
    ],
)
def test_a_folder_that_lacks_a_tensor_is_refused_with_its_name(lacking: str, entry: Make, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(entry("sd15").path, tmp_path / "model"))
    part, _, name = lacking.partition("/")
    (file,) = (folder / part).glob("*.safetensors")
    kept = {key: value for key, value in load_file(file).items() if not name.endswith(key)}
    assert len(kept) == len(load_file(file)) - 1
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ModelError, match=name.removeprefix("text_model.")):
        load(tiny_models.entry("sd15", folder))


def again(entry: Model) -> Model:
    """The entry after its files have changed on purpose."""
    return entry.model_copy(update={"identity": catalog.identity_of(entry.files())})


def test_a_file_that_was_cut_off_is_refused_with_its_name(entry: Make, tmp_path: Path) -> None:
    single = as_single_file("sd15", entry("sd15"), tmp_path)
    single.path.write_bytes(single.path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=str(single.path)):
        load(again(single))


def test_a_checkpoint_that_holds_code_is_refused_and_the_code_does_not_run(entry: Make, tmp_path: Path) -> None:
    single = as_single_file("sd15", entry("sd15"), tmp_path, ".ckpt")
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, single.path)
    with pytest.raises(ModelError, match=str(single.path)):
        load(again(single))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("family", "other"), [("sd15", "sd15-inpaint"), ("sdxl-inpaint", "sdxl"), ("sd2", "sdxl"), ("sdxl", "sd15")]
)
def test_a_model_of_another_family_is_refused_with_both_named(family: str, other: str, entry: Make) -> None:
    with pytest.raises(ModelError, match=families.FAMILIES[other].title):
        load(entry(family).model_copy(update={"family": other}))


def test_a_unet_that_takes_the_guidance_as_an_input_is_refused(entry: Make, tmp_path: Path) -> None:
    shutil.copytree(entry("sd15").path, tmp_path / "lcm")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "lcm", local_files_only=True)
    config = {**pipeline.unet.config, "time_cond_proj_dim": 8}
    diffusers.UNet2DConditionModel.from_config(config).save_pretrained(tmp_path / "lcm" / "unet")
    with pytest.raises(ModelError, match=r"distilled to take the guidance as an input .* use the model that it was"):
        load(tiny_models.entry("sd15", tmp_path / "lcm"))
