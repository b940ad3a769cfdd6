"""What training leaves behind: the model folder, the picture of its loss."""

import json
from copy import deepcopy
from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionPipeline
from matplotlib.figure import Figure
from transformers import CLIPTokenizer

from workers.demo.diffusion import Denoiser, scheduler


def save(denoiser: Denoiser, coder: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path) -> Path:
    """Write a diffusers folder in half precision; computing in full precision from it changes nothing visible."""
    unet, text, vae = (deepcopy(model).half() for model in (*denoiser.slow, coder))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).write_bytes((folder.parent / "tokenizer" / name).read_bytes())
    _load_in_full(folder / "text_encoder" / "config.json")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes for the owner alone
    return folder


def _load_in_full(config: Path) -> None:
    """Transformers loads in the type that the configuration names: name the one that every device computes in."""
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n")


def plot_loss(log: Path, picture: Path) -> None:
    """One curve per stage, smoothed, over its steps."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    figure = Figure(figsize=(4 * len(stages), 3), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        steps = [row["step"] for row in rows if row["stage"] == stage]
        losses = [row["loss"] for row in rows if row["stage"] == stage]
        axes.plot(steps, losses, linewidth=0.4, alpha=0.4)
        axes.plot(steps, _smooth(losses), linewidth=1.5)
        axes.set(title=stage, xlabel="step", ylabel="loss", yscale="log")
    figure.savefig(picture, dpi=100)


def _smooth(values: list[float], keep: float = 0.9) -> list[float]:
    kept, out = values[0], []
    for value in values:
        kept = keep * kept + (1 - keep) * value
        out.append(kept)
    return out
