"""Trains the small mask models from nothing: python -m workers.demo.train_masks --config FILE"""

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer, ViTImageProcessor

from shared.catalog import identity
from workers.demo import clipseg, loop, pictures, sam
from workers.demo.config import ConfigError, MasksConfig, read
from workers.demo.pictures import Pictures
from workers.demo.progress import Progress
from workers.demo.train import prepare

DEFAULT_OUT = Path(".pixelmill/train/demo-masks")
TOKENIZER = Path(__file__).parent / "weights" / "demo-shapes" / "tokenizer"  # it knows the words of scenes already


def train(config: MasksConfig, out: Path, progress: Progress) -> list[Path]:
    """Both models, or what is left of them; their folders."""
    place = loop.Place(out, config.seed, config.bf16, progress)
    progress.say("pictures: drawing")
    drawn = pictures.draw(config.pictures, config.size, config.seed)
    return [train_sam(config, drawn, place), train_clipseg(config, drawn, place)]


def train_sam(config: MasksConfig, drawn: Pictures, place: loop.Place) -> Path:
    torch.manual_seed(config.seed)
    model = sam.build(config.sam, config.size)
    loop.run("sam", sam.Task(config.sam, drawn, model), model, config.sam, place)
    return save_sam(model, config, place.folder / "demo-sam")


def train_clipseg(config: MasksConfig, drawn: Pictures, place: loop.Place) -> Path:
    torch.manual_seed(config.seed + 1)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    model = clipseg.build(config.clipseg, config.size, tokenizer)
    loop.run("clipseg", clipseg.Task(config.clipseg, drawn, tokenizer, model), model, config.clipseg, place)
    return save_clipseg(model, tokenizer, config.size, place.folder / "demo-clipseg")


def save_sam(model: Sam, config: MasksConfig, folder: Path) -> Path:
    """Half-precision tensors under the package's names, and the sizes that it builds the modules with."""
    folder.mkdir(exist_ok=True)
    tensors = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "sam.safetensors")
    sizes = config.sam.model_dump(include={"patch", "width", "layers", "heads", "decoder"})
    (folder / "config.json").write_text(json.dumps({"size": config.size, **sizes}, indent=2, sort_keys=True) + "\n")
    return _readable(folder)


def save_clipseg(model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, size: int, folder: Path) -> Path:
    """A folder as transformers reads it, in half precision."""
    processor = ViTImageProcessor(
        size={"height": size, "width": size}, image_mean=clipseg.MEAN, image_std=clipseg.SPREAD, resample=2
    )
    model.half().save_pretrained(folder)
    CLIPSegProcessor(processor, tokenizer).save_pretrained(folder)
    return _readable(folder)


def _readable(folder: Path) -> Path:
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes for the owner alone
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.demo.train_masks", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file, such as workers/demo/masks.toml")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="checkpoints and models (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    options = parser.parse_args(arguments)
    try:
        config = read(options.config, MasksConfig)
        prepare(config, options.out, options.resume)
        folders = train(config, options.out, Progress())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for folder in folders:
        print(f"{folder}\nidentity {identity(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
