"""Picture files: pixels and metadata survive, equal jobs give equal bytes."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from shared import images
from shared.errors import BadImage
from shared.jobs import Txt2Img
from workers import gate

# How A1111's webui reads its own text (modules/infotext_utils.py: re_param).
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
IDENTITY = "ab" * 32


def job(**more: object) -> Txt2Img:
    fields: dict[str, object] = {
        "model": "demo, the first", "prompt": "a cat", "width": 16, "height": 8, "num_inference_steps": 20,
        "guidance_scale": 7.0, "scheduler": "dpmpp_2m_karras", "seed": 5,
    }  # fmt: skip
    return Txt2Img.model_validate(fields | more)


def parse(parameters: str) -> tuple[str, str, dict[str, str]]:
    """As A1111 does it: the last line holds the parameters, the lines before it the prompts."""
    *lines, last = parameters.strip().split("\n")
    assert len(PARAMETER.findall(last)) >= 3
    prompt, _, negative = "\n".join(lines).partition("\nNegative prompt: ")
    values = {key: json.loads(value) if value.startswith('"') else value for key, value in PARAMETER.findall(last)}
    return prompt, negative, values


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))))
def test_a_png_holds_the_pixels_exactly(pixels: np.ndarray) -> None:
    data = images.encode_png(pixels, {})
    assert np.array_equal(images.decode(data), pixels)
    image = Image.open(io.BytesIO(data))
    image.verify()  # every chunk's checksum


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("prompt", ["a cat", "café, \u65e5\u672c", "two\nlines: of, text"])
def test_every_format_carries_both_dialects_of_metadata(output_format: str, prompt: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    one = job(prompt=prompt, output_format=output_format)
    texts = images.texts(one, 0, "demo", IDENTITY)
    found = images.read_texts(images.encode(pixels, one, texts))
    assert found["parameters"] == texts["parameters"]
    assert Txt2Img.model_validate(json.loads(found["pixelmill"])["job"]) == one


def test_the_parameters_text_is_read_by_the_pattern_of_the_webui() -> None:
    prompt, negative, values = parse(images.infotext(job(negative_prompt="blurry"), 2, "demo, the first", IDENTITY))
    assert (prompt, negative) == ("a cat", "blurry")
    assert values == {
        "Steps": "20", "Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "7", "Seed": "7",
        "Size": "16x8", "Model hash": IDENTITY[:10], "Model": "demo, the first", "RNG": "CPU",
    }  # fmt: skip


def test_a_jpeg_keeps_as_much_metadata_as_fits() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    kept = []
    for length in (100, 10_000, 40_000):
        long = job(prompt="\u732b" * length, output_format="jpeg")
        kept.append(sorted(images.read_texts(images.encode(pixels, long, images.texts(long, 0, "m", "0" * 64)))))
    assert kept == [["parameters", "pixelmill"], ["parameters"], []]


def test_equal_jobs_give_equal_bytes() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (8, 16, 3), dtype=np.uint8)
    made = {images.encode(pixels, job(), images.texts(job(), 0, "demo", IDENTITY)) for _ in range(2)}
    assert len(made) == 1


def test_a_sprite_has_a_tile_per_picture_in_order() -> None:
    tiles = [np.full((64, 128, 3), value, np.uint8) for value in (0, 90, 180)]
    sheet = images.decode(images.sprite(tiles, tile=128, per_line=2))
    assert sheet.shape == (256, 256, 3)
    centers = [sheet[64, 64], sheet[64, 192], sheet[192, 64]]
    assert np.abs(np.array(centers).astype(int) - np.array([[0], [90], [180]])).max() < 8


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (None, "NaN"),
        (np.zeros((4, 4, 3), np.uint8), "black"),
        (np.full((4, 4, 3), 7, np.uint8), "flat"),
    ],
)
def test_a_spoiled_picture_is_never_counted_as_done(pixels: np.ndarray | None, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        gate.check(pixels)
