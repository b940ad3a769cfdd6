"""Samplers by the names that users know, and the diffusers class each one stands for."""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scheduler:
    """One sampler: the diffusers class and its settings, and how A1111's text names it."""

    class_name: str
    sampler: str
    schedule_type: str = "Automatic"
    config: dict[str, object] = field(default_factory=dict)


KARRAS: dict[str, object] = {"use_karras_sigmas": True}
# These two clip to [-1, 1] unless told otherwise: right for pixels, ruinous for latents.
UNCLIPPED: dict[str, object] = {"clip_sample": False}
SCHEDULERS = {
    "euler": Scheduler("EulerDiscreteScheduler", "Euler"),
    "euler_karras": Scheduler("EulerDiscreteScheduler", "Euler", "Karras", KARRAS),
    "euler_a": Scheduler("EulerAncestralDiscreteScheduler", "Euler a"),
    "ddim": Scheduler("DDIMScheduler", "DDIM", config=UNCLIPPED | {"set_alpha_to_one": False}),
    "ddpm": Scheduler("DDPMScheduler", "DDPM", config=UNCLIPPED),
    "dpmpp_2m": Scheduler("DPMSolverMultistepScheduler", "DPM++ 2M"),
    "dpmpp_2m_karras": Scheduler("DPMSolverMultistepScheduler", "DPM++ 2M", "Karras", KARRAS),
    "unipc": Scheduler("UniPCMultistepScheduler", "UniPC"),
    "unipc_karras": Scheduler("UniPCMultistepScheduler", "UniPC", "Karras", KARRAS),
}

# Further spellings, after `plain`: ComfyUI, InvokeAI, k-diffusion and diffusers class names.
ALIASES = {
    "eulerdiscretescheduler": "euler",
    "eulerancestraldiscretescheduler": "euler_a",
    "euler_ancestral": "euler_a",
    "ddimscheduler": "ddim",
    "ddpmscheduler": "ddpm",
    "dpmsolvermultistepscheduler": "dpmpp_2m",
    "dpmpp_2m_k": "dpmpp_2m_karras",
    "uni_pc": "unipc",
    "unipcmultistepscheduler": "unipc",
    "euler_k": "euler_karras",
    "unipc_k": "unipc_karras",
    "uni_pc_karras": "unipc_karras",
}


def plain(name: str) -> str:
    """`DPM++ 2M Karras`, `k_dpmpp_2m` and `dpmpp-2m` in one spelling."""
    text = name.strip().lower().replace("++", "pp")
    text = re.sub(r"[\s\-]+", "_", text)
    return text.removeprefix("k_")


def canonical(name: str, schedule_type: str = "") -> str | None:
    """The key in SCHEDULERS that a user's name (and A1111 schedule type) means, or None."""
    text = plain(name)
    text = ALIASES.get(text, text)
    wanted = plain(schedule_type)
    if wanted == "karras" and not text.endswith("_karras"):
        text += "_karras"
    elif wanted not in ("", "automatic", "karras"):
        return None
    return text if text in SCHEDULERS else None
