"""`produce models`: what a file is, is told by its header; what is no model of a known family is refused by name."""

import json
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import diffusers
import ldm
import pytest
import tiny_models
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from trap import Trap

from producer import cli, recognition
from shared import catalog, families
from shared.errors import UsageError

DIFFUSION = [*families.of_column("model"), *families.of_column("refiner")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of every family in diffusers' format."""
    return {family: tiny_models.save(family, tmp_path_factory.mktemp(family)) for family in DIFFUSION}


@pytest.fixture(scope="module")
def tensors(folders: dict[str, Path]) -> dict[str, ldm.Tensors]:
    """The same under the names of single files."""
    load = diffusers.DiffusionPipeline.from_pretrained
    return {family: ldm.checkpoint(load(folder, local_files_only=True)) for family, folder in folders.items()}


def single(tensors: ldm.Tensors, into: Path, suffix: str = ".safetensors") -> Path:
    path = into / f"model{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save({"state_dict": tensors, "step": 3}, path)
    return path


@pytest.mark.parametrize("family", DIFFUSION)
def test_a_folder_of_diffusers_says_its_family(family: str, folders: dict[str, Path]) -> None:
    assert recognition.look(folders[family]).family == family


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("family", DIFFUSION)
def test_a_single_file_says_its_family(
    family: str, suffix: str, tensors: dict[str, ldm.Tensors], tmp_path: Path
) -> None:
    assert recognition.look(single(tensors[family], tmp_path, suffix)).family == family


@pytest.mark.parametrize("name", ["demo-shapes", "demo-sam", "demo-clipseg"])
def test_the_models_that_ship_say_their_families(name: str) -> None:
    entry = catalog.load().models[name]
    assert recognition.look(entry.path).family == entry.family


@pytest.mark.parametrize(
    ("name", "width", "base"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", 768, "sd15"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", 2048, "sdxl"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.a.weight", 1024, "sd2"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", 32, None),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 768, None),
    ],
)
def test_a_lora_says_what_it_goes_with_by_the_width_of_its_texts(
    name: str, width: int, base: str | None, tmp_path: Path
) -> None:
    found = recognition.look(single({name: torch.zeros(4, width)}, tmp_path))
    assert found == ("lora", base)


def test_an_autoencoder_alone_is_known_and_needs_a_word_about_its_models(
    models_toml: Path, tensors: dict[str, ldm.Tensors], capsys: pytest.CaptureFixture[str]
) -> None:
    vae = {k.removeprefix("first_stage_model."): v for k, v in tensors["sdxl"].items() if "first_stage" in k}
    path = str(single(vae, models_toml.parent))
    assert cli.main(["models", "add", path]) == 2
    assert "give --base" in capsys.readouterr().err
    assert cli.main(["models", "add", path, "--base", "sdxl", "--name", "fine"]) == 0
    entry = catalog.load(models_toml).models["fine"]
    assert (entry.family, entry.base) == ("vae", "sdxl")


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("emb_params", (2, 999), "found a textual inversion of no such model"),
        ("model.diffusion_model.input_blocks.0.0.weight", (320, 4, 3, 3), "found a UNet without a text encoder"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", (4,), "found a model of the family Flux"),
        ("weight", (1,), "found tensors of no known model"),
    ],
)
def test_other_files_are_refused_with_what_they_are(name: str, shape: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        recognition.look(single({name: torch.zeros(shape)}, tmp_path))


def test_a_unet_of_other_channels_is_refused(tensors: dict[str, ldm.Tensors], tmp_path: Path) -> None:
    other = tensors["sd15"] | {recognition.CHANNELS: torch.zeros(16, 8, 3, 3)}
    with pytest.raises(UsageError, match="takes 8 channels; expected 4, or 9"):
        recognition.look(single(other, tmp_path))


def test_a_refiner_that_inpaints_is_none(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sdxl-refiner"], tmp_path / "refiner"))
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 9}))
    with pytest.raises(UsageError, match=r"takes 9 channels; expected 4$"):
        recognition.look(folder)


def test_a_file_that_was_cut_off_is_refused(tensors: dict[str, ldm.Tensors], tmp_path: Path) -> None:
    path = single(tensors["sd15"], tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="get the file again"):
        recognition.look(path)


def test_a_checkpoint_that_holds_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "model.ckpt")
    with pytest.raises(UsageError, match="which is code"):
        recognition.look(tmp_path / "model.ckpt")
    assert not (tmp_path / "sprung").exists()


@given(st.binary(max_size=300), st.sampled_from([".safetensors", ".ckpt"]))
def test_bytes_that_are_no_model_are_refused(tmp_path_factory: pytest.TempPathFactory, body: bytes, end: str) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"model{end}"
    path.write_bytes(body)
    with pytest.raises(UsageError):
        recognition.look(path)


@given(st.binary(max_size=200))
def test_a_header_that_is_no_table_of_tensors_is_refused(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UsageError):
        recognition.look(path)


# --- produce models ---


@pytest.fixture
def models_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "models.toml"
    monkeypatch.setenv("PIXELMILL_MODELS", str(path))
    return path


