"""What a row puts onto a model for its pictures, and takes off again: another autoencoder, and LoRAs. What is taught,
it keeps: words that stand for textual inversions change no picture of a row that does not say them."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shared.errors import ModelError
from shared.jobs import models, models_text
from workers.loaded import Loaded
from workers.retry import is_broken_device, is_out_of_memory

warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs at once are meant
DOWN = re.compile(r"lora_down|lora_A|lora\.down|lora_linear_layer\.down")  # a tensor of each layer, as files spell it
MOST_CHARS = 300  # of diffusers' words about a misfit


class Misfit(ModelError):
    """What a row puts together does not go together."""


@dataclass
class Vae:
    """An autoencoder on a device."""

    name: str
    identity: str
    net: Any
    size_bytes: int


@dataclass
class Lora:
    """Low-rank changes of a UNet and its text encoders, as their file spells them."""

    name: str
    identity: str
    tensors: dict[str, torch.Tensor]
    size_bytes: int


@dataclass
class Embedding:
    """A textual inversion: (words, width) for each text encoder."""

    name: str
    identity: str
    vectors: Sequence[torch.Tensor]
    size_bytes: int


def teach(model: Loaded, job: Any, get: Callable[[str], Any]) -> None:
    """The words that the job's texts use; before anything is known of the texts. Raises as `dress`."""
    for name in job.embeddings:
        if name not in model.texts.tokens:
            embedding: Embedding = get(name)
            wanted = model.texts.widths()
            taken = embedding.vectors[-len(wanted) :]  # the refiner has the last one of Stable Diffusion XL's encoders
            found = [vectors.shape[1] for vectors in taken]
            if found != wanted:
                misfit = _misfit(name, model, f"its words are {found} wide, those of the model's encoders {wanted}")
                misfit.model = models_text(models(job).values())
                raise misfit
            model.texts.learn(name, taken)


def dress(model: Loaded, job: Any, get: Callable[[str], Any]) -> None:
    """Put onto the model what the job names, and take off what it does not; `get` loads by name.

    Raises ModelError that names what does not fit.
    """
    try:
        if job.vae != model.vae:
            _wear_vae(model, get(job.vae) if job.vae else None)
            model.vae = job.vae
        wanted = tuple(job.loras)
        if wanted != model.loras:
            _take_off(model)
            _put_on(model, [(get(name), weight) for name, weight in wanted])
            model.loras = wanted
    except BaseException as error:  # whatever ended it, a cancel too: nothing half on may stay for the next batch
        _take_off(model)
        if isinstance(error, Misfit):
            error.model = models_text(models(job).values())  # together; each of them may serve others
        raise


def _wear_vae(model: Loaded, vae: Vae | None) -> None:
    net: Any = model.own_vae if vae is None else vae.net
    if vae is not None and (found := _shape(net)) != (own := _shape(model.own_vae)):
        raise _misfit(vae.name, model, f"it has {found} latent channels and levels, the model's own {own}")
    for pipeline in model.pipelines:
        pipeline.register_modules(vae=net)


def _shape(vae: Any) -> tuple[int, int]:
    return vae.config.latent_channels, len(vae.config.block_out_channels)


def _put_on(model: Loaded, loras: Sequence[tuple[Lora, float]]) -> None:
    pipeline, names = model.pipeline, [f"lora_{i}" for i in range(len(loras))]
    for (lora, _), name in zip(loras, names, strict=True):
        try:
            pipeline.load_lora_weights(dict(lora.tensors), adapter_name=name)
        except Exception as error:  # diffusers and peft raise what they like; all else means this
            if is_out_of_memory(error) or is_broken_device(error):
                raise
            raise _misfit(lora.name, model, str(error)) from error
        fitted, held = _fitted(pipeline, name), sum(bool(DOWN.search(tensor)) for tensor in lora.tensors)
        if fitted < held or not held:
            raise _misfit(lora.name, model, f"{fitted} of its {held} layers belong to parts of the model")
    if loras:
        pipeline.set_adapters(names, [weight for _, weight in loras])
    model.texts.forget()


def _fitted(pipeline: Any, adapter: str) -> int:
    """How many layers of the model wear this one."""
    nets = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return sum(adapter in getattr(layer, "lora_A", ()) for net in nets for layer in net.modules())


def _take_off(model: Loaded) -> None:
    if model.pipeline is not None and model.pipeline.get_list_adapters():
        model.pipeline.unload_lora_weights()
    model.loras = ()
    model.texts.forget()


def _misfit(name: str, model: Loaded, why: str) -> Misfit:
    lines = why.strip().splitlines() or [""]
    first = next((line.strip() for line in lines if "size mismatch" in line), lines[0])
    more = f" (and {len(lines) - 1} more lines of the kind)" if len(lines) > 1 else ""
    return Misfit(f"{name} does not fit model {model.name}: {first[:MOST_CHARS]}{more}")
