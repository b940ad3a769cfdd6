"""Stable Diffusion 1.x, 2.x, XL and its refiner: a diffusers folder or a single file becomes a model on a device."""

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers

from shared import catalog
from shared.errors import ModelError
from shared.families import FAMILIES, base_of
from workers import device as device_
from workers import single_file, subbatches
from workers.loaded import Loaded
from workers.reading import lacking, reading, refuse, size_bytes
from workers.single_file import MASKED_CHANNELS

diffusers.logging.disable_progress_bar()  # this is a service: its log is read by programs
transformers.logging.disable_progress_bar()

# What a model was trained with. All else in its scheduler's configuration is that sampler's own: a row chooses another,
# and no setting may leak from one into the next.
OF_THE_MODEL = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
    "timestep_spacing",
    "steps_offset",
    "original_inference_steps",  # of distilled models
    "timestep_scaling",
)


class _RowGuidance:
    """One guidance scale per image: a tensor of shape (images, 1, 1, 1), given on the CPU.

    Whether it guides at all is seen there, once: a question to the device would hold up every step.
    """

    unet: Any
    _execution_device: torch.device

    @property
    def _guidance_scale(self) -> torch.Tensor:
        return self._scale

    @_guidance_scale.setter
    def _guidance_scale(self, scale: torch.Tensor | float) -> None:
        given = torch.as_tensor(scale)
        self._guides = bool(given.gt(1).any())
        self._scale = given.to(self._execution_device, self.unet.dtype, non_blocking=True)

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guides


class Txt2Img(_RowGuidance, diffusers.StableDiffusionPipeline):
    """The pipeline of diffusers with one guidance scale per image."""


class Img2Img(_RowGuidance, diffusers.StableDiffusionImg2ImgPipeline):
    """The pipeline of diffusers with one guidance scale per image."""


class Inpaint(_RowGuidance, diffusers.StableDiffusionInpaintPipeline):
    """The pipeline of diffusers with one guidance scale per image.

    A UNet of 9 input channels sees mask and masked picture; with one of 4, each step puts the noised original back
    outside the mask. Which of the two, the model's own configuration says.
    """


class Txt2ImgXL(_RowGuidance, diffusers.StableDiffusionXLPipeline):
    """The pipeline of diffusers with one guidance scale per image."""


class Img2ImgXL(_RowGuidance, diffusers.StableDiffusionXLImg2ImgPipeline):
    """The pipeline of diffusers with one guidance scale per image."""


class InpaintXL(_RowGuidance, diffusers.StableDiffusionXLInpaintPipeline):
    """The pipeline of diffusers with one guidance scale per image; of 9 and 4 channels as `Inpaint`."""


@dataclass(frozen=True)
class _Pipelines:
    """One architecture: the pipeline that loads, and by kind of job those that share its parts."""

    title: str
    base: Any  # text to image; of the refiner, which begins no picture, image to image
    further: dict[str, Any]
    settings: dict[str, Any]  # that diffusers wants to be told


_SD = _Pipelines(
    "Stable Diffusion 1.x or 2.x",
    Txt2Img,
    {"img2img": Img2Img, "inpaint": Inpaint},
    {"safety_checker": None, "requires_safety_checker": False},
)
_XL = _Pipelines(
    "Stable Diffusion XL", Txt2ImgXL, {"img2img": Img2ImgXL, "inpaint": InpaintXL}, {"add_watermarker": False}
)
_REFINER = _Pipelines(
    "the refiner of Stable Diffusion XL",
    Img2ImgXL,
    {},
    {"add_watermarker": False, "requires_aesthetics_score": True},
)
PIPELINES = {"sd15": _SD, "sd2": _SD, "sdxl": _XL, "sdxl-refiner": _REFINER}


def load(entry: catalog.Model, device: torch.device) -> Loaded:
    """A diffusers folder (safetensors only) or a single file; nothing from the network."""
    pipelines = PIPELINES[base_of(entry.family)]
    pipeline = _read(entry, pipelines, device_.dtype(device))
    _check(entry, pipeline)
    pipeline.to(device)
    for net in (pipeline.unet, pipeline.vae):
        device_.place(net, device)
    subbatches.limit(pipeline.vae)
    pipeline.unet.register_forward_pre_hook(_timestep_there)
    parts, told = pipeline.components, _told(pipelines)
    further = {kind: each(**parts, **told) for kind, each in pipelines.further.items()}
    for each in (pipeline, *further.values()):
        each.set_progress_bar_config(disable=True)
    nets = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    size = size_bytes(value for net in nets for value in net.parameters())
    return Loaded(entry.name, entry.identity, device, pipeline, size, training(pipeline.scheduler.config), further)


def training(config: dict[str, Any]) -> dict[str, Any]:
    """What a scheduler's configuration says of the model; a default of the class that it names is no such word."""
    unsaid = config.get("_use_default_values", ())
    return {name: config[name] for name in OF_THE_MODEL if name in config and name not in unsaid}


def _read(entry: catalog.Model, pipelines: _Pipelines, dtype: torch.dtype) -> Any:
    with reading(entry):
        if entry.is_single_file:
            return single_file.load(entry, pipelines.base, dtype, pipelines.settings)
        pipeline = pipelines.base.from_pretrained(
            entry.path, local_files_only=True, use_safetensors=True, dtype=dtype, **pipelines.settings
        )
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                refuse(entry, name, lacking(entry.path / name, part))
        return pipeline


def _timestep_there(_unet: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Schedulers count on the CPU, see `Loaded.scheduler`; the UNet is told in passing where it is."""
    sample, timestep, *rest = given
    return sample, timestep.to(sample.device, non_blocking=True), *rest


def _told(pipelines: _Pipelines) -> dict[str, Any]:
    """The settings that are no parts: parts go from one pipeline to the next by themselves."""
    return {name: value for name, value in pipelines.settings.items() if value is not None}


def _check(entry: catalog.Model, pipeline: Any) -> None:
    """Whether its parts are those of the family that the catalog names."""
    family, channels = FAMILIES[entry.family], pipeline.unet.config.in_channels
    found = _architecture(pipeline)
    if found is not PIPELINES[base_of(entry.family)]:
        raise ModelError(f"model {entry.name}: its parts are those of {found.title}, the catalog says {family.title}")
    if pipeline.unet.config.time_cond_proj_dim is not None:
        raise ModelError(
            f"model {entry.name}: its UNet was distilled to take the guidance as an input (an LCM as a whole model), "
            "which is not supported; use the model that it was made from with an LCM LoRA"
        )
    wanted = MASKED_CHANNELS if family.inpaints_only else pipeline.vae.config.latent_channels
    if channels != wanted:
        raise ModelError(
            f"model {entry.name}: its UNet takes {channels} channels, and one of {family.title} takes {wanted}; "
            "choose the family with or without `-inpaint`"
        )


def _architecture(pipeline: Any) -> _Pipelines:
    """What the parts belong to, whatever the catalog says. The refiner reads texts with the second encoder alone."""
    if pipeline.unet.config.addition_embed_type != "text_time":
        return _SD
    return _REFINER if pipeline.text_encoder is None else _XL
