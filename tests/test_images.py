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
from PIL.ExifTags import IFD, Base

from shared import images
from shared.errors import BadImage
from shared.images import Kept
from shared.jobs import Generation, Img2Img, Inpaint, MaskEdit, Outpaint, Segment, Txt2Img
from workers import gate

# How A1111's webui reads its own text (modules/infotext_utils.py: re_param).
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
IDENTITY = "ab" * 32
FIELDS: dict[str, object] = {
    "model": "demo, the first", "prompt": "a cat", "width": 16, "height": 8, "num_inference_steps": 20,
    "guidance_scale": 7.0, "scheduler": "dpmpp_2m_karras", "seed": 5,
}  # fmt: skip
MASKED: dict[str, object] = FIELDS | {"image": "a.png", "mask_image": "b.png"}


def job(**more: object) -> Txt2Img:
    return Txt2Img.model_validate(FIELDS | more)


def noise(channels: int, seed: int = 0) -> np.ndarray:
    shape = (19, 31, channels) if channels > 1 else (19, 31)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def gray_pixels() -> np.ndarray:
    return np.repeat(noise(1)[..., None], 3, axis=2)


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


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "tiff"])
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


@pytest.mark.parametrize("output_format", images.CONTENT_TYPES)
def test_equal_jobs_give_equal_bytes(output_format: str) -> None:
    one, kept = job(output_format=output_format), Kept(noise(1), icc=b"profile", exif=input_exif("x"))
    texts = images.texts(one, 0, "demo", IDENTITY)
    assert len({images.encode(noise(3), one, texts, kept=kept) for _ in range(2)}) == 1


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        ({}, {"Mask blur": "4"}),
        ({"mask_blur": 0}, {}),
        ({"mask_invert": True}, {"Mask mode": "Inpaint not masked", "Mask blur": "4"}),
        (
            {"padding_mask_crop": 0},
            {"Mask blur": "4", "Inpaint area": "Only masked", "Masked area padding": "0"},
        ),
        (
            {"padding_mask_crop": 32, "masked_content": "latent_noise", "mask_blur": 0},
            {"Inpaint area": "Only masked", "Masked area padding": "32", "Masked content": "latent noise"},
        ),
        ({"masked_content": "fill", "mask_blur": 0}, {"Masked content": "fill"}),
        ({"masked_content": "original", "mask_blur": 0}, {}),
    ],
)
def test_the_parameters_text_says_how_was_inpainted_as_the_webui_does(
    more: dict[str, object], fields: dict[str, str]
) -> None:
    one = Inpaint.model_validate(MASKED | {"strength": 0.75} | more)
    _, _, values = parse(images.infotext(one, 0, "demo", IDENTITY))
    keys = list(values)
    assert keys[7:10] == ["Model", "Denoising strength", "RNG"]
    assert values["Denoising strength"] == "0.75"
    assert {key: values[key] for key in keys[10:]} == fields
    assert keys[10:] == list(fields)  # in the webui's order


@pytest.mark.parametrize(
    ("one", "keys"),
    [
        (Img2Img.model_validate(FIELDS | {"image": "a.png"}), ["RNG"]),
        (
            Outpaint.model_validate(FIELDS | {"image": "a.png", "expand_left": 8}),
            ["RNG", "Mask blur", "Masked content"],
        ),
        (
            MaskEdit.model_validate(
                FIELDS | {"image": "a.png", "mask_model": "sam", "mask_text": "cat", "action": "remove_object"}
            ),
            ["RNG", "Mask blur"],
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_every_kind_with_an_input_says_its_strength(one: Generation, keys: list[str]) -> None:
    _, _, values = parse(images.infotext(one, 0, "demo", IDENTITY))
    assert list(values)[8:] == ["Denoising strength", *keys]


@pytest.mark.parametrize("output_format", images.CONTENT_TYPES)
def test_masks_carry_their_job_and_no_parameters(output_format: str) -> None:
    one = Segment.model_validate(
        {"width": 31, "height": 19, "image": "a.png", "mask_model": "sam", "auto": True, "output_format": output_format}
    )
    texts = images.texts(one, 0, "sam", IDENTITY)
    found = images.read_texts(images.encode(noise(3), one, texts, kept=Kept(gray=True)))
    assert list(found) == ["pixelmill"]
    assert Segment.model_validate(json.loads(found["pixelmill"])["job"]) == one


@pytest.mark.parametrize("output_format", ["png", "webp", "tiff"])
@pytest.mark.parametrize(("gray", "alpha"), [(False, False), (False, True), (True, False), (True, True)])
def test_every_lossless_format_gives_back_exactly_what_is_kept(output_format: str, gray: bool, alpha: bool) -> None:
    pixels, one = gray_pixels() if gray else noise(3), job(output_format=output_format, quality=100)
    see_through = noise(1, seed=1)
    see_through[:9] = 0  # with colors beneath
    kept = Kept(see_through if alpha else None, gray, icc=b"a profile" * 9000, exif=input_exif("x"))
    image = Image.open(io.BytesIO(images.encode(pixels, one, images.texts(one, 0, "demo", IDENTITY), kept=kept)))
    if output_format != "webp":
        assert image.mode == ("L" if gray else "RGB") + ("A" if alpha else "")
    assert image.info["icc_profile"] == kept.icc
    assert image.getexif()[Base.Make] == "x"
    assert np.array_equal(np.asarray(image.convert("RGBA"))[..., :3], pixels)
    assert not alpha or np.array_equal(np.asarray(image.getchannel("A")), see_through)


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 4]))))
def test_png_and_tiff_hold_any_pixels_exactly(raster: np.ndarray) -> None:
    channels = raster.shape[2]
    pixels = np.repeat(raster[..., :1], 3, axis=2) if channels < 3 else np.ascontiguousarray(raster[..., :3])
    kept = Kept(raster[..., -1].copy() if channels in (2, 4) else None, gray=channels < 3)
    for output_format in ("png", "tiff"):
        one = job(output_format=output_format)
        data = images.encode(pixels, one, images.texts(one, 0, "m", IDENTITY), kept=kept)
        image = Image.open(io.BytesIO(data))
        assert np.array_equal(np.asarray(image).reshape(raster.shape), raster)
        assert np.array_equal(images.decode(data), pixels)


