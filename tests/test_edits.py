"""Edits are provable: outside the mask the stored file equals its input, whatever that is. The model draws noise."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from shared import images, jobs
from shared.errors import BadInput
from shared.jobs import ALPHA, Img2Img, Inpaint, Outpaint, Row
from workers import finishing, masks, originals, window
from workers.batches import Item
from workers.finishing import finish
from workers.prepare import Preparation

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COMMON = {
    "model": "m",
    "prompt": "p",
    "width": 64,
    "height": 48,
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "scheduler": "ddim",
    "seed": 7,
}


class Shelf:
    """Files by name, in the place of a storage."""

    def __init__(self, **files: bytes):
        self.files = files

    def picture(self, name: str, /) -> originals.Original:
        return originals.decode(self.files[name], 1 << 28, 1 << 26, name)

    def mask(self, name: str, /) -> np.ndarray:
        return originals.gray_mask(self.files[name], 1 << 28, 1 << 26, name)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def file_of(pixels: np.ndarray, form: str = "PNG", mode: str = "", **options: object) -> bytes:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """HWC uint8: RGBA where the file has transparency, else RGB."""
    image = Image.open(io.BytesIO(data))
    return np.asarray(image.convert("RGBA" if "A" in image.mode else "RGB"))


def half_mask(height: int, width: int) -> bytes:
    """Left half to be drawn anew."""
    mask = np.zeros((height, width, 1), np.uint8)
    mask[:, : width // 2] = 255
    return file_of(mask)


def item(job: jobs.Job) -> Item:
    return Item(Row(row=3, line=4, cells={}, job=job, job_id="a" * 64, filename="photo-3"), 0)


def ready(job: jobs.Job, **files: bytes) -> Item:
    """The job's item, made ready; raises why it cannot be."""
    (made, refused) = Preparation(Shelf(**files), None).prepare([item(job)])  # type: ignore[arg-type]
    for error in refused.values():
        raise error
    return made[0]


def edit(job: jobs.Job, **files: bytes) -> tuple[Item, finishing.Finished]:
    """A ready item, and what comes of it when the model draws noise."""
    made = ready(job, **files)
    drawn = noise(job.height, job.width, seed=99)
    return made, finish(made, drawn, images.texts(job, 0, "m", "0" * 64))


def inpaint(**fields: object) -> Inpaint:
    return Inpaint(**{**COMMON, "image": "image", "mask_image": "mask", **fields})


