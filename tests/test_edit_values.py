"""What a job is made of an edit's cells: defaults, selections, sizes and formats, all checked against the picture."""

import hypothesis
import pytest
from edit_files import MODELS, Given, as_csv
from hypothesis import strategies as st
from PIL import Image

from shared.catalog import Catalog
from shared.settings import Settings

EXAMPLES = hypothesis.settings(max_examples=150)


# --- values ---


def test_defaults_are_those_of_the_job_the_action_and_the_models(given):
    job = given.row(image="red.png", prompt="a").job
    assert (job.strength, job.width, job.height, job.num_inference_steps) == (0.8, 160, 104, 20)
    job = given.row(image="red.png", prompt="a", mask="mask.png").job
    assert (job.strength, job.mask_blur, job.mask_grow, job.masked_content, job.on_empty) == (
        1.0,
        4,
        0,
        "original",
        "fail",
    )
    job = given.row(image="red.png", mask_text="the cup", action="remove_object").job
    assert (job.strength, job.mask_grow, job.masked_content, job.text_threshold) == (0.6, 4, "fill", 0.4)
    job = given.row(image="red.png", mask_text="the cup", action="remove_object", mask_grow="0", strength="1").job
    assert (job.strength, job.mask_grow, job.masked_content) == (1.0, 0, "fill")
    job = given.row(image="red.png", box="1,1,5,5", action="replace_object", prompt="a").job
    assert (job.strength, job.mask_grow, job.masked_content, job.mask_text_model) == (1.0, 4, "original", "")
    job = given.row(image="red.png", box="1,1,5,5", action="replace_background", prompt="a").job
    assert (job.mask_grow, job.mask_blur, job.masked_content) == (-2, 2, "original")
    job = given.row(image="red.png", auto="everything").job
    assert (job.points_per_side, job.pred_iou_thresh, job.stability_score_thresh) == (12, 0.8, 0.9)
    job = given.row(image="red.png", auto="yes", mask_model="sharper-eyes").job
    assert (job.points_per_side, job.pred_iou_thresh) == (32, 0.88)


def test_points_have_label_1_unless_said_and_a_label_each(given):
    assert given.row(image="red.png", points="1,2;3,4").job.point_labels == (1, 1)
    assert given.row(image="red.png", points="1,2;3,4", point_labels="1,0").job.point_labels == (1, 0)
    assert given.faults(image="red.png", points="1,2;3,4", point_labels="1") == [
        "column 'point_labels': found 1 labels; expected as many labels as points, 2"
    ]
    assert given.faults(image="red.png", box="1,2,3,4", point_labels="1") == [
        "column 'point_labels': found 1 labels; expected as many labels as points, 0"
    ]


@EXAMPLES
@hypothesis.given(x=st.floats(-10, 310), y=st.floats(-10, 210))
def test_a_point_is_inside_the_picture_or_a_fault(pictures, x, y):
    inside = 0 <= round(x, 2) < 300 and 0 <= round(y, 2) < 200
    faults = Given(pictures).faults(image="red.png", points=f"{x:.2f},{y:.2f}")
    assert (faults == []) == inside
    assert inside or "expected points inside the picture of 300 x 200 pixels" in faults[0]


@EXAMPLES
@hypothesis.given(st.tuples(st.integers(0, 310), st.integers(0, 210), st.integers(0, 310), st.integers(0, 210)))
def test_a_box_is_inside_the_picture_and_has_some_area_or_a_fault(pictures, box):
    left, top, right, bottom = box
    good = left < right <= 300 and top < bottom <= 200
    assert (Given(pictures).faults(image="red.png", box=",".join(map(str, box))) == []) == good


def test_points_count_from_the_upright_picture(given, pictures):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (300, 200)).save(pictures / "turned.jpg", exif=exif)
    job = given.row(image="turned.jpg", points="150,299").job
    assert (job.width, job.height) == (200, 300)
    assert given.faults(image="turned.jpg", points="299,150") != []


def test_a_selection_is_one_of_points_and_box_a_phrase_or_everything(given):
    assert given.row(image="red.png", points="1,1", box="0,0,9,9").job.box == (0, 0, 9, 9)
    (fault,) = given.faults(image="red.png", points="1,1", mask_text="the star")
    assert (
        fault == "column 'mask_text': found 'the star'; expected an empty cell, or none of points; give one of the two"
    )
    (fault,) = given.faults(image="red.png", points="1,1", auto="yes")
    assert fault.startswith("column 'auto'")
    assert given.row(image="red.png", points="1,1", auto="no").job.auto is False


def test_a_mask_edit_needs_one_mask(given):
    (fault,) = given.faults(image="red.png", points="1,1", action="remove_object", multimask="all")
    assert fault.startswith("column 'multimask': found 'all'; expected best or largest")
    assert given.row(image="red.png", points="1,1", multimask="all").job.multimask == "all"


def test_a_mask_may_have_another_size_but_not_other_proportions(given):
    assert given.row(image="red.png", mask_image="mask.png", prompt="a").job.mask_image.startswith("inputs/")
    assert given.faults(image="red.png", mask_image="square.png", prompt="a") == [
        "column 'mask_image': found a mask of 100 x 100 pixels; "
        "expected one with the proportions of its picture, 300 x 200"
    ]


def test_the_picture_s_own_transparency_is_a_mask_where_it_can_have_one(given):
    row = given.row(image="green.webp", mask="Alpha", prompt="a")
    assert (row.job.mask_image, row.job.output_format) == ("alpha", "webp")
    (fault,) = given.faults(image="photos/blue one.jpg", mask="alpha", prompt="a")
    assert fault.startswith("column 'mask': found 'alpha'; expected a mask file: the picture has no transparency")