def test_colors_drawn_into_a_gray_picture_become_gray() -> None:
    pixels = gray_pixels()
    pixels[4, 5] = (255, 0, 0)
    image = Image.open(io.BytesIO(images.encode(pixels, job(), {}, kept=Kept(gray=True))))
    found = np.asarray(image)
    assert image.mode == "L"
    assert found[4, 5] == 76  # luminance of red
    found_elsewhere = np.delete(found.ravel(), 4 * 31 + 5)
    assert np.array_equal(found_elsewhere, np.delete(pixels[..., 0].ravel(), 4 * 31 + 5))


def test_a_jpeg_drops_alpha_and_keeps_gray() -> None:
    one = job(output_format="jpeg")
    texts = images.texts(one, 0, "demo", IDENTITY)
    assert Image.open(io.BytesIO(images.encode(noise(3), one, texts, kept=Kept(noise(1))))).mode == "RGB"
    assert Image.open(io.BytesIO(images.encode(gray_pixels(), one, texts, kept=Kept(noise(1), gray=True)))).mode == "L"


def test_a_profile_for_gray_is_not_put_beside_the_rgb_of_webp() -> None:
    profile = bytes(16) + b"GRAY" + bytes(108)
    for output_format, kept in (("webp", None), ("png", profile), ("tiff", profile), ("jpeg", profile)):
        one = job(output_format=output_format)
        texts = images.texts(one, 0, "demo", IDENTITY)
        data = images.encode(gray_pixels(), one, texts, kept=Kept(gray=True, icc=profile))
        assert Image.open(io.BytesIO(data)).info.get("icc_profile") == kept, output_format


def input_exif(make: str) -> bytes:
    exif = Image.Exif()
    exif[Base.Make] = make
    exif[Base.ImageDescription] = "old"
    exif.get_ifd(IFD.Exif)[Base.UserComment] = b"UNICODE\0" + "old".encode("utf-16-be")
    return exif.tobytes()


@pytest.mark.parametrize("output_format", images.CONTENT_TYPES)
def test_no_text_of_another_picture_is_taken_for_this_ones(output_format: str) -> None:
    one = job(output_format=output_format)
    texts = images.texts(one, 0, "demo", IDENTITY)
    for written in (texts, {"pixelmill": texts["pixelmill"]}):
        data = images.encode(noise(3), one, written, kept=Kept(exif=input_exif("Camera")))
        assert set(images.read_texts(data)) == set(written)
        exif = Image.open(io.BytesIO(data)).getexif()
        assert exif[Base.Make] == "Camera"
        assert b"o\0l\0d" not in exif.get_ifd(IFD.Exif).get(Base.UserComment, b"")
        if output_format == "png":  # whose own texts stand elsewhere
            assert exif[Base.ImageDescription] == "old"


@pytest.mark.parametrize(
    ("prompt", "make", "found"),
    [
        (100, 100, (["parameters", "pixelmill"], True)),
        (100, 60_000, (["parameters", "pixelmill"], True)),
        (10_000, 100, (["parameters"], True)),
        (10_000, 60_000, ([], True)),
        (100, 70_000, (["parameters", "pixelmill"], False)),
        (40_000, 70_000, ([], False)),
    ],
)
def test_a_jpeg_keeps_as_much_of_the_inputs_exif_as_fits(prompt: int, make: int, found: tuple[list[str], bool]) -> None:
    one = job(prompt="\u732b" * prompt, output_format="jpeg")
    data = images.encode(noise(3), one, images.texts(one, 0, "m", IDENTITY), kept=Kept(exif=input_exif("x" * make)))
    assert (sorted(images.read_texts(data)), Base.Make in Image.open(io.BytesIO(data)).getexif()) == found


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


def test_a_second_pass_stands_in_the_parameters_as_a1111_writes_it() -> None:
    _, _, values = parse(images.infotext(job(hires_scale=1.5, hires_steps=9), 0, "demo", IDENTITY))
    assert (values["Hires upscale"], values["Hires steps"], values["Hires upscaler"]) == ("1.5", "9", "Lanczos")
    assert values["Denoising strength"] == "0.7"


def test_what_was_put_onto_the_model_stands_in_the_parameters_as_a1111_writes_it() -> None:
    one = job(vae="mse", loras=(("ink", 0.8), ("wash", 1.0)), clip_skip=1, embeddings=("sunny",))
    text = images.infotext(
        one, 0, "demo", IDENTITY, {"sunny": "4" * 64, "mse": "1" * 64, "ink": "2" * 64, "wash": "3" * 64}
    )
    prompt, _, values = parse(text)
    assert prompt.endswith(" <lora:ink:0.8> <lora:wash:1>")
    assert (values["VAE"], values["VAE hash"], values["Clip skip"]) == ("mse", "1" * 10, "2")
    assert values["TI hashes"] == f"sunny: {'4' * 12}"
    assert values["Lora hashes"] == f"ink: {'2' * 12}, wash: {'3' * 12}"
