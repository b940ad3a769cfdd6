"""Rows that edit pictures beside rows that make them: their kinds, their names, what --set means to them."""

import re
import tracemalloc

import hypothesis
import pytest
from edit_files import CATALOG, as_csv
from hypothesis import strategies as st
from PIL import Image

from producer import columns
from producer.rows import ReadOptions
from producer.submit import run_hash
from shared import jobs
from shared.errors import UsageError

EXAMPLES = hypothesis.settings(max_examples=150)
OTHER_FORMAT = ',red.png,,"1,1,9,9",remove_object,jpg,a\n'


# --- kinds ---


def test_one_file_holds_rows_of_all_kinds_each_by_its_columns(given):
    found = given.rows(
        "image,prompt,mask_image,points,action,expand_left\n"
        ",a star,,,,\n"
        "red.png,a star,,,,\n"
        "red.png,a star,mask.png,,,\n"
        "red.png,,,,,25%\n"
        'red.png,,,"10,20",,\n'
        'red.png,a star,,"10,20",replace_object,\n'
    )
    assert [row.job.kind for row in found] == list(jobs.KINDS)
    assert [row.filename for row in found] == [None, "red-2", "red-3", "red-4", "red-5", "red-6"]


def test_a_row_of_every_kind_has_the_id_of_shared_jobs_whatever_its_cells_say(given):
    texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(str.strip)
    shares = st.floats(0, 1).map(lambda x: f"{x:.4f}")
    cells = st.fixed_dictionaries(
        {"prompt": texts, "negative_prompt": texts.map(str.strip), "seed": st.integers(0, 2**32 - 1).map(str)},
        optional={"strength": st.floats(0.1, 1).map(lambda x: f"{x:.4f}"), "steps": st.integers(10, 50).map(str)},
    )
    points = st.lists(st.tuples(st.floats(0, 299), st.floats(0, 199)), min_size=1, max_size=5)
    points_cell = points.map(lambda pairs: ";".join(f"{x:.3f},{y:.3f}" for x, y in pairs))
    kinds = st.sampled_from(
        [
            {"image": "red.png"},
            {"image": "red.png", "mask_image": "mask.png", "mask_grow": "-3"},
            {"image": "photos/blue one.jpg", "expand_left": "25%", "overlap": "16"},
        ]
    )

    @EXAMPLES
    @hypothesis.given(kinds, cells, points_cell, texts, shares)
    def every_row(kind, common, spots, phrase, threshold):
        given.row(**kind, **common)
        selector = {"image": "red.png", "points": spots, "box": "1,2.5,30,40"}
        given.row(**selector)
        given.row(**selector, action="replace_background", **common)
        assert given.row(image="red.png", mask_text=phrase, text_threshold=threshold).job.mask_text == phrase.strip()

    every_row()


def test_the_kind_may_be_said_and_its_columns_are_then_needed(given):
    assert given.row(kind="Outpaint", image="red.png", prompt="a", width="400").job.expand_left == 50
    assert given.faults(kind="inpaint", image="red.png", prompt="a") == [
        "column 'mask_image': found nothing; expected the path of a mask, s3://bucket/key, or alpha (kind 'inpaint')"
    ]
    assert given.faults(kind="img2img", prompt="a") == [
        "column 'image': found nothing; expected the path of a picture, or s3://bucket/key (kind 'img2img')"
    ]
    assert given.faults(kind="outpaint", image="red.png")[0].startswith("column 'expand_left': found nothing")
    assert given.faults(kind="segment", image="red.png") == [
        "column 'points': found nothing; expected one of points, box, mask_text and auto (kind 'segment')"
    ]
    assert [fault.split(":")[0] for fault in given.faults(kind="mask_edit", image="red.png", prompt="a")] == [
        "column 'points'",
        "column 'action'",
    ]
    (fault,) = given.faults(kind="inpant", image="red.png", prompt="a")
    assert fault.startswith("column 'kind': found 'inpant'; expected one of txt2img, img2img, inpaint")
    assert fault.endswith("did you mean 'inpaint'?")


def test_a_row_whose_kind_cannot_be_told_is_one_fault_beside_those_of_its_cells(given):
    assert given.faults(image="red.png", mask_image="no.png", box="1,1,5", prompt="a", strength="2", steps="0") == [
        "column 'kind': found mask_image and box; expected columns of one kind; "
        "for inpaint empty box, for segment empty mask_image",
        "column 'mask_image': found 'no.png'; expected a picture file that exists; did you mean 'tiny.png'?",
        "column 'box': found '1,1,5'; expected a box as x1,y1,x2,y2 in pixels; left, top, right, bottom",
        "column 'strength': found '2'; expected a number from 0 to 1",
        "column 'steps': found '0'; expected a whole number from 1 to 1000",
    ]