def test_an_edit_that_changes_the_picture_in_no_step_is_a_fault(given):
    (fault,) = given.faults(image="red.png", prompt="a", strength="0.04")
    assert fault == (
        "column 'strength': found '0.04'; expected a strength of which 20 steps leave one at least: from 0.05"
    )
    assert given.row(image="red.png", prompt="a", strength="0.05").job.strength == 0.05


def test_an_edit_keeps_its_size_so_nothing_is_scaled_up_afterwards(given):
    (fault,) = given.faults(image="red.png", mask="mask.png", prompt="a", post="sharpen:1;upscale:2")
    assert "expected no upscale in an edit" in fault
    assert given.row(image="red.png", prompt="a", post="upscale:2").job.post == ("upscale:2",)


# --- sizes and formats ---


def test_width_and_height_are_what_the_model_works_at(given):
    job = given.row(image="red.png", mask="mask.png", prompt="a", width="256").job
    assert (job.width, job.height) == (256, 168)
    job = given.row(image="red.png", mask="mask.png", prompt="a", padding_mask_crop="32").job
    assert (job.width, job.height, job.padding_mask_crop) == (128, 128, 32)
    job = given.row(image="red.png", expand_right="100%", expand_bottom="10").job
    assert (job.width, job.height, job.expand_right, job.expand_bottom) == (216, 72, 300, 10)
    job = given.row(image="red.png", expand_right="10", width="64", height="72").job
    assert (job.width, job.height) == (64, 72)


def test_a_target_size_with_an_anchor_is_the_canvas(given):
    job = given.row(image="red.png", anchor="top left", width="401", height="201").job
    assert (job.expand_left, job.expand_right, job.expand_top, job.expand_bottom) == (0, 101, 0, 1)
    job = given.row(image="red.png", anchor="center", width="401").job
    assert (job.expand_left, job.expand_right, job.expand_top, job.expand_bottom) == (50, 51, 0, 0)
    (fault,) = given.faults(image="red.png", anchor="center", width="200")
    assert fault == "column 'width': found '200'; expected a whole number from 300 to 65536"
    (fault,) = given.faults(image="red.png", anchor="center", width="400", expand_left="5")
    assert fault.startswith("column 'anchor'")


@pytest.mark.parametrize("cells", [{"expand_left": "0"}, {"expand_top": "0%"}, {"anchor": "left", "width": "300"}])
def test_a_canvas_that_does_not_grow_is_a_fault(given, cells):
    (fault,) = given.faults(image="red.png", **cells)
    assert "found a canvas of the picture's own size, 300 x 200; expected a larger one" in fault


def test_a_canvas_beyond_the_limit_is_a_fault_before_anything_is_drawn(given):
    report = given.report(as_csv({"image": "red.png", "expand_left": "1000%"}), Settings(max_input_pixels=100_000))
    assert "found a canvas of 3300 x 200 pixels; expected at most 100,000 pixels" in str(report.faults[0])


@pytest.mark.parametrize(
    ("image", "cells", "expected"),
    [
        ("red.png", {}, ("png", 95)),
        ("photos/blue one.jpg", {}, ("png", 95)),
        ("lossy.webp", {}, ("png", 95)),
        ("green.webp", {}, ("webp", 100)),
        ("green.webp", {"quality": "80"}, ("webp", 100)),
        ("gray.tif", {}, ("tiff", 95)),
        ("photos/blue one.jpg", {"output_format": "Same"}, ("jpeg", 95)),
        ("photos/blue one.jpg", {"output_format": "same", "quality": "80"}, ("jpeg", 80)),
        ("green.webp", {"output_format": "same"}, ("webp", 100)),
        ("lossy.webp", {"output_format": "same"}, ("webp", 95)),
        ("red.png", {"output_format": "jpg"}, ("jpeg", 95)),
    ],
)
def test_an_edit_s_format_follows_its_input(given, image, cells, expected):
    job = given.row(image=image, mask_text="the star", action="remove_object", **cells).job
    assert (job.output_format, job.quality) == expected


def test_img2img_gives_png_and_masks_are_always_png(given):
    assert given.row(image="gray.tif", prompt="a").job.output_format == "png"
    assert given.row(image="gray.tif", prompt="a", output_format="same").job.output_format == "tiff"
    assert given.row(image="gray.tif", auto="yes", output_format="png").job.output_format == "png"
    (fault,) = given.faults(image="red.png", auto="yes", output_format="jpeg")
    assert fault == "column 'output_format': found 'jpeg'; expected png, the only format of masks"
    (fault,) = given.faults(prompt="a", output_format="same")
    assert "same is the format of an input, and this row has none" in fault


def test_a_canvas_that_the_format_cannot_hold_is_a_fault(given):
    (fault,) = given.faults(image="red.png", expand_left="20000", output_format="webp")
    assert "webp holds at most 16,383 pixels on a side" in fault


def test_what_is_too_small_to_select_in_is_a_fault(given):
    assert given.faults(image="tiny.png", points="1,1") == [
        "column 'image': found 4 x 4 pixels; expected at least 8 pixels on each side"
    ]


def test_a_catalog_without_a_model_that_selects_says_so(given):
    bare = Catalog(defaults={"model": "demo"}, models={"demo": MODELS[0]})
    report = given.report(as_csv({"image": "red.png", "mask_text": "x"}), catalog=bare)
    assert [fault.column for fault in report.faults] == ["mask_model", "mask_text_model"]
    assert "expected a model of the family sam; the catalog has no such default: see models.toml" in str(
        report.faults[0]
    )
