"""Models of the real formats with few and random weights: the shipped architectures, made narrow."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import workers
from shared import catalog
from shared.catalog import Catalog, Model

ARCHITECTURES = Path(workers.__file__ or "").parent / "architectures"
TOKENIZER = catalog.load().models["demo-shapes"].path / "tokenizer"
SIDE = 64  # pixels; 8 x 8 latents
WIDTH, WIDTH_2 = 32, 48  # of the text encoders; equal ones could not be told apart in a single file
CLIP = {
    "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "projection_dim": WIDTH, "vocab_size": 677, "max_position_embeddings": 32,
}  # fmt: skip
CLIP_2 = CLIP | {"hidden_size": WIDTH_2, "projection_dim": WIDTH_2}
VAE = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4, "sample_size": SIDE}
UNET = {"norm_num_groups": 8, "sample_size": SIDE // 8, "layers_per_block": 1}
UNETS = {
    "sd15": {"block_out_channels": [16, 32, 32, 32], "attention_head_dim": 2, "cross_attention_dim": WIDTH},
    "sd2": {"block_out_channels": [16, 32, 32, 32], "attention_head_dim": [1, 2, 2, 2], "cross_attention_dim": WIDTH},
    "sdxl": {
        "block_out_channels": [16, 32, 32], "attention_head_dim": [1, 2, 2], "cross_attention_dim": WIDTH + WIDTH_2,
        "transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH_2,
    },
    "sdxl-refiner": {
        "block_out_channels": [16, 32, 32, 32], "attention_head_dim": [1, 2, 2, 2], "cross_attention_dim": WIDTH_2,
        "transformer_layers_per_block": 1, "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 5 * 8 + WIDTH_2,
    },
}  # fmt: skip


def configs(family: str, into: Path) -> Path:
    """A copy of the family's architecture with few channels: what a single file of that size is read with."""
    shipped = ARCHITECTURES / family.removesuffix("-inpaint")
    for path in shipped.rglob("*.json"):
        narrow = {"unet": UNET | UNETS[shipped.name], "vae": VAE, "text_encoder": CLIP, "text_encoder_2": CLIP_2}
        config = json.loads(path.read_text()) | narrow.get(path.parent.name, {})
        target = into / path.relative_to(shipped)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(config))
    return into


def pipeline(family: str, described: Path, seed: int = 0) -> Any:
    """A model of that description; its weights are random, and the same for the same seed."""
    import diffusers

    torch.manual_seed(seed)
    unet = UNet2DConditionModel.load_config(described, subfolder="unet")
    channels = 9 if family.endswith("-inpaint") else 4
    scheduler = json.loads((described / "scheduler/scheduler_config.json").read_text())
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel.from_config({**unet, "in_channels": channels}),
        "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(described, subfolder="vae")),
        "scheduler": getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
    }
    if family == "sdxl-refiner":
        parts |= {"text_encoder": None, "tokenizer": None} | second_encoder(described)
        scored = {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
        return StableDiffusionXLImg2ImgPipeline(**parts, **scored, add_watermarker=False)
    parts |= {
        "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(described, subfolder="text_encoder")),
        "tokenizer": tokenizer("!" if family.startswith("sd2") else "<|endoftext|>", described),
    }
    if not family.startswith("sdxl"):
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(**parts)
    return StableDiffusionXLPipeline(**parts, **second_encoder(described), add_watermarker=False)


def second_encoder(described: Path) -> dict[str, Any]:
    """Of Stable Diffusion XL."""
    config = CLIPTextConfig.from_pretrained(described, subfolder="text_encoder_2")
    return {"text_encoder_2": CLIPTextModelWithProjection(config), "tokenizer_2": tokenizer("!", described)}


def save(family: str, folder: Path) -> Path:
    """A folder of diffusers, and beside it, in `configs`, what a single file of that size is read with."""
    described = configs(family, folder / "configs")
    return write(pipeline(family, described), described, folder / "model")


def write(made: Any, described: Path, folder: Path) -> Path:
    """A pipeline of that description, as a folder of diffusers."""
    made.save_pretrained(folder)
    # Published schedulers leave most of their settings unsaid; diffusers saves all of them.
    scheduler = "scheduler/scheduler_config.json"
    (folder / scheduler).write_bytes((described / scheduler).read_bytes())
    return folder


def tokenizer(pad: str, described: Path) -> CLIPTokenizer:
    encoder = json.loads(next(described.glob("text_encoder*/config.json")).read_text())
    return CLIPTokenizer.from_pretrained(TOKENIZER, pad_token=pad, model_max_length=encoder["max_position_embeddings"])


def vocabulary(folder: Path) -> Path:
    """What a single file is used with: these two files, and nothing that says what they are."""
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((TOKENIZER / name).read_bytes())
    return folder


def entry(family: str, path: Path, **more: Any) -> Model:
    """A catalog entry for what lies at `path`."""
    sizes = {"defaults": {"width": SIDE, "height": SIDE}, "limits": {"min_size": SIDE}}
    made = Model(name=f"tiny-{family}", family=family, path=path, identity="0" * 64, **sizes, **more)
    return made.model_copy(update={"identity": catalog.identity_of(made.files())})


def known(*entries: Model) -> Catalog:
    return Catalog(defaults={"model": entries[0].name}, models={each.name: each for each in entries})
