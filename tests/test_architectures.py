"""The architectures that ship are the published ones: by their numbers of parameters, and by what no number shows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from shared.catalog import Model
from workers.single_file import ARCHITECTURES, scheduler

# Of the models that CompVis, Stability AI and OpenAI published.
PARAMETERS = {
    "sd15/unet": 859_520_964,
    "sd15/vae": 83_653_863,
    "sd15/text_encoder": 123_060_480,
    "sd2/unet": 865_910_724,
    "sd2/vae": 83_653_863,
    "sd2/text_encoder": 340_387_840,
    "sdxl/unet": 2_567_463_684,
    "sdxl/vae": 83_653_863,
    "sdxl/text_encoder": 123_060_480,
    "sdxl/text_encoder_2": 694_659_840,
    "sdxl-refiner/unet": 2_259_526_660,  # with those below, in 16 bits, the published file but for its header
    "sdxl-refiner/vae": 83_653_863,
    "sdxl-refiner/text_encoder_2": 694_659_840,
}
VALUES = {
    "sd15/vae": {"scaling_factor": 0.18215},
    "sd2/vae": {"scaling_factor": 0.18215},
    "sdxl/vae": {"scaling_factor": 0.13025, "force_upcast": True},
    "sd15/unet": {"attention_head_dim": 8},
    "sd2/unet": {"attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True, "upcast_attention": True},
    "sdxl/unet": {"attention_head_dim": [5, 10, 20], "use_linear_projection": True, "addition_embed_type": "text_time"},
    "sdxl-refiner/vae": {"scaling_factor": 0.13025, "force_upcast": True},
    "sdxl-refiner/unet": {"attention_head_dim": [6, 12, 24, 24], "projection_class_embeddings_input_dim": 2560},
    "sd15/text_encoder": {"hidden_act": "quick_gelu", "num_attention_heads": 12},
    "sd2/text_encoder": {"hidden_act": "gelu", "num_attention_heads": 16},
    "sdxl/text_encoder": {"hidden_act": "quick_gelu", "num_attention_heads": 12},
    "sdxl/text_encoder_2": {"hidden_act": "gelu", "num_attention_heads": 20},
    "sdxl-refiner/text_encoder_2": {"hidden_act": "gelu", "num_attention_heads": 20},
    "sd15/scheduler": {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    "sd2/scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "sdxl/scheduler": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    "sdxl-refiner/scheduler": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
}
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def config(place: str) -> dict[str, Any]:
    part = "scheduler_config" if place.endswith("scheduler") else "config"
    found: dict[str, Any] = json.loads((ARCHITECTURES / place / f"{part}.json").read_text())
    return found


def build(place: str) -> torch.nn.Module:
    """Without values."""
    settings = config(place)
    with torch.device("meta"):
        if "text_encoder" in place:
            kind = CLIPTextModelWithProjection if place.endswith("_2") else CLIPTextModel
            return kind(CLIPTextConfig(**settings))
        return (UNet2DConditionModel if place.endswith("unet") else AutoencoderKL).from_config(settings)


@pytest.mark.parametrize("place", PARAMETERS)
def test_a_part_has_as_many_parameters_as_the_published_one(place: str) -> None:
    assert sum(value.numel() for value in build(place).parameters()) == PARAMETERS[place]


@pytest.mark.parametrize("place", VALUES)
def test_a_part_is_described_as_it_was_trained(place: str) -> None:
    expected = VALUES[place] | (NOISE if place.endswith("scheduler") else {})
    assert expected.items() <= config(place).items()


@pytest.mark.parametrize(("family", "prediction"), [("sd2", "v_prediction"), ("sd2-inpaint", "epsilon")])
def test_of_2_x_only_the_inpainting_variant_predicts_noise(family: Any, prediction: str) -> None:
    place = Path("model.safetensors")
    entry = Model(name="m", family=family, path=place, tokenizer=Path(), identity="0" * 64)
    assert scheduler(entry, ARCHITECTURES / "sd2")["prediction_type"] == prediction