@pytest.mark.parametrize(
    ("cells", "column", "words"),
    [
        ({"prompt": "a", "points": "1,1"}, "points", "kind 'txt2img' has no use for points; a row with an image is an"),
        ({"prompt": "a", "strength": "0.5"}, "strength", "kind 'txt2img' has no use for strength"),
        ({"kind": "txt2img", "prompt": "a", "image": "red.png"}, "image", "kind 'txt2img' has no use for image"),
        ({"image": "red.png", "prompt": "a", "mask_grow": "3"}, "mask_grow", "kind 'img2img' has no use for mask_grow"),
        ({"image": "red.png", "auto": "yes", "seed": "3"}, "seed", "kind 'segment' has no use for seed"),
        ({"image": "red.png", "auto": "yes", "width": "64"}, "width", "kind 'segment' has no use for width"),
        ({"kind": "segment", "image": "red.png", "auto": "1", "prompt": "a"}, "prompt", "goes into mask_text"),
        ({"image": "red.png", "expand_left": "8", "mask_grow": "3"}, "mask_grow", "kind 'outpaint' has no use"),
    ],
)
def test_a_cell_that_the_kind_has_no_use_for_is_a_fault(given, cells, column, words):
    (fault,) = given.faults(**cells)
    assert fault.startswith(f"column '{column}': found ")
    assert words in fault


def test_rows_with_equal_settings_are_each_told_of_their_own_cells(given):
    report = given.report(
        "image,prompt,points,box,kind\n"
        + ",a,1;1,,\n,a,2;2,,\n"  # no image: points are of no use
        + 'red.png,a,"1,1",,\nno.png,a,"2,2;x",,\n'  # a selector and a prompt, but no action
        + 'red.png,,"1,1","5,5,5,5",\nred.png,,"300,1","1,1,5,5",\nred.png,,"1,1","1,1,5,5",\n'
    )
    found = [(fault.line, fault.column, fault.found) for fault in report.faults]
    assert found == [
        *[(2, "points", "'1;1'"), (3, "points", "'2;2'")],
        *[(4, "kind", "points and prompt without action"), (5, "image", "'no.png'")],
        *[(5, "points", "'2,2;x'"), (5, "kind", "points and prompt without action")],
        *[(6, "box", "'5,5,5,5'"), (7, "points", "300,1")],
    ]


def test_set_fills_what_a_row_s_kind_has_a_use_for_and_nothing_else(given):
    fills = {
        "denoise": "0.5",
        "mask_grow": "9",
        "points_per_side": "7",
        "format": "same",
        "width": "64",
        "quality": "70",
    }
    first, second, third, fourth = given.rows(
        "image,prompt,auto,mask\n,a star,,\nphotos/blue one.jpg,a star,,\nred.png,,yes,\nred.png,a star,,mask.png\n",
        **fills,
    )
    assert (first.job.output_format, first.job.width, first.job.quality) == ("png", 64, 70)
    assert (second.job.strength, second.job.output_format, second.job.quality) == (0.5, "jpeg", 70)
    assert (third.job.points_per_side, third.job.width) == (7, 300)
    assert (fourth.job.strength, fourth.job.mask_grow) == (0.5, 9)


def test_set_can_name_the_picture_the_mask_and_the_selection(given):
    (row,) = given.rows("prompt\na star\n", image="red.png", mask="mask.png")
    assert row.job.kind == "inpaint"
    (row,) = given.rows("image\nred.png\n", mask_text="the star", action="remove object")
    assert (row.job.kind, row.job.mask_text, row.job.action) == ("mask_edit", "the star", "remove_object")
    (row,) = given.rows('image,box\nred.png,"1,1,5,5"\n', mask_text="the star", action="remove object")
    assert (row.job.mask_text, row.job.box) == ("", (1, 1, 5, 5))


@pytest.mark.parametrize(
    ("fills", "message"),
    [
        ({"strength": "2"}, "column '--set strength': found '2'; expected a number from 0 to 1"),
        ({"mask_text": "a\x07"}, "column '--set mask_text'"),
        ({"kind": "paint"}, "column '--set kind': found 'paint'"),
        (
            {"mask": "nowhere.png"},
            "column '--set mask_image': found 'nowhere.png'; expected a picture file that exists",
        ),
        ({"mask_model": "demo"}, "column '--set mask_model': found 'demo'; expected one of eyes, sharper-eyes"),
        ({"steps": "many", "auto": "maybe"}, "column '--set auto'"),
    ],
)
def test_a_bad_set_of_an_edit_is_one_error_and_not_one_per_row(given, fills, message):
    with pytest.raises(UsageError) as error:
        given.report("image,prompt\nred.png,a\nred.png,b\n", **fills)
    assert message in str(error.value)


