"""Samplers and schedule types by the names that users know, and the diffusers class each pair stands for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Config = dict[str, object]


@dataclass(frozen=True)
class Sampler:
    """A diffusers class and its settings, how A1111 names it, and the schedule types that it can follow."""

    class_name: str
    label: str
    schedules: tuple[str, ...] = ()
    config: Config = field(default_factory=dict)
    most_steps: int | None = None  # of a distilled model's sampler: the steps that it was trained to jump over


@dataclass(frozen=True)
class Scheduler:
    """One sampler with one schedule type."""

    class_name: str
    sampler: str  # as A1111 writes it
    schedule_type: str  # as A1111 writes it
    config: Config
    most_steps: int | None = None


# As the table of samplers in diffusers' documentation maps them.
SCHEDULES: dict[str, tuple[str, Config]] = {
    "karras": ("Karras", {"use_karras_sigmas": True}),
    "exponential": ("Exponential", {"timestep_spacing": "linspace", "use_exponential_sigmas": True}),
    "beta": ("Beta", {"timestep_spacing": "linspace", "use_beta_sigmas": True}),
    "sgm_uniform": ("SGM Uniform", {"timestep_spacing": "trailing"}),
    "uniform": ("Uniform", {"timestep_spacing": "linspace"}),
}
AUTOMATIC = "Automatic"  # what the model's own configuration says
_SIGMAS = ("karras", "exponential", "beta")
_SPACINGS = ("sgm_uniform", "uniform")
_ALL = (*_SIGMAS, *_SPACINGS)

# These clip to [-1, 1] unless told otherwise: right for pixels, ruinous for latents.
_UNCLIPPED: Config = {"clip_sample": False}
_TO_THE_LAST: Config = {"set_alpha_to_one": False}  # as Stable Diffusion was trained
_SDE: Config = {"algorithm_type": "sde-dpmsolver++"}
_DISTILLED_STEPS = 50  # original_inference_steps of LCMScheduler and TCDScheduler

SAMPLERS = {
    "euler": Sampler("EulerDiscreteScheduler", "Euler", _ALL),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", "Euler a", _SPACINGS),
    "lms": Sampler("LMSDiscreteScheduler", "LMS", _ALL),
    "heun": Sampler("HeunDiscreteScheduler", "Heun", _ALL),
    "dpm2": Sampler("KDPM2DiscreteScheduler", "DPM2", _ALL),
    "dpm2_a": Sampler("KDPM2AncestralDiscreteScheduler", "DPM2 a", _ALL),
    "dpmpp_2m": Sampler("DPMSolverMultistepScheduler", "DPM++ 2M", _ALL),
    "dpmpp_2m_sde": Sampler("DPMSolverMultistepScheduler", "DPM++ 2M SDE", _ALL, _SDE),
    "dpmpp_3m_sde": Sampler("DPMSolverMultistepScheduler", "DPM++ 3M SDE", _ALL, _SDE | {"solver_order": 3}),
    # diffusers has no ancestral one; its documentation calls this one very similar.
    "dpmpp_2s_a": Sampler("DPMSolverSinglestepScheduler", "DPM++ 2S a", _SIGMAS),
    "dpmpp_sde": Sampler("DPMSolverSDEScheduler", "DPM++ SDE", _ALL),
    "ddim": Sampler("DDIMScheduler", "DDIM", _SPACINGS, _UNCLIPPED | _TO_THE_LAST),
    "ddpm": Sampler("DDPMScheduler", "DDPM", _SPACINGS, _UNCLIPPED),
    "pndm": Sampler("PNDMScheduler", "PLMS", _SPACINGS, _TO_THE_LAST | {"skip_prk_steps": True}),
    "unipc": Sampler("UniPCMultistepScheduler", "UniPC", _ALL),
    "deis": Sampler("DEISMultistepScheduler", "DEIS", _ALL),
    "lcm": Sampler("LCMScheduler", "LCM", most_steps=_DISTILLED_STEPS),
    "tcd": Sampler("TCDScheduler", "TCD", most_steps=_DISTILLED_STEPS),
}


def _pairs() -> Iterator[tuple[str, Scheduler]]:
    for name, each in SAMPLERS.items():
        yield name, Scheduler(each.class_name, each.label, AUTOMATIC, each.config, each.most_steps)
        for schedule in each.schedules:
            label, config = SCHEDULES[schedule]
            yield f"{name}_{schedule}", Scheduler(each.class_name, each.label, label, each.config | config)


SCHEDULERS = dict(_pairs())

# Further spellings, after `plain`: A1111, ComfyUI, InvokeAI, k-diffusion.
ALIASES = {
    "euler_ancestral": "euler_a",
    "dpm_2": "dpm2",
    "kdpm_2": "dpm2",
    "dpm_2_a": "dpm2_a",
    "dpm_2_ancestral": "dpm2_a",
    "kdpm_2_a": "dpm2_a",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
    "dpmpp_2s": "dpmpp_2s_a",
    "dpmpp_2s_ancestral": "dpmpp_2s_a",
    "dpmpp_sde_gpu": "dpmpp_sde",
    "plms": "pndm",
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
}
# diffusers' own names; of several samplers of one class, the first.
_CLASSES = {each.class_name.lower(): name for name, each in reversed(SAMPLERS.items())}
SPELLINGS = ALIASES | _CLASSES
SCHEDULE_ALIASES = {"k": "karras", "simple": "sgm_uniform", "normal": "uniform"}
WITHOUT_COUNTERPART = ("dpm_fast", "dpm_adaptive")  # well known, and not in diffusers


def plain(name: str) -> str:
    """`DPM++ 2M Karras`, `k_dpmpp_2m` and `dpmpp-2m` in one spelling."""
    text = name.strip().lower().replace("++", "pp")
    text = re.sub(r"[\s\-]+", "_", text)
    return text.removeprefix("k_")


def canonical(name: str, schedule_type: str = "") -> str | None:
    """The key in SCHEDULERS that a user's name (and A1111 schedule type) means, or None."""
    sampler, named = _split(plain(name))
    wanted = plain(schedule_type)
    schedule = named if wanted in ("", "automatic") else SCHEDULE_ALIASES.get(wanted, wanted)
    if named not in ("", schedule):
        return None
    key = f"{sampler}_{schedule}" if schedule else sampler
    return key if key in SCHEDULERS else None


def sampler_of(key: str) -> str:
    """The key without its schedule type."""
    return _split(key)[0]


def schedule_types(key: str) -> list[str]:
    """What a row may call the schedule type beside this scheduler."""
    sampler, named = _split(key)
    return ["automatic", *([named] if named else SAMPLERS[sampler].schedules)]


def _split(text: str) -> tuple[str, str]:
    """Sampler and schedule type of one plain name; the latter is empty where the name says none."""
    if text in SPELLINGS or text in SAMPLERS:
        return SPELLINGS.get(text, text), ""
    for word in (*SCHEDULES, *SCHEDULE_ALIASES):
        sampler = text.removesuffix(f"_{word}")
        if sampler != text and (sampler in SPELLINGS or sampler in SAMPLERS):
            return SPELLINGS.get(sampler, sampler), SCHEDULE_ALIASES.get(word, word)
    return text, ""
