"""Samplers are found by the names that users of other tools type."""

import re

import pytest

from shared.schedulers import SAMPLERS, SCHEDULERS, SPELLINGS, canonical, plain, schedule_types

NAMES = {
    "euler": ["Euler", "euler", "k_euler", "K_EULER", "EulerDiscreteScheduler"],
    "euler_karras": ["Euler Karras", "euler_k"],
    "euler_a": ["Euler a", "k_euler_a", "euler_a", "euler_ancestral", "EulerAncestralDiscreteScheduler"],
    "lms": ["LMS", "k_lms", "LMSDiscreteScheduler"],
    "lms_karras": ["LMS Karras", "lms_k", "k_lms_karras"],
    "heun": ["Heun", "k_heun", "HeunDiscreteScheduler"],
    "dpm2": ["DPM2", "k_dpm_2", "dpm_2", "kdpm_2", "KDPM2DiscreteScheduler"],
    "dpm2_karras": ["DPM2 Karras", "kdpm_2_k", "k_dpm_2_karras"],
    "dpm2_a": ["DPM2 a", "k_dpm_2_a", "dpm_2_ancestral", "kdpm_2_a", "KDPM2AncestralDiscreteScheduler"],
    "dpm2_a_karras": ["DPM2 a Karras", "kdpm_2_a_k"],
    "ddim": ["DDIM", "ddim", "DDIMScheduler"],
    "ddpm": ["DDPM", "DDPMScheduler"],
    "pndm": ["PLMS", "pndm", "PNDMScheduler"],
    "dpmpp_2m": ["DPM++ 2M", "dpm++ 2m", "dpmpp_2m", "k_dpmpp_2m", "DPMSolverMultistepScheduler"],
    "dpmpp_2m_karras": ["DPM++ 2M Karras", "dpmpp_2m_k", "dpmpp-2m-karras", " DPM++  2M  Karras "],
    "dpmpp_2m_exponential": ["DPM++ 2M Exponential"],
    "dpmpp_2m_sgm_uniform": ["DPM++ 2M SGM Uniform", "dpmpp_2m_simple"],
    "dpmpp_2m_sde": ["DPM++ 2M SDE", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu"],
    "dpmpp_2m_sde_karras": ["DPM++ 2M SDE Karras", "dpmpp_2m_sde_k"],
    "dpmpp_3m_sde": ["DPM++ 3M SDE", "dpmpp_3m_sde"],
    "dpmpp_2s_a": ["DPM++ 2S a", "dpmpp_2s_ancestral", "dpmpp_2s", "DPMSolverSinglestepScheduler"],
    "dpmpp_2s_a_karras": ["DPM++ 2S a Karras", "dpmpp_2s_k"],
    "dpmpp_sde": ["DPM++ SDE", "dpmpp_sde", "DPMSolverSDEScheduler"],
    "dpmpp_sde_karras": ["DPM++ SDE Karras", "dpmpp_sde_k"],
    "unipc": ["UniPC", "uni_pc", "unipc", "UniPCMultistepScheduler"],
    "unipc_karras": ["UniPC Karras", "unipc_k"],
    "deis": ["DEIS", "DEISMultistepScheduler"],
    "lcm": ["LCM", "LCMScheduler"],
    "tcd": ["TCD", "TCDScheduler"],
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for key, names in NAMES.items() for name in names])
def test_a_users_name_finds_its_scheduler(name, key):
    assert canonical(name) == key


@pytest.mark.parametrize(
    ("name", "schedule_type", "key"),
    [
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M", "Automatic", "dpmpp_2m"),
        ("DPM++ 2M Karras", "Automatic", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "Beta", None),
        ("k_euler", "karras", "euler_karras"),
        ("DPM++ 2M", "Beta", "dpmpp_2m_beta"),
        ("Euler", "simple", "euler_sgm_uniform"),
        ("Euler a", "normal", "euler_a_uniform"),
        ("Euler a", "Karras", None),
        ("DDIM", "Exponential", None),
        ("LCM", "Karras", None),
        ("DPM++ 2M", "Polyexponential", None),
    ],
)
def test_a_schedule_type_goes_with_a_sampler_or_not_at_all(name, schedule_type, key):
    assert canonical(name, schedule_type) == key


@pytest.mark.parametrize("name", ["", "eulr", "DPM fast", "DPM adaptive", "karras", "_karras", "k"])
def test_other_names_find_nothing(name):
    assert canonical(name) is None


def test_every_scheduler_is_its_own_name_and_every_sampler_is_tested():
    assert set(NAMES) <= set(SCHEDULERS) and set(SAMPLERS) <= set(NAMES)
    assert all(canonical(key) == key for key in SCHEDULERS)


def test_every_schedule_type_that_is_offered_beside_a_scheduler_goes_with_it():
    for key in SCHEDULERS:
        assert all(canonical(key, word) in SCHEDULERS for word in schedule_types(key))


def test_every_other_spelling_is_plain_and_means_a_sampler():
    assert all(plain(alias) == alias and key in SAMPLERS for alias, key in SPELLINGS.items())
    assert not set(SPELLINGS) & set(SAMPLERS)


def test_the_names_that_pictures_carry_are_understood():
    for key, scheduler in SCHEDULERS.items():
        assert canonical(scheduler.sampler, scheduler.schedule_type) == key
        assert re.fullmatch(r"\w+Scheduler", scheduler.class_name)