INPUTS = {
    "gray PNG": (noise(199, 301, 1), "PNG", "", {}),
    "gray PNG with alpha": (noise(199, 301, 2), "PNG", "LA", {}),
    "RGB PNG with a profile": (noise(199, 301), "PNG", "", {"icc_profile": SRGB}),
    "RGBA PNG": (noise(199, 301, 4), "PNG", "", {}),
    "RGB TIFF": (noise(199, 301), "TIFF", "", {"compression": "tiff_deflate", "icc_profile": SRGB}),
    "RGBA lossless WebP": (noise(199, 301, 4), "WEBP", "", {"lossless": True, "exact": True}),
    "RGB JPEG": (noise(199, 301), "JPEG", "", {"quality": 90}),
    "palette PNG": (noise(199, 301), "PNG", "P", {}),
    "one pixel high": (noise(1, 40), "PNG", "", {}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_outside_the_mask_the_stored_file_equals_its_input_in_size_mode_alpha_and_profile(name: str) -> None:
    pixels, form, mode, options = INPUTS[name]
    if mode == "LA":
        data = file_of(np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]]), form, mode, **options)
    else:
        data = file_of(pixels, form, mode, **options)
    output = {"TIFF": "tiff", "WEBP": "webp"}.get(form, "png")
    job = inpaint(output_format=output, quality=100)
    made, finished = edit(job, image=data, mask=half_mask(*pixels.shape[:2]))
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(finished.data))
    assert after.size == before.size
    assert after.mode == {"P": "RGB"}.get(before.mode, before.mode)
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    kept = made.ready.region.alpha == 0
    plain = "RGBA" if after.mode in ("LA", "RGBA") else "RGB"
    one, other = np.asarray(before.convert(plain)), np.asarray(after.convert(plain))
    assert kept.any()
    assert np.array_equal(one[kept], other[kept])
    assert not np.array_equal(one, other)
    assert finished.facts["unmasked_max_abs_diff"] == finished.facts["unmasked_changed_px"] == 0
    if plain == "RGBA":
        assert np.array_equal(one[..., 3], other[..., 3])


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(0, 9),
    st.integers(-3, 9),
    st.sampled_from([None, 0, 8]),
    st.integers(0, 2**32 - 1),
)
@hypothesis_settings(max_examples=60)
def test_any_mask_of_any_size_leaves_the_rest_alone(
    height: int, width: int, blur: int, grow: int, crop: int | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = ((rng.random((height, width, 1)) < rng.random()) * 255).astype(np.uint8)
    job = inpaint(mask_blur=blur, mask_grow=grow, padding_mask_crop=crop)
    data = file_of(noise(height, width, seed=seed))
    files = {"image": data, "mask": file_of(mask)}
    grown = masks.grow(mask[..., 0] > 0, grow)
    if not grown.any() or masks.feather(grown, blur).all():
        with pytest.raises(BadInput, match="the mask"):
            edit(job, **files)
        return
    made, finished = edit(job, **files)
    kept = made.ready.region.alpha == 0
    assert np.array_equal(decoded(data)[kept], decoded(finished.data)[kept])


def test_an_empty_mask_is_the_rows_own_fault_or_keeps_the_input_where_the_row_says_so() -> None:
    files = {"image": file_of(noise(40, 60)), "mask": file_of(np.zeros((40, 60, 1), np.uint8))}
    with pytest.raises(BadInput, match="the mask is empty"):
        edit(inpaint(), **files)
    _, kept = edit(inpaint(on_empty="keep"), **files)
    assert np.array_equal(decoded(kept.data), decoded(files["image"]))
    assert "as it was" in kept.facts["note"]


def test_a_mask_over_everything_is_refused() -> None:
    with pytest.raises(BadInput, match="whole picture"):
        edit(inpaint(), image=file_of(noise(40, 60)), mask=file_of(np.full((40, 60, 1), 255, np.uint8)))


def test_an_edit_that_changed_nothing_does_not_count_as_done() -> None:
    job = inpaint(width=64, height=48, mask_blur=0)
    made = ready(job, image=file_of(noise(48, 64)), mask=half_mask(48, 64))
    with pytest.raises(BadInput, match="changed nothing"):
        finish(made, made.ready.start, images.texts(job, 0, "m", "0" * 64))


def test_a_picture_that_differs_outside_its_mask_is_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    real = window.paste

    def careless(*given: object) -> np.ndarray:
        result = real(*given).copy()  # type: ignore[arg-type]
        result[-1, -1] ^= 1
        return result

    monkeypatch.setattr(window, "paste", careless)
    with pytest.raises(BadInput, match="changed 1 pixels outside its mask"):
        edit(inpaint(), image=file_of(noise(48, 64)), mask=half_mask(48, 64))


def test_transparency_that_is_opaque_everywhere_survives_webp_as_none() -> None:
    pixels = noise(48, 64, 4)
    pixels[..., 3] = 255
    data = file_of(pixels)
    _, finished = edit(inpaint(output_format="webp", quality=100), image=data, mask=half_mask(48, 64))
    assert finished.facts["unmasked_changed_px"] == 0


def test_jpeg_is_refused_where_the_input_has_transparency() -> None:
    with pytest.raises(BadInput, match="JPEG cannot keep"):
        edit(inpaint(output_format="jpeg"), image=file_of(noise(48, 64, 4)), mask=half_mask(48, 64))


def test_a_gray_input_stays_gray_inside_the_mask() -> None:
    _, finished = edit(inpaint(), image=file_of(noise(48, 64, 1)), mask=half_mask(48, 64))
    assert Image.open(io.BytesIO(finished.data)).mode == "L"


def test_where_transparency_is_the_mask_the_new_part_becomes_visible() -> None:
    pixels = noise(48, 64, 4)
    pixels[..., 3] = 255
    pixels[:, :20, 3] = 0
    made, finished = edit(inpaint(mask_image=ALPHA), image=file_of(pixels))
    after = decoded(finished.data)
    assert (after[:, :20, 3] == 255).all()
    kept = made.ready.region.alpha == 0
    assert np.array_equal(after[kept], pixels[kept])
    with pytest.raises(BadInput, match="no transparency"):
        edit(inpaint(mask_image=ALPHA), image=file_of(noise(48, 64)))


def test_a_mask_of_another_size_is_fitted_and_invert_takes_the_other_side() -> None:
    made = ready(inpaint(mask_blur=0), image=file_of(noise(48, 64)), mask=half_mask(96, 128))
    other = ready(inpaint(mask_blur=0, mask_invert=True), image=file_of(noise(48, 64)), mask=half_mask(96, 128))
    assert (made.ready.region.alpha[:, :32] == 255).all()
    assert np.array_equal(made.ready.region.alpha, 255 - other.ready.region.alpha)


def test_with_padding_mask_crop_the_model_works_on_the_masks_surroundings_only() -> None:
    mask = np.zeros((480, 640, 1), np.uint8)
    mask[100:120, 300:330] = 255
    made = ready(inpaint(padding_mask_crop=16), image=file_of(noise(480, 640)), mask=file_of(mask))
    place = made.ready.region.window
    assert place.width < 120
    assert place.left <= 300 - 16
    assert place.right >= 330 + 16
    assert made.ready.start.shape == (48, 64, 3)


def test_outpainting_grows_the_canvas_and_keeps_the_input_in_it() -> None:
    data = file_of(noise(40, 60))
    job = Outpaint(**COMMON, image="image", expand_left=10, expand_bottom=20, overlap=4, mask_blur=2)
    made, finished = edit(job, image=data)
    after, before = decoded(finished.data), decoded(data)
    assert after.shape == (60, 70, 3)
    assert np.array_equal(after[: 40 - 7, 10 + 7 :], before[: 40 - 7, 7:])
    assert not np.array_equal(after[:, :10], made.ready.canvas[:, :10])


def test_image_to_image_has_the_working_size_and_proves_nothing() -> None:
    _, finished = edit(Img2Img(**COMMON, image="image"), image=file_of(noise(200, 300)))
    assert decoded(finished.data).shape == (48, 64, 3)
    assert finished.facts == {}


def test_a_lossy_result_is_proved_before_encoding_and_says_how_far_the_file_is_off() -> None:
    job = inpaint(output_format="jpeg", quality=80)
    _, finished = edit(job, image=file_of(noise(48, 64), "JPEG", quality=90), mask=half_mask(48, 64))
    assert finished.facts["unmasked_changed_px"] == 0
    assert finished.facts["stored_max_abs_diff"] > 0


def test_post_steps_work_inside_the_mask_only() -> None:
    job = inpaint(post=("brightness:0.2",), mask_blur=0)
    files = {"image": file_of(noise(48, 64)), "mask": half_mask(48, 64)}
    _, plain = edit(inpaint(mask_blur=0), **files)
    made, dark = edit(job, **files)
    kept = made.ready.region.alpha == 0
    assert np.array_equal(decoded(plain.data)[kept], decoded(dark.data)[kept])
    assert decoded(dark.data)[~kept].mean() < 0.5 * decoded(plain.data)[~kept].mean()


def test_the_mask_is_stored_beside_the_picture_and_the_sheet_shows_input_mask_and_result() -> None:
    made, finished = edit(inpaint(), image=file_of(noise(48, 64)), mask=half_mask(48, 64))
    (side,) = finished.sides
    assert side.name == "photo-3.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(side.body))), made.ready.region.alpha)
    assert len(finished.shown) == 3
    assert finishing.listed("photo-3.png", finished.facts)["mask"] == "masks/photo-3.png"


def test_what_is_wrong_with_one_row_leaves_its_neighbours_in_the_batch() -> None:
    shelf = Shelf(image=file_of(noise(48, 64)), mask=half_mask(48, 64), empty=file_of(np.zeros((48, 64, 1), np.uint8)))
    good, bad = item(inpaint()), item(inpaint(mask_image="empty"))
    bad = replace(bad, row=bad.row.model_copy(update={"row": 4}))
    made, refused = Preparation(shelf, None).prepare([good, bad])  # type: ignore[arg-type]
    assert [one.key for one in made] == [(3, 0)]
    assert list(refused) == [(4, 0)]


def test_filling_a_mask_starts_from_its_surroundings() -> None:
    pixels = np.full((48, 64, 3), (200, 30, 30), np.uint8)
    pixels[20:30, 20:40] = (0, 0, 255)
    mask = np.zeros((48, 64, 1), np.uint8)
    mask[18:32, 18:42] = 255
    job = inpaint(masked_content="fill", width=64, height=48, strength=0.5)
    made = ready(job, image=file_of(pixels), mask=file_of(mask))
    assert np.abs(made.ready.start.astype(int) - (200, 30, 30)).max() <= 2