def test_a_size_for_canvases_may_be_set_that_no_model_makes(given):
    (row,) = given.rows("image\nred.png\n", anchor="left", width="1001")
    assert (row.job.expand_left, row.job.expand_right) == (0, 701)


def test_the_header_needs_no_prompt_where_there_is_an_image_and_a_row_that_draws_needs_one(given):
    assert given.row(image="red.png", auto="yes").job.kind == "segment"
    assert given.faults(image="red.png", mask_image="mask.png") == [
        "column 'prompt': found ''; expected a text that says what the picture shows"
    ]
    assert given.faults(image="red.png", box="1,1,9,9", action="replace_object") == [
        "column 'prompt': found ''; expected a text that says what the picture shows"
    ]
    report = given.report(as_csv({"points": "1,1"}))
    assert (report.faults[0].line, report.faults[0].column, report.file_faults) == (1, "prompt", 1)


@pytest.mark.parametrize(
    "cells",
    [
        {"expand_left": "8"},
        {"box": "1,1,9,9", "action": "remove_object"},
        {"mask_text": "x", "action": "remove_object"},
    ],
)
def test_what_can_be_drawn_without_words_needs_no_prompt_and_may_have_one(given, cells):
    assert given.row(image="red.png", prompt=" ", **cells).job.prompt == ""
    assert given.row(image="red.png", prompt="a wall", **cells).job.prompt == "a wall"


# --- names and identities ---


def test_an_edit_is_named_after_its_input_and_no_name_is_given_twice(given):
    found = given.rows("image,auto,filename\nphotos/blue one.jpg,1,\nred.png,1,mine\nred.png,1,\n")
    assert [row.filename for row in found] == ["blue-one-1", "mine", "red-3"]
    report = given.report("kind,image,auto,box,action,format,filename\n,red.png,1,,,,a\n" + OTHER_FORMAT)
    assert "found 'a'; expected a name that no other row has" in str(report.faults[0])  # their masks are both PNG
    report = given.report("image,auto,filename\nred.png,1,red-2\nred.png,1,\n")
    assert [str(fault) for fault in report.faults] == [
        "edits.csv:3: column 'filename': found 'red-2.png'; "
        "expected a name that no other row has; line 2 has it already"
    ]


@EXAMPLES
@hypothesis.given(st.text(max_size=150), st.integers(1, 10_000_000))
def test_a_name_after_an_input_is_one_that_a_user_could_have_given(stem, row):
    name = columns.name_after(stem, row)
    assert columns.filename(name, "png") == name
    assert re.fullmatch(rf"(.*?)(?<!-[0-9])-{row}", name)


@EXAMPLES
@hypothesis.given(
    st.lists(
        st.tuples(st.from_regex(r"(a|-)?(-?[0-9]){0,2}", fullmatch=True), st.integers(1, 3)), min_size=2, max_size=6
    )
)
def test_names_after_inputs_never_meet_whatever_the_inputs_are_called(rows_):
    names = [
        {name.lower() for name in jobs.own_names(columns.name_after(stem, row), "png", images)}
        for row, (stem, images) in enumerate(rows_, 1)
    ]
    assert len(set().union(*names)) == sum(map(len, names))


def test_another_picture_under_the_same_name_is_another_run(given, pictures):
    text = as_csv({"image": "changing.png", "prompt": "a"})
    hashes = []
    for shade in (10, 20, 10):
        Image.new("L", (64, 64), shade).save(pictures / "changing.png")
        report = given.report(text)
        hashes.append(run_hash(report, ReadOptions(), CATALOG))
    assert hashes[0] == hashes[2] != hashes[1]


def test_the_report_counts_kinds_and_names_every_model(given):
    report = given.report("image,prompt,mask_text,action\nred.png,,the star,remove_object\n,a,,\nred.png,,the star,\n")
    assert report.models == {"demo", "eyes", "ears"}
    assert report.kinds == {"mask_edit": 1, "txt2img": 1, "segment": 1}
    assert report.images == 3


def test_memory_does_not_grow_with_the_rows_of_an_edit_file(given):
    peaks = []
    for count in (500, 5_000):
        text = "image,points\n" + "".join(f'red.png,"{i % 300},{i % 200}"\n' for i in range(count))
        tracemalloc.start()
        assert given.report(text).rows == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2_000_000
