"""Trains a small Stable Diffusion model from nothing: python -m workers.demo.train --config FILE"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from shared.catalog import identity
from workers.demo import autoencoder, data, diffusion, export, loop, text
from workers.demo.config import Config, ConfigError, MasksConfig, load
from workers.demo.data import Pictures
from workers.demo.progress import Progress

DEFAULT_OUT = Path(".pixelmill/train/demo-shapes")


def train(config: Config, out: Path, progress: Progress) -> Path:
    """Run all stages, or what is left of them; the finished model folder."""
    place = loop.Place(out, config.seed, config.bf16, progress)
    progress.say("pictures: drawing" if config.data.folder is None else f"pictures: reading {config.data.folder}")
    pictures = data.load(config)
    if config.start_from is None:
        tokenizer = text.train_tokenizer(pictures.texts(), config.data, out / "tokenizer")
        tokens = text.tokenize_all(tokenizer, pictures)
        coder = train_autoencoder(config, pictures, place)
        encoder = train_text(config, pictures, tokenizer, tokens, place)
        unet = new_unet(config, coder)
    else:
        tokenizer, coder, encoder, unet = finished(config.start_from, out)
        tokens = text.tokenize_all(tokenizer, pictures)
    denoiser = train_unet(config, pictures, tokenizer, tokens, coder, diffusion.Denoiser(unet, encoder), place)
    export.plot_loss(place.log, out / "loss.png")
    return export.save(denoiser, coder, tokenizer, out / "model")


def train_autoencoder(config: Config, pictures: Pictures, place: loop.Place) -> AutoencoderKL:
    torch.manual_seed(config.seed)
    model = autoencoder.build(config.autoencoder, config.data.size)
    task = autoencoder.Task(config.autoencoder, pictures, model)
    loop.run("autoencoder", task, model, config.autoencoder, place)
    autoencoder.forget_spread(model)
    return model


def train_text(
    config: Config, pictures: Pictures, tokenizer: CLIPTokenizer, tokens: torch.Tensor, place: loop.Place
) -> CLIPTextModel:
    torch.manual_seed(config.seed + 1)
    model = text.Matcher(config.text, text.build(config.text, tokenizer))
    task = text.Task(config.text, text.shrink(pictures, config.text.picture), tokens, model)
    loop.run("text", task, model, config.text, place)
    return model.text


def new_unet(config: Config, coder: AutoencoderKL) -> UNet2DConditionModel:
    torch.manual_seed(config.seed + 2)
    size = config.data.size // 2 ** (len(config.autoencoder.channels) - 1)
    return diffusion.build(config.diffusion, coder.config.latent_channels, size, config.text.width)


def finished(folder: Path, out: Path) -> tuple[CLIPTokenizer, AutoencoderKL, CLIPTextModel, UNet2DConditionModel]:
    """The parts of a model that was trained before. Raises ConfigError if there is none."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        shutil.copytree(folder / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
        kinds = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}
        parts = [
            kind.from_pretrained(folder / name, local_files_only=True, dtype=torch.float32)
            for name, kind in kinds.items()
        ]
    except (OSError, ValueError) as error:
        raise ConfigError(f"start_from: {folder} holds no model that can be trained on: {error}") from error
    return tokenizer, *parts


def train_unet(
    config: Config,
    pictures: Pictures,
    tokenizer: CLIPTokenizer,
    tokens: torch.Tensor,
    coder: AutoencoderKL,
    model: diffusion.Denoiser,
    place: loop.Place,
) -> diffusion.Denoiser:
    latents = encode_pictures(coder, pictures, place)
    if config.start_from is None:  # else the UNet knows latents of the scale that its autoencoder names
        autoencoder.set_scaling(coder, latents)
    empty = text.tokenize(tokenizer, [""])[0]
    task = diffusion.Task(config.diffusion, (latents * coder.config.scaling_factor).half(), tokens, empty, model)
    with sdpa_kernel(
        SDPBackend.MATH
    ):  # the fused kernel's backward pass takes a third of a step on a CPU, this a tenth
        loop.run(
            "unet",
            task,
            model,
            config.diffusion,
            place,
            after_step=lambda step: model.average(config.diffusion.ema, step),
        )
    return model


def encode_pictures(coder: AutoencoderKL, pictures: Pictures, place: loop.Place) -> torch.Tensor:
    """NCHW float32 latents; kept beside the checkpoints, because a resumed run needs the same again."""
    kept = place.folder / "latents.pt"
    if kept.exists():
        return torch.load(kept, weights_only=True)
    place.progress.say("latents: encoding the pictures")
    with torch.autocast("cpu", torch.bfloat16, enabled=place.bf16):
        latents = autoencoder.encode(coder, pictures.images).float()
    torch.save(latents, kept)
    return latents


def prepare(config: Config | MasksConfig, out: Path, resume: bool) -> None:
    """Start a new folder, or check that the old one was made with this very configuration."""
    record, wanted = out / "config.json", config.model_dump(mode="json")
    if resume:
        if not record.exists():
            raise ConfigError(f"{out}: nothing to resume here")
        if json.loads(record.read_text()) != wanted:
            raise ConfigError(f"{out}: was started with another configuration; train without --resume to start anew")
        return
    if record.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(wanted, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.demo.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file, such as workers/demo/txt2img.toml")
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="checkpoints, loss and the model (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    options = parser.parse_args(arguments)
    try:
        config = load(options.config)
        prepare(config, options.out, options.resume)
        folder = train(config, options.out, Progress())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{folder}\nidentity {identity(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
