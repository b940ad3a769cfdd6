"""What a row puts onto a model for its pictures, and takes off again: another autoencoder, and LoRAs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shared.errors import ModelError
from workers.loaded import Loaded

warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs at once are meant


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


def dress(model: Loaded, job: Any, get: Callable[[str], Any]) -> None:
    """Put onto the model what the job names, and take off what it does not; `get` loads by name.

    Raises ModelError that names what does not fit.
    """
    if job.vae != model.vae:
        _wear_vae(model, get(job.vae) if job.vae else None)
        model.vae = job.vae
    wanted = tuple(job.loras)
    if wanted != model.loras:
        _take_off(model)
        try:
            _put_on(model, [(get(name), weight) for name, weight in wanted])
        except BaseException:
            _take_off(model)
            raise
        model.loras = wanted


def _wear_vae(model: Loaded, vae: Vae | None) -> None:
    net: Any = model.own_vae if vae is None else vae.net
    if vae is not None and net.config.latent_channels != model.own_vae.config.latent_channels:
        raise _misfit(vae.name, model, f"its latents have {net.config.latent_channels} channels")
    for pipeline in model.pipelines:
        pipeline.register_modules(vae=net)


def _put_on(model: Loaded, loras: Sequence[tuple[Lora, float]]) -> None:
    pipeline = model.pipeline
    for lora, _ in loras:
        try:
            pipeline.load_lora_weights(dict(lora.tensors), adapter_name=_plain(lora.name))
        except Exception as error:  # diffusers and peft raise what they like; all of it means this
            raise _misfit(lora.name, model, str(error)) from error
        if not any(_plain(lora.name) in names for names in pipeline.get_list_adapters().values()):
            raise _misfit(lora.name, model, "none of its tensors belongs to a part of the model")
    if loras:
        pipeline.set_adapters([_plain(lora.name) for lora, _ in loras], [weight for _, weight in loras])
    model.texts.forget()


def _take_off(model: Loaded) -> None:
    if model.pipeline.get_list_adapters():
        model.pipeline.unload_lora_weights()
    model.loras = ()
    model.texts.forget()


def _misfit(name: str, model: Loaded, why: str) -> ModelError:
    error = ModelError(f"{name} does not fit model {model.name}: {why}")
    error.model = name
    return error


def _plain(name: str) -> str:
    """Adapters are modules, whose names hold no dots."""
    return name.replace(".", "_")
