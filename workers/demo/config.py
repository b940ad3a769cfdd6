"""What a training run needs to know, read from a TOML file."""

import tomllib
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[int, Field(gt=0)]


class ConfigError(ValueError):
    """The configuration file cannot be used."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Section):
    """How long and how fast one network learns."""

    steps: Positive
    batch_size: Positive
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(50, ge=0)
    checkpoint_every: Positive = 500  # steps


class Data(_Section):
    #: ImageFolder with metadata.jsonl; empty = synthetic scenes.
    folder: Path | None = None
    #: Side of the square training pictures, in pixels.
    size: Positive = 128
    #: How many synthetic scenes are drawn.
    scenes: Positive = 30_000
    #: Captions per picture; a folder's pictures have one each.
    captions_per_scene: Positive = 4
    #: Captions that the tokenizer learns from and the longest prompt, in tokens.
    max_tokens: int = Field(32, ge=8, le=77)
    vocabulary: int = Field(1000, ge=514)


class Autoencoder(Stage):
    channels: tuple[Positive, ...] = (16, 32, 48, 64)
    layers: Positive = 1
    latent_channels: Positive = 4
    #: Side of the crops it learns from, in pixels.
    crop: Positive = 64
    #: Weight of the KL term.
    kl: float = Field(1e-5, ge=0)


class Text(Stage):
    width: Positive = 128
    layers: Positive = 3
    heads: Positive = 4
    #: Side of the small pictures that captions are matched with, in pixels.
    picture: Positive = 32


class Diffusion(Stage):
    channels: tuple[Positive, ...] = (96, 160)
    layers: Positive = 1
    heads: Positive = 4
    #: Share of captions replaced by the empty one, for classifier-free guidance.
    caption_dropout: float = Field(0.1, ge=0, lt=1)
    ema: float = Field(0.999, ge=0, lt=1)


class Config(_Section):
    seed: int = 0
    bf16: bool = True  # autocast while training
    #: A finished model folder to go on from: only its UNet and text encoder learn; empty = from nothing.
    start_from: Path | None = None
    data: Data = Data()
    autoencoder: Autoencoder
    text: Text
    diffusion: Diffusion


class Prompts(Stage):
    """The small Segment Anything model: a mask from points or a box."""

    patch: Positive = 8  # pixels
    width: Positive = 128  # of the image encoder
    layers: Positive = 5
    heads: Positive = 4
    decoder: Positive = 96  # width
    #: How often one picture is asked for a mask in a step.
    prompts_per_picture: Positive = 4


class Phrases(Stage):
    """The small CLIPSeg model: a mask from a phrase."""

    patch: Positive = 8  # pixels
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    decoder: Positive = 64  # width
    text_width: Positive = 64
    text_layers: Positive = 2
    phrases_per_picture: Positive = 2


class MasksConfig(_Section):
    """What `python -m workers.demo.train_masks` needs to know."""

    seed: int = 0
    bf16: bool = True  # autocast while training
    size: Positive = 128  # side of the pictures, in pixels
    pictures: Positive = 20_000
    sam: Prompts
    clipseg: Phrases


Read = TypeVar("Read", bound=_Section)


def load(path: Path) -> Config:
    return read(path, Config)


def read(path: Path, kind: type[Read]) -> Read:
    """Raises ConfigError that names every fault."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = (f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (found {e['input']!r})" for e in error.errors())
        raise ConfigError(f"{path}:\n" + "\n".join(faults)) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
