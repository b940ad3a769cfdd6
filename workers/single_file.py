"""One file that holds a whole Stable Diffusion, in the format of the original repositories, becomes a pipeline."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import load_single_file_checkpoint
from transformers import CLIPTokenizer

from shared import catalog
from shared.families import FAMILIES, base_of
from workers.reading import refuse

ARCHITECTURES = Path(__file__).with_name("architectures")
MASKED_CHANNELS = 9  # latents, mask, latents of the masked picture
# OpenCLIP, the encoder of 2.x and the second one of XL, fills short texts up with this; CLIP repeats their end.
OPEN_CLIP = {"pad_token": "!"}
TOKENIZERS: dict[str, dict[str, dict[str, str]]] = {
    "sd15": {"tokenizer": {}},
    "sd2": {"tokenizer": OPEN_CLIP},
    "sdxl": {"tokenizer": {}, "tokenizer_2": OPEN_CLIP},
    "sdxl-refiner": {"tokenizer_2": OPEN_CLIP},
}


def load(entry: catalog.Model, base: Any, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    """A pipeline of the class `base`. Raises ModelError where tensors are missing, and what diffusers raises.

    A `.ckpt` is read as tensors only (`weights_only`): one that holds code is refused.
    """
    described = entry.config or ARCHITECTURES / base_of(entry.family)
    tensors = load_single_file_checkpoint(str(entry.path), local_files_only=True)
    # Inpainting differs from its family's architecture in nothing but the channels that go in.
    channels = {"in_channels": MASKED_CHANNELS} if FAMILIES[entry.family].inpaints_only else {}
    unet = part(entry, UNet2DConditionModel, tensors, described / "unet", dtype, channels)
    vae = part(entry, AutoencoderKL, tensors, described / "vae", dtype, {})
    noise = scheduler(entry, described)
    settings = settings | {"scheduler": getattr(diffusers, noise["_class_name"]).from_config(noise)}
    how = {"config": str(described), "dtype": dtype, "local_files_only": True}
    pipeline = base.from_single_file(
        str(entry.path), unet=unet, vae=vae, **_tokenizers(entry, described), **how, **settings
    )
    for name, net in pipeline.components.items():
        # Diffusers leaves what the file lacks without values, and says nothing.
        if name.startswith("text_encoder") and net is not None:
            refuse(entry, name, [tensor for tensor, value in net.named_parameters() if value.is_meta])
    return pipeline


def scheduler(entry: catalog.Model, described: Path) -> dict[str, Any]:
    """How the model was trained."""
    config: dict[str, Any] = json.loads((described / "scheduler" / "scheduler_config.json").read_text())
    if entry.family == "sd2-inpaint" and entry.config is None:  # of 2.x as it is described, it alone predicts noise
        config["prediction_type"] = "epsilon"
    return config


def part(
    entry: catalog.Model, kind: Any, tensors: dict[str, Any], described: Path, dtype: torch.dtype, more: dict[str, int]
) -> torch.nn.Module:
    """One net of a file's tensors, by original names or those of diffusers. Raises ModelError where it lacks one."""
    config = kind.load_config(described, local_files_only=True) | more
    with torch.device("meta"):
        empty = kind.from_config(config)
    renamed = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"](checkpoint=tensors, config=config)
    refuse(entry, described.name, [name for name in empty.state_dict() if name not in renamed and name not in tensors])
    net: torch.nn.Module = kind.from_single_file(tensors, config=str(described), dtype=dtype, **more)
    return net


def _tokenizers(entry: catalog.Model, described: Path) -> dict[str, CLIPTokenizer]:
    vocabulary, merges = (entry.tokenizer / name for name in catalog.VOCABULARY)  # type: ignore[operator]  # it has one
    words = {
        "vocab": json.loads(vocabulary.read_text(encoding="utf-8")),
        "merges": [tuple(line.split()) for line in merges.read_text(encoding="utf-8").splitlines() if _is_merge(line)],
    }
    return {
        name: CLIPTokenizer(**words, **pad, model_max_length=_most_tokens(described, name))
        for name, pad in TOKENIZERS[base_of(entry.family)].items()
    }


def _most_tokens(described: Path, tokenizer: str) -> int:
    """What the encoder takes that reads this tokenizer's words."""
    encoder = described / tokenizer.replace("tokenizer", "text_encoder")
    most: int = json.loads((encoder / "config.json").read_text())["max_position_embeddings"]
    return most


def _is_merge(line: str) -> bool:
    return bool(line) and not line.startswith("#version")
