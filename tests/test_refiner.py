"""The refiner of Stable Diffusion XL: it ends a picture as two calls of diffusers do, and rows name it as they can."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from safetensors.torch import save_file
from test_families import as_single_file, far, load, plain_pipeline, sample

from producer import rows
from producer.rows import ReadOptions
from shared import catalog, images, jobs
from shared.catalog import Model
from shared.errors import BadInput, ModelError
from shared.families import FAMILIES
from shared.images import Pixels
from shared.jobs import Txt2Img
from shared.settings import Settings
from workers import drawing, dress, fits, memory, refiner
from workers.batches import Item
from workers.memory import ATTENTION, LADDER, OFFLOAD, VAE
from workers.models import Models
from workers.pipelines import call
from workers.pipelines.runners import RUNNERS

WORDS = 2  # of the textual inversion


class Things:
    """A tiny model of Stable Diffusion XL, refiners as a folder and as a single file, and what else a row may name."""

    def __init__(self, folder: Path) -> None:
        self.base, self.folder = tiny_models.save("sdxl", folder / "xl"), tiny_models.save("sdxl-refiner", folder / "r")
        other = tiny_models.pipeline("sdxl", folder / "xl" / "configs", seed=7)
        other.vae.save_pretrained(folder / "vae")
        torch.manual_seed(4)
        widths = {"clip_l": tiny_models.WIDTH, "clip_g": tiny_models.WIDTH_2}
        self.vectors = {name: torch.randn(WORDS, width) for name, width in widths.items()}
        save_file(self.vectors, folder / "sunny.safetensors")
        polish = tiny_models.entry("sdxl-refiner", self.folder)
        self.entries = {
            "xl": tiny_models.entry("sdxl", self.base),
            "polish": polish,
            "polish-file": as_single_file("sdxl-refiner", polish, folder),
            "other-vae": tiny_models.entry("vae", folder / "vae", base="sdxl"),
            "sunny": tiny_models.entry("embedding", folder / "sunny.safetensors", base="sdxl"),
        }
        self.models = self.held()

    def held(self, most_bytes: int = 1 << 40) -> Models:
        named = [entry.model_copy(update={"name": name}) for name, entry in self.entries.items()]
        return Models(tiny_models.known(*named), torch.device("cpu"), most_bytes)

    def draw(self, items: Sequence[Item], rungs: memory.Rungs = (), steps: Any = lambda _: None) -> list[Pixels]:
        """As a shard does it."""
        model, get = self.models.get("xl"), self.models.get
        dress.teach(model, items[0].job, get)
        dress.dress(model, items[0].job, get)
        with refiner.beside(model, items, get), memory.saving(model, rungs):
            return [picture for picture in RUNNERS["txt2img"](items, model, steps) if picture is not None]


@pytest.fixture(scope="module")
def things(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Things:
    return Things(tmp_path_factory.mktemp("refiner"))


def refined(seed: int, **fields: Any) -> Item:
    settings = {"num_inference_steps": 8, "refiner": "polish", "refiner_start": 0.5, "guidance_scale": 20.0}
    return sample(seed, Txt2Img, **settings | fields)


def plain_refiner(folder: Path) -> Any:
    found = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(folder, local_files_only=True)
    found.set_progress_bar_config(disable=True)
    found.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(found.scheduler.config)
    return found


def by_two_calls(item: Item, things: Things, second: Any = None, **texts: Any) -> Pixels:
    """By diffusers alone. `texts`: what is said otherwise to the refiner."""
    base, arguments = plain_pipeline(item, things.base)
    second = second or plain_refiner(things.folder)
    said = {"prompt_2": item.job.prompt_2 or None, "clip_skip": item.job.clip_skip or None}
    start = item.job.refiner_start
    latents = base(**arguments | said | {"denoising_end": start, "output_type": "latent"}).images
    again = {name: value for name, value in arguments.items() if name not in ("width", "height")}
    (picture,) = second(**again | texts, image=latents, denoising_start=start).images
    return to_pixels(picture)


def to_pixels(picture: np.ndarray) -> Pixels:
    return (picture * 255).round().astype(np.uint8)


@pytest.mark.parametrize("name", ["polish", "polish-file"])
@pytest.mark.parametrize("start", [0.5, 0.8])
def test_it_ends_a_picture_as_two_calls_of_diffusers_do(name: str, start: float, things: Things) -> None:
    item = refined(3, refiner=name, refiner_start=start)
    (drawn,) = things.draw([item])
    assert far(drawn, by_two_calls(item, things)) <= 1
    (alone,) = things.draw([refined(3, refiner="")])
    assert far(drawn, alone) > 1


def test_pictures_of_a_batch_are_guided_each_by_its_own_scale_to_the_end(things: Things) -> None:
    items = [refined(3, guidance_scale=scale) for scale in (2.0, 20.0)]
    both = things.draw(items)
    assert all(far(picture, by_two_calls(item, things)) <= 1 for picture, item in zip(both, items, strict=True))
    assert far(*both) > 1


def test_it_reads_what_the_second_encoder_reads_and_leaves_out_as_many_layers(things: Things) -> None:
    item = refined(3, prompt="a star", prompt_2="a red circle", negative_prompt="blue", clip_skip=1)
    (drawn,) = things.draw([item])
    assert far(drawn, by_two_calls(item, things, prompt="a red circle", clip_skip=1)) <= 1
    found = things.models.get("polish").texts.arguments([item.job])
    said = {"prompt": "a red circle", "negative_prompt": "blue", "clip_skip": 1}
    expected = plain_refiner(things.folder).encode_prompt(**said, device="cpu")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    assert all(torch.allclose(found[name], one, atol=1e-5) for name, one in zip(names, expected, strict=True))


def test_rows_that_are_as_long_for_the_model_are_as_long_for_the_refiner(things: Things) -> None:
    long = "a large red circle on a blue background, and a small green star beside it, " * 2
    items = [refined(3, prompt=long, prompt_2="a (red:1.4) circle"), refined(4, prompt="a star", prompt_2=long)]
    texts = things.models.get("polish").texts
    both, first = texts.arguments([item.job for item in items]), texts.arguments([items[0].job])
    assert both["prompt_embeds"].shape == (2, 2 * tiny_models.CLIP["max_position_embeddings"], tiny_models.WIDTH_2)
    assert torch.equal(both["prompt_embeds"][0], first["prompt_embeds"][0])
    assert len(things.draw(items)) == 2


def test_it_knows_the_textual_inversions_of_the_second_encoder(things: Things) -> None:
    second = plain_refiner(things.folder)
    parts = {"tokenizer": second.tokenizer_2, "text_encoder": second.text_encoder_2}
    second.load_textual_inversion({"<sunny>": things.vectors["clip_g"]}, token="<sunny>", **parts)
    for module in second.text_encoder_2.modules():  # or transformers takes the new word for the text's end
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = second.tokenizer_2.eos_token_id
    item = refined(3, prompt="a star", prompt_2="a sunny circle", embeddings=("sunny",))
    (drawn,) = things.draw([item])
    assert far(drawn, things.draw([refined(3, prompt="a star", prompt_2="a sunny circle")])[0]) > 1
    texts = things.models.get("polish").texts
    said = second.encode_prompt("a <sunny> circle", device="cpu", do_classifier_free_guidance=False)[0]
    assert torch.allclose(texts.encode(f"a {texts.tokens['sunny']} circle").embeds, said, atol=1e-5)


def test_it_decodes_with_the_rows_autoencoder_and_then_has_its_own_again(things: Things) -> None:
    item, second = refined(3, vae="other-vae"), plain_refiner(things.folder)
    second.register_modules(vae=diffusers.AutoencoderKL.from_pretrained(things.entries["other-vae"].path))
    (drawn,) = things.draw([item])
    assert far(drawn, by_two_calls(item, things, second)) <= 1
    assert far(drawn, by_two_calls(item, things)) > 1
    (own,) = things.draw([refined(3)])
    assert far(own, by_two_calls(item, things)) <= 1


def test_a_second_pass_begins_with_what_the_refiner_ended(things: Things) -> None:
    item = refined(3, hires_scale=1.5, hires_steps=5, hires_strength=0.6)
    start = Image.fromarray(by_two_calls(item, things)).resize((96, 96), Image.Resampling.LANCZOS)
    base, arguments = plain_pipeline(item, things.base)
    second: Any = diffusers.AutoPipelineForImage2Image.from_pipe(base)
    second.set_progress_bar_config(disable=True)
    arguments = {name: value for name, value in arguments.items() if name not in ("width", "height")}
    arguments |= {"image": call.to_floats([np.asarray(start)]), "num_inference_steps": 5, "strength": 0.6}
    (drawn,) = things.draw([item])
    assert far(drawn, to_pixels(second(**arguments).images[0])) <= 1


def test_its_steps_count_on_from_those_of_the_model(things: Things) -> None:
    seen: list[int] = []
    things.draw([refined(3)], steps=seen.append)
    assert seen == [*range(8)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"refiner_start": 0.9, "scheduler": "euler_sgm_uniform"}, "leaves the refiner none of 8 steps"),
        ({"refiner_start": 0.02}, "leaves the model none of 8 steps of euler_a: choose another share"),
    ],
)
def test_a_share_that_leaves_one_of_the_two_without_a_step_fails_its_row(
    fields: dict[str, Any], words: str, things: Things
) -> None:
    with pytest.raises(BadInput, match=words):
        things.draw([refined(3, **fields)])


# --- memory ---


def test_it_saves_memory_with_the_model_and_nothing_is_left_switched_on(things: Things) -> None:
    item = refined(3, width=128, height=128)
    (plain,), (tiled,) = things.draw([item]), things.draw([item], (VAE,))
    assert far(plain, tiled) > 1
    assert far(things.draw([item], (ATTENTION, OFFLOAD))[0], plain) <= 1
    assert far(things.draw([item], LADDER)[0], tiled) <= 1
    assert np.array_equal(things.draw([item])[0], plain)
    assert fits.key(item.job, "i", "d", 1) != fits.key(refined(3, refiner="", width=128, height=128).job, "i", "d", 1)


def test_it_is_at_hand_only_while_its_rows_are_drawn_and_may_leave_memory_then(things: Things) -> None:
    models, shard = things.held(most_bytes=1), "xl+sunny+polish"
    model = models.get("xl", beside=shard)
    with refiner.beside(model, [refined(3, embeddings=("sunny",))], partial(models.get, beside=shard)):
        polish = model.refiner
        assert models.get("polish", beside=shard) is polish
    assert model.refiner is None
    assert models.get("xl", beside=shard) is model and models.get("polish", beside=shard) is polish
    models.get("xl")
    assert models.get("polish") is not polish


def test_a_shard_draws_with_the_refiner_that_its_rows_name(things: Things) -> None:
    models = things.models
    item = replace(refined(3), ready=None)
    (drawn,), _ = drawing.draw([item], models.get("xl"), (), models.get, lambda _: None)
    picture = drawn()
    assert picture is not None
    assert np.array_equal(picture, things.draw([item])[0])


# --- models of other kinds ---


@pytest.mark.parametrize(("name", "other"), [("xl", "sdxl-refiner"), ("polish", "sdxl"), ("other-vae", "sdxl-refiner")])
def test_a_refiner_in_the_place_of_its_model_and_another_in_its_place_are_refused(
    name: str, other: str, things: Things
) -> None:
    with pytest.raises(ModelError, match=FAMILIES[other].title) as caught:
        load(things.entries[name].model_copy(update={"family": other}))
    parts = {"xl": "its parts are those of Stable Diffusion XL,", "polish": "its parts are those of the refiner of"}
    assert parts.get(name, "does not load as") in str(caught.value)


def test_a_folder_that_does_not_speak_of_scores_is_read_as_a_refiner_all_the_same(
    things: Things, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(things.folder, tmp_path / "refiner"))
    index = json.loads((folder / "model_index.json").read_text())
    del index["requires_aesthetics_score"]
    (folder / "model_index.json").write_text(json.dumps(index))
    found = load(tiny_models.entry("sdxl-refiner", folder))
    assert found.pipeline.config.requires_aesthetics_score


# --- rows ---


def known(identity: str = "b" * 64) -> catalog.Catalog:
    found = catalog.load()
    families = {"big": "sdxl", "big-inpaint": "sdxl-inpaint", "polish": "sdxl-refiner"}
    entries = {
        name: Model(name=name, family=family, path=Path(name), identity=identity if name == "polish" else "a" * 64)
        for name, family in families.items()
    }
    return found.model_copy(update={"models": found.models | entries})


def check(folder: Path, text: str, known: catalog.Catalog) -> tuple[list[jobs.Row], list[Any]]:
    path = folder / "refined.csv"
    path.write_text(text)
    report = rows.check(path, ReadOptions(), known, Settings())
    if report.faults:
        return [], report.faults
    found = rows.read(path, ReadOptions(), known, Settings(), report)
    return [jobs.Row.model_validate(json.loads(entry.text)) for entry in found], []


def test_a_row_names_it_as_other_tools_do_and_without_it_its_start_means_nothing(tmp_path: Path) -> None:
    text = "prompt,Model,Refiner,Refiner switch at\na,big,polish,0.7\na,big,polish,\na,big,,0.7\na,big,,\n"
    made, _ = check(tmp_path, text, known())
    found = [(row.job.refiner, row.job.refiner_start) for row in made if isinstance(row.job, Txt2Img)]
    assert found == [("polish", 0.7), ("polish", 0.8), ("", 0.8), ("", 0.8)]
    assert len({jobs.batch_key(row.job) for row in made}) == 3
    assert jobs.models(made[0].job) == {"model": "big", "refiner": "polish"}


def test_another_refiner_of_the_same_name_makes_another_job(tmp_path: Path) -> None:
    text = "prompt,seed,model,refiner\na,1,big,polish\na,1,big,\n"
    one, other = (check(tmp_path, text, known(letter * 64))[0] for letter in "bc")
    assert [a.job_id == b.job_id for a, b in zip(one, other, strict=True)] == [False, True]
    assert one[0].job_id == jobs.job_id(one[0].job.model_dump(mode="json"), {"model": "a" * 64, "refiner": "b" * 64})


@pytest.mark.parametrize(
    ("cells", "column", "words"),
    [
        ("big,polsh,,,9,", "refiner", "expected one of polish; did you mean 'polish'?"),
        ("big,big,,,9,", "refiner", "expected one of polish; 'big' is Stable Diffusion XL"),
        ("big,big-inpaint,,,9,", "refiner", "'big-inpaint' is Stable Diffusion XL for inpainting"),
        ("big,demo-sam,,,9,", "refiner", "'demo-sam' is Segment Anything"),
        ("polish,,,,9,", "model", "'polish' is the refiner of Stable Diffusion XL"),
        ("demo-shapes,polish,,,9,", "refiner", "because model 'demo-shapes' is none of Stable Diffusion XL"),
        ("big,polish,1,,9,", "refiner_start", "a number from 0.01 to 0.99"),
        ("big,polish,0.1,,9,", "refiner_start", "leave the model itself one at least: from 0.12"),
        ("big,polish,0.5,,1,", "num_inference_steps", "2 steps at least, because of the refiner"),
        ("big,polish,,0.6,9,", "guidance_end", "an empty cell, because with a refiner all steps are guided"),
        ("big,polish,,,9,rocket.jpg", "refiner", "because kind 'img2img' has no use for refiner"),
    ],
)
def test_a_refiner_that_cannot_be_is_refused_with_line_and_column(
    cells: str, column: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "rocket.jpg").write_bytes(Path("examples/images/rocket.jpg").read_bytes())
    header = "prompt,model,refiner,refiner_start,guidance_end,num_inference_steps,image"
    _, (fault,) = check(tmp_path, f"{header}\na,{cells}\n", known())
    assert (fault.line, fault.column) == (2, column)
    assert words in str(fault)


def test_it_stands_in_the_parameters_as_a1111_writes_it() -> None:
    job = refined(3, hires_scale=1.5, hires_steps=9).job
    text = images.infotext(job, 0, "xl", "a" * 64, {"polish": "0123456789abcdef"})
    assert "Hires upscaler: Lanczos, Refiner: polish [0123456789], Refiner switch at: 0.5" in text
    assert "Refiner" not in images.infotext(refined(3, refiner="").job, 0, "xl", "a" * 64)
    own = json.loads(images.texts(job, 0, "xl", "a" * 64, {"polish": "b" * 64})["pixelmill"])
    assert (own["job"]["refiner"], own["job"]["refiner_start"]) == ("polish", 0.5)
