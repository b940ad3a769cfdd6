"""Training from nothing, on a model so small that a step costs milliseconds."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from shared.catalog import identity
from workers.demo import loop
from workers.demo.config import ConfigError, load
from workers.demo.train import main

TINY = """
[data]
size = 32
scenes = 24
captions_per_scene = 2
vocabulary = 560
{data}
[autoencoder]
steps = 4
batch_size = 2
learning_rate = 1e-3
channels = [8, 8, 8, 8]
crop = 32
checkpoint_every = 2
[text]
steps = 4
batch_size = 4
learning_rate = 1e-3
width = 16
layers = 1
heads = 2
picture = 16
[diffusion]
steps = {steps}
batch_size = 4
learning_rate = 1e-3
channels = [16, 16]
heads = 2
checkpoint_every = 2
"""


def tiny(folder: Path, data: str = "", steps: int = 4) -> str:
    path = folder / "tiny.toml"
    path.write_text(TINY.format(data=data, steps=steps))
    return str(path)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def logged(out: Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in (out / "loss.jsonl").read_text().splitlines()]
    return [(row["stage"], row["step"]) for row in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, not interrupted."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["--config", tiny(folder), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_a_run_leaves_a_pipeline_that_makes_pictures(trained: Path):
    pipeline = StableDiffusionPipeline.from_pretrained(trained / "model", local_files_only=True, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(["a red circle", ""], num_inference_steps=2, output_type="np").images
    assert made.shape == (2, 32, 32, 3)
    assert pipeline.safety_checker is None


def test_a_run_logs_and_plots_the_loss_of_every_stage(trained: Path):
    assert logged(trained) == [("autoencoder", 4), ("text", 4), ("unet", 4)]
    with Image.open(trained / "loss.png") as plot:
        assert plot.format == "PNG"


def test_the_tokenizer_is_one_of_clip(trained: Path):
    tokenizer = CLIPTokenizer.from_pretrained(trained / "model" / "tokenizer")
    assert tokenizer.model_max_length == 32
    assert tokenizer.convert_ids_to_tokens(tokenizer("A  RED circle")["input_ids"])[0] == "<|startoftext|>"
    assert tokenizer.decode(tokenizer("Grün, 12!")["input_ids"], skip_special_tokens=True) == "grün , 1 2 !"
    files = {path.name for path in (trained / "model" / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt"} <= files


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Given a run that dies in the third step of the UNet
    step = loop._step

    def dies(name: str, number: int, *rest: object) -> float:
        if (name, number) == ("unet", 3):
            raise KeyboardInterrupt
        return step(name, number, *rest)

    monkeypatch.setattr(loop, "_step", dies)
    config, out = tiny(tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        main(["--config", config, "--out", str(out)])
    # When it goes on
    monkeypatch.undo()
    assert main(["--config", config, "--out", str(out), "--resume"]) == 0
    # Then nothing differs
    whole, resumed = weights(trained), weights(out)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert identity(trained / "model") == identity(out / "model")
    assert logged(trained) == logged(out)


def test_a_folder_of_captioned_images_is_learned_from(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(6):
        Image.new("RGB", (40 + i, 50), (40 * i, 0, 0)).save(photos / f"{i}.png")
    lines = [{"file_name": f"{i}.png", "text": f"picture {i}"} for i in range(6)]
    (photos / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny(tmp_path, f'folder = "{photos}"')
    assert main(["--config", config, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model" / "model_index.json").exists()


def test_a_captionless_line_of_a_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    assert main(["--config", tiny(tmp_path, f'folder = "{tmp_path}"'), "--out", str(tmp_path / "out")]) == 2
    assert "metadata.jsonl, line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TINY.replace("{data}", "colour = 3").replace("{steps}", "4"), "data.colour"),
        (TINY.replace("{data}", "").replace("{steps}", "0"), "diffusion.steps"),
        ("[data", "faulty.toml"),
    ],
)
def test_a_faulty_configuration_is_refused_by_name(tmp_path: Path, text: str, named: str):
    path = tmp_path / "faulty.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load(path)


def test_resuming_with_another_configuration_is_refused(trained: Path, tmp_path: Path):
    assert main(["--config", tiny(tmp_path, steps=9), "--out", str(trained), "--resume"]) == 2


def test_the_shipped_configuration_is_valid():
    assert load(Path("workers/demo/txt2img.toml")).data.folder is None


def test_identity_changes_with_a_byte_and_with_a_name(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1")
    first = identity(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    second = identity(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, identity(tmp_path)}) == 3


def test_the_learning_rate_warms_up_and_falls():
    stage = load(Path("workers/demo/txt2img.toml")).diffusion
    rates = [loop.learning_rate(step, stage) for step in (0, stage.warmup_steps, stage.steps - 1)]
    assert rates[0] < rates[1] == stage.learning_rate
    assert rates[2] < 0.02 * stage.learning_rate


def test_training_can_go_on_from_a_finished_model(trained: Path, tmp_path: Path):
    config = tmp_path / "on.toml"
    config.write_text(f'start_from = "{trained / "model"}"\n' + TINY.format(data="", steps=3))
    out = tmp_path / "out"
    assert main(["--config", str(config), "--out", str(out)]) == 0
    assert {stage for stage, _ in logged(out)} == {"unet"}
    before, after = weights(trained), weights(out)
    assert {name: value.shape for name, value in before.items()} == {name: value.shape for name, value in after.items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    coders = [folder / "model" / "vae" / "diffusion_pytorch_model.safetensors" for folder in (trained, out)]
    assert coders[0].read_bytes() == coders[1].read_bytes()


def test_a_folder_without_a_model_cannot_be_gone_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tmp_path / "on.toml"
    config.write_text(f'start_from = "{tmp_path}"\n' + TINY.format(data="", steps=3))
    assert main(["--config", str(config), "--out", str(tmp_path / "out")]) == 2
    assert "start_from" in capsys.readouterr().err
