"""Samplers are found by the names that users of other tools type."""

import re

import pytest

from shared.schedulers import ALIASES, SCHEDULERS, canonical, plain

NAMES = {
    "euler": ["Euler", "euler", "k_euler", "K_EULER", "EulerDiscreteScheduler"],
    "euler_karras": ["Euler Karras", "euler_k"],
    "euler_a": ["Euler a", "k_euler_a", "euler_a", "euler_ancestral", "EulerAncestralDiscreteScheduler"],
    "ddim": ["DDIM", "ddim", "DDIMScheduler"],
    "ddpm": ["DDPM", "DDPMScheduler"],
    "dpmpp_2m": ["DPM++ 2M", "dpm++ 2m", "dpmpp_2m", "k_dpmpp_2m", "DPMSolverMultistepScheduler"],
    "dpmpp_2m_karras": ["DPM++ 2M Karras", "dpmpp_2m_k", "dpmpp-2m-karras", " DPM++  2M  Karras "],
    "unipc": ["UniPC", "uni_pc", "unipc", "UniPCMultistepScheduler"],
    "unipc_karras": ["UniPC Karras", "unipc_k"],
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for key, names in NAMES.items() for name in names])
def test_a_users_name_finds_its_scheduler(name, key):
    assert canonical(name) == key


@pytest.mark.parametrize(
    ("name", "schedule_type", "key"),
    [
        ("DPM++ 2M", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M", "Automatic", "dpmpp_2m"),
        ("DPM++ 2M Karras", "Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "", "dpmpp_2m_karras"),
        ("k_euler", "karras", "euler_karras"),
        ("Euler a", "Karras", None),
        ("DDIM", "Exponential", None),
        ("DPM++ 2M", "Beta", None),
    ],
)
def test_a_schedule_type_goes_with_a_sampler_or_not_at_all(name, schedule_type, key):
    assert canonical(name, schedule_type) == key


@pytest.mark.parametrize("name", ["", "eulr", "DPM fast", "DPM++ 3M SDE", "LMS", "karras"])
def test_other_names_find_nothing(name):
    assert canonical(name) is None


def test_every_scheduler_is_tested_and_is_its_own_name():
    assert set(NAMES) == set(SCHEDULERS)
    assert all(canonical(key) == key for key in SCHEDULERS)


def test_every_alias_is_plain_and_means_a_scheduler():
    assert all(plain(alias) == alias and key in SCHEDULERS for alias, key in ALIASES.items())


def test_the_names_that_pictures_carry_are_understood():
    for key, scheduler in SCHEDULERS.items():
        assert canonical(scheduler.sampler, scheduler.schedule_type) == key
        assert re.fullmatch(r"\w+Scheduler", scheduler.class_name)