def test_a_folder_that_is_added_stands_in_the_catalog(models_toml: Path, folders: dict[str, Path]) -> None:
    assert cli.main(["models", "add", str(folders["sdxl"]), "--name", "mine", "--default"]) == 0
    known = catalog.load(models_toml)
    mine = known.models["mine"]
    assert (mine.family, mine.defaults.width, mine.identity) == ("sdxl", 1024, catalog.identity(folders["sdxl"]))
    assert known.defaults["model"] == "mine"


def test_a_single_file_is_added_with_the_tokenizer_beside_it(
    models_toml: Path, tensors: dict[str, ldm.Tensors]
) -> None:
    folder = tiny_models.vocabulary(models_toml.parent / "my models")
    path = single(tensors["sd15"], folder)
    assert cli.main(["models", "add", str(path), "--name", "one.five"]) == 0
    entry = tomllib.loads(models_toml.read_text())["models"]["one.five"]
    assert (entry["path"], entry["tokenizer"]) == ("my models/model.safetensors", "my models")
    known = catalog.load(models_toml).models["one.five"]
    assert known.identity == catalog.identity_of(known.files())
    assert sorted(known.files()) == ["model.safetensors", "tokenizer/merges.txt", "tokenizer/vocab.json"]


def test_a_single_file_without_a_tokenizer_is_refused_and_nothing_is_written(
    models_toml: Path, tensors: dict[str, ldm.Tensors], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models", "add", str(single(tensors["sd15"], models_toml.parent))]) == 2
    assert "give --tokenizer DIR" in capsys.readouterr().err
    assert not models_toml.exists()


@pytest.mark.parametrize("name", ["mine", "demo-shapes"])
def test_a_name_that_is_taken_is_refused_and_the_catalog_stays(
    name: str, models_toml: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["models", "add", str(folders["sd15"]), "--name", "mine"])
    before = models_toml.read_bytes()
    assert cli.main(["models", "add", str(folders["sd2"]), "--name", name]) == 2
    assert "another name" in capsys.readouterr().err
    assert models_toml.read_bytes() == before


def test_what_stood_in_the_catalog_stays(models_toml: Path, folders: dict[str, Path]) -> None:
    models_toml.write_text('# mine\ndefault = "demo-shapes"  # for now\n')
    cli.main(["models", "add", str(folders["sd15"]), "--name", "a", "--default"])
    cli.main(["models", "add", str(folders["sd2"]), "--name", "b"])
    assert models_toml.read_text().startswith('# mine\ndefault = "a"\n')
    assert {"a", "b"} <= set(catalog.load(models_toml).models)


def test_all_models_are_listed_with_their_families_and_whether_they_are_here(
    models_toml: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["models", "add", str(folders["sd15"]), "--name", "mine"])
    models_toml.write_text(models_toml.read_text().replace(str(folders["sd15"]), "nowhere"))
    capsys.readouterr()
    assert cli.main(["models", "--json"]) == 0
    found = {facts["model"]: facts for facts in json.loads(capsys.readouterr().out)}
    assert found["mine"]["here"] is False and found["demo-shapes"]["here"] is True
    assert found["demo-shapes"]["default"] is True and found["mine"]["family"] == "sd15"
    assert cli.main(["models"]) == 0
    assert "demo-sam" in capsys.readouterr().out


def test_a_link_to_a_file_is_added_under_its_own_name(models_toml: Path, tensors: dict[str, ldm.Tensors]) -> None:
    folder = tiny_models.vocabulary(models_toml.parent / "snapshot")
    blob = single(tensors["sd15"], models_toml.parent).rename(models_toml.parent / "0123abc")
    (folder / "linked.safetensors").symlink_to(blob)
    assert cli.main(["models", "add", str(folder / "linked.safetensors")]) == 0
    linked = catalog.load(models_toml).models["linked"]
    assert linked.identity == catalog.identity_of(linked.files()) and len(linked.files()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "ink: a;b"], "letters, digits"),
        (["--config", "nowhere"], "there is no folder nowhere"),
        (["--tokenizer", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    arguments: list[str], words: str, models_toml: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models", "add", str(folders["sd15"]), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not models_toml.exists()


def test_several_at_once_are_all_added(models_toml: Path, folders: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "producer.cli", "models", "add", str(folders["sd15"]), "--name"]
    running = [subprocess.Popen([*command, f"m{number}"]) for number in range(4)]
    assert [process.wait(120) for process in running] == [0] * 4
    assert {f"m{number}" for number in range(4)} <= set(catalog.load(models_toml).models)


def test_whoever_adds_waits_for_another_that_writes(models_toml: Path, folders: dict[str, Path]) -> None:
    adding = threading.Thread(target=cli.main, args=(["models", "add", str(folders["sd15"]), "--name", "mine"],))
    with FileLock(models_toml.with_name(f".{models_toml.name}.lock")):
        adding.start()
        adding.join(2)
        assert adding.is_alive()
        assert not models_toml.exists()
    adding.join(60)
    assert "mine" in catalog.load(models_toml).models


def test_a_default_that_cannot_be_set_is_said_and_nothing_changes(
    models_toml: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = 'note = """\ndefault = "x"\n"""\n'
    models_toml.write_text(before)
    assert cli.main(["models", "add", str(folders["sd15"]), "--name", "mine", "--default"]) == 2
    assert "write default = 'mine' yourself" in capsys.readouterr().err
    assert models_toml.read_text() == before
