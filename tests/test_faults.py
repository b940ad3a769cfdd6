"""Every fault of a file is named once, with its line and column, what was found, what was expected and what helps."""

import json
import re
from pathlib import Path

import pytest

from producer import rows
from producer.faults import Fault, did_you_mean, shown
from producer.rows import MOST_FAULTS, ReadOptions, Report
from shared.catalog import Catalog, Defaults, Limits, Model
from shared.errors import UsageError
from shared.settings import Settings

CATALOG = Catalog(
    defaults={"model": "demo-shapes"},
    models={
        "demo-shapes": Model(
            name="demo-shapes",
            family="sd15",
            path=Path("demo"),
            identity="d" * 64,
            defaults=Defaults(width=128, height=128),
            limits=Limits(min_size=64, max_size=256, multiple_of=8),
        )
    },
)
HEADER = "prompt,steps,sampler,width,height,seed,filename,custom_id,model,cfg,n,output_format,kind,negative_prompt"

# A cell at fault, its column, and words of the message. All other cells of the row are good.
CELLS = [
    ("steps", "abc", "found 'abc'; expected a whole number from 1 to 1000"),
    ("steps", "0", "found '0'; expected a whole number from 1 to 1000"),
    ("steps", "1001", "found '1001'"),
    ("steps", "-20", "found '-20'"),
    ("steps", "20.5", "found '20.5'"),
    ("steps", "1e3", "found '1e3'; expected a whole number from 1 to 1000; write the digits out"),
    (
        "steps",
        '"1,000"',
        "found '1,000'; expected a whole number from 1 to 1000; write digits and a decimal point only",
    ),
    ("steps", "9" * 5000, "(5,000 characters); expected a whole number"),
    ("steps", "٢٠", "expected a whole number"),
    ("cfg", "NaN", "found 'NaN'; expected a number from 0 to 100"),
    ("cfg", "inf", "found 'inf'"),
    ("cfg", '"7,5"', "found '7,5'; expected a number from 0 to 100; write digits and a decimal point only, no comma"),
    ("cfg", "100.1", "found '100.1'"),
    ("cfg", "-1", "found '-1'"),
    ("sampler", "eulr", "found 'eulr'; expected one of euler, "),
    ("sampler", "eulr", "did you mean 'euler'?"),
    ("width", "0", "a multiple of 8 from 64 to 256 (model 'demo-shapes'); the nearest size is 64"),
    (
        "width",
        "65",
        "found '65'; expected a multiple of 8 from 64 to 256 (model 'demo-shapes'); the nearest size is 64",
    ),
    (
        "width",
        "100000",
        "found '100000'; expected a multiple of 8 from 64 to 256 (model 'demo-shapes'); the nearest size is 256",
    ),
    ("height", "abc", "found 'abc'; expected a multiple of 8 from 64 to 256"),
    ("height", "150", "the nearest size is 152"),
    ("seed", "abc", "expected a whole number from 0 to 4294967295, or -1 or an empty cell for a seed of the row's own"),
    ("seed", "4294967296", "found '4294967296'"),
    ("seed", "-2", "found '-2'"),
    ("prompt", "", "found ''; expected a text that says what the picture shows"),
    ("prompt", '" \n "', "found ' \\n '; expected a text"),
    ("prompt", "a" * 1_000_000, "found 1,000,000 characters; expected at most 10,000 characters"),
    ("prompt", "a\x07b", "expected text without control characters; remove U+0007 at character 2"),
    ("prompt", "a\0b", "found a NUL character in 'a\\x00b'; expected text"),
    (
        "prompt",
        b"caf\xe9",
        "found byte 0xe9, which is no UTF-8, in 'caf\\xe9'; expected text in UTF-8; save the file as UTF-8",
    ),
    ("negative_prompt", "\x1b[31m", "remove U+001B at character 1"),
    (
        "filename",
        "../up",
        "found '../up'; expected letters, digits, '.', '_' and '-' only; give a name without folders",
    ),
    ("filename", "/etc/passwd", "give a name without folders"),
    ("filename", "C:\\x", "found 'C:\\\\x'; expected letters"),
    ("filename", ".hidden", "no dot at the beginning"),
    ("filename", "a..b", "no two dots in a row"),
    ("filename", "a.", "no dot at the beginning or the end"),
    ("filename", "é", "found 'é'; expected letters"),
    ("filename", "a.jpg", "found 'a.jpg'; expected no suffix or '.png'; the row's output_format is png"),
    ("filename", "a.gif", "expected no suffix or '.png'"),
    ("filename", "a" * 129, "expected at most 128 characters"),
    ("filename", "NUL.png", "Windows reserves this name for a device"),
    ("custom_id", "a\tb", "expected at most 128 printable characters"),
    ("model", "demo-shape", "found 'demo-shape'; expected one of demo-shapes; did you mean 'demo-shapes'?"),
    ("n", "65", "expected a whole number from 1 to 64"),
    ("output_format", "bmp", "found 'bmp'; expected one of png, jpeg, webp, tiff"),
    ("kind", "upscale", "found 'upscale'; expected one of txt2img, img2img, inpaint, "),
]


def check(folder: Path, data: str | bytes, **limits: int) -> Report:
    path = folder / "prompts.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return rows.check(path, ReadOptions(), CATALOG, Settings(**limits))


def messages(folder: Path, data: str | bytes, **limits: int) -> list[str]:
    return [str(fault) for fault in check(folder, data, **limits).faults]


def row(column: str = "", cell: str | bytes = b"") -> bytes:
    """A good row but for one cell."""
    names = HEADER.split(",")
    cells = [b"a star"] + [b""] * (len(names) - 1)
    if column:
        cells[names.index(column)] = cell if isinstance(cell, bytes) else cell.encode()
    return b",".join(cells) + b"\n"


@pytest.mark.parametrize(("column", "cell", "words"), CELLS)
def test_a_bad_cell_is_one_fault_with_line_and_column(tmp_path, column, cell, words):
    (message,) = messages(tmp_path, HEADER.encode() + b"\n" + row() + row(column, cell) + row())
    assert message.startswith(f"prompts.csv:3: column {column!r}: found ")
    assert words in message
    assert len(message) < 400


def test_all_faults_of_a_file_are_named_at_once_and_once_each(tmp_path):
    """All the cells above, one row each, with broken rows among them."""
    planted = [(column, cell) for column, cell, _ in CELLS]
    data = HEADER.encode() + b"\n" + row()
    expected = []
    for column, cell in planted:
        expected.append((data.count(b"\n") + 1, column))
        data += row(column, cell) + row()
    broken = [
        (b"a star,20\n", "sampler"),  # too few cells
        (b"a star, no, quotes" + b"," * 13 + b"\n", "#15"),  # too many
        (b'"a star" at night' + b"," * 13 + b"\n", "prompt"),  # text after the quote
        (b'a star,"20' + b"," * 12 + b"\n", "steps"),  # never closed
        (b"a" * (1 << 20) + b"," * 13 + b"\n", ""),  # longer than a row may be
        (row("filename", "Mine"), None),
        (row("filename", "mine.png"), "filename"),
        (row("custom_id", "1"), None),
        (row("custom_id", "1"), "custom_id"),
        (b'"a star' + b"," * 13 + b"\n", "prompt"),
    ]
    for line, name in broken:
        if name is not None:
            expected.append((data.count(b"\n") + 1, name))
        data += line + row()
    report = check(tmp_path, data)
    assert [(fault.line, fault.column) for fault in report.faults] == expected
    assert report.fault_count == len(expected) >= 30
    assert report.rejected == len(expected)
    assert report.rows == 1 + len(planted) + len(broken) + 2


def test_a_row_with_three_bad_cells_has_three_faults_in_the_order_of_its_columns(tmp_path):
    found = check(tmp_path, "steps,prompt,seed,width\nabc,,-7,128\n").faults
    assert [(fault.line, fault.column) for fault in found] == [(2, "steps"), (2, "prompt"), (2, "seed")]


def test_settings_that_are_checked_once_are_named_in_every_row(tmp_path):
    found = messages(tmp_path, "prompt,steps\na,x\nb,x\n")
    assert [message[:14] for message in found] == ["prompts.csv:2:", "prompts.csv:3:"]


def test_bad_bytes_spoil_their_cell_and_other_faults_of_the_row_are_named_too(tmp_path):
    found = check(tmp_path, b"prompt,steps,note\ncaf\xe9,abc,\xff\na star,20,\n").faults
    assert [(fault.line, fault.column) for fault in found] == [(2, "prompt"), (2, "steps"), (2, "note")]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("steps", "column 'prompt': found the columns 'steps'; expected a column of this name in line 1"),
        ("prompt,steps,sd_steps", "column 'sd_steps': found a second column for num_inference_steps, beside 'steps'"),
        ("prompt,seed,seed", "column 'seed': found the name twice, in columns 2 and 3; expected each name once"),
        ("prompt,mood,mood", "column 'mood': found the name twice"),
        ("prompt,,seed", "column '#2': found an empty name; expected a name for every column"),
        ("prompt;steps", "the cells seem to be separated by semicolons"),
        ("prompt\tsteps", "the cells seem to be separated by tabs"),
        ('"prompt,steps', "column '#1': found a quote that is opened here and not closed"),
        (b"prompt,\xe9", "found byte 0xe9, which is no UTF-8"),
    ],
)
def test_a_bad_header_is_one_fault_of_the_file_and_not_one_of_every_row(tmp_path, header, words):
    data = header if isinstance(header, bytes) else header.encode()
    report = check(tmp_path, data + b"\n" + b",".join([b"1"] * (data.count(b",") + 1)) + b"\n")
    (fault,) = report.faults
    assert str(fault).startswith("prompts.csv:1: ")
    assert words in str(fault)
    assert report.file_faults == 1


def test_bad_rows_are_named_beside_a_bad_header(tmp_path):
    found = check(tmp_path, "steps\nabc\n20\n").faults
    assert [(fault.line, fault.column) for fault in found] == [(1, "prompt"), (2, "steps")]


def test_an_unclosed_quote_is_named_where_it_opens_and_the_lines_after_it_are_read(tmp_path):
    report = check(tmp_path, 'prompt,steps\n"first\nline","20\na star,abc\n"a, b",20\n')
    assert [(fault.line, fault.column) for fault in report.faults] == [(3, "steps"), (4, "steps")]
    assert (report.read, report.rows) == (3, 1)


def test_a_duplicate_names_the_line_of_the_first_whatever_its_case(tmp_path):
    (message,) = messages(tmp_path, "prompt,filename,n\na,Star,1\nb,star-1,1\nc,STAR,3\n")
    assert message == (
        "prompts.csv:4: column 'filename': found 'star-1.png'; "
        "expected a name that no other row has; line 3 has it already"
    )


def test_one_name_in_two_formats_is_no_duplicate(tmp_path):
    assert messages(tmp_path, "prompt,filename,format\na,star,png\nb,star,webp\n") == []


def test_a_bad_row_takes_no_name_from_a_good_one(tmp_path):
    found = check(tmp_path, "prompt,filename,steps\na,star,abc\nb,star,20\nc,star,20\nd,star,abc\n").faults
    where = [(fault.line, fault.column) for fault in found]
    assert where == [(2, "steps"), (4, "filename"), (5, "filename"), (5, "steps")]


def test_the_last_image_of_a_row_needs_a_seed_too(tmp_path):
    text = "prompt,seed,n\na,4294967292,4\nb,4294967293,4\n"
    (message,) = messages(tmp_path, text)
    assert message.startswith(
        "prompts.csv:3: column 'seed': found '4294967293'; expected a whole number from 0 to 4294967292"
    )


def test_an_unknown_model_or_scheduler_makes_no_further_faults(tmp_path):
    found = check(tmp_path, "prompt,model,width,sampler,schedule_type\na,other,2048,nope,Karras\n").faults
    assert [fault.column for fault in found] == ["model", "sampler"]


def test_a_schedule_type_that_does_not_go_with_its_scheduler_is_its_own_fault(tmp_path):
    (message,) = messages(tmp_path, "prompt,sampler,schedule_type\na,Euler a,Karras\n")
    assert message == (
        "prompts.csv:2: column 'schedule_type': found 'Karras'; "
        "expected one of automatic, sgm_uniform, uniform (scheduler 'euler_a')"
    )


def test_a_sampler_that_diffusers_lacks_is_refused_with_the_reason(tmp_path):
    (message,) = messages(tmp_path, "prompt,sampler\na,DPM fast\n")
    assert "found 'DPM fast'" in message and "diffusers has none like it" in message


def test_a_distilled_models_sampler_has_no_more_steps_than_it_was_trained_on(tmp_path):
    (message,) = messages(tmp_path, "prompt,sampler,steps\na,LCM,50\nb,LCM,51\n")
    assert message == "prompts.csv:3: column 'steps': found 51 steps; expected at most 50 with the scheduler 'lcm'"


def test_too_many_rows_are_one_fault_and_reading_stops(tmp_path):
    report = check(tmp_path, "prompt\na\nb\nc\nd\n", max_rows=2)
    assert [str(fault) for fault in report.faults] == [
        "prompts.csv:4: found more than 2 rows; expected at most 2; cut the file in two"
    ]
    assert (report.read, report.file_faults) == (2, 1)


def test_a_long_row_is_one_fault_with_or_without_quotes_and_line_ends(tmp_path):
    long = "x" * 1_000_000
    found = check(tmp_path, f'prompt\n{long}\n"{long}"\nlast\n', max_row_bytes=100_000)
    assert [fault.line for fault in found.faults] == [2, 3]
    assert found.rows == 1


def test_a_thousand_faults_are_kept_and_the_rest_counted(tmp_path):
    report = check(tmp_path, "prompt,steps\n" + "a,x\n" * (MOST_FAULTS + 500))
    assert (len(report.faults), report.fault_count) == (MOST_FAULTS, MOST_FAULTS + 500)


def test_a_file_of_column_names_only_is_a_fault(tmp_path):
    assert messages(tmp_path, "prompt,steps\n\n") == [
        "prompts.csv:1: found no rows after the column names; expected a line per picture"
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\r\n", "the file is empty"),
        (b"PK\x03\x04...", "a spreadsheet or ZIP archive"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        ("prompt\na\n".encode("utf-16"), "UTF-16 text"),
    ],
)
def test_a_file_that_is_no_csv_is_refused_by_what_it_seems_to_be(tmp_path, data, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        check(tmp_path, data)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path, words in (tmp_path, "a folder"), (tmp_path / "none.csv", "No such file"):
        with pytest.raises(UsageError, match=words):
            rows.check(path, ReadOptions(), CATALOG, Settings())


def test_a_fault_reads_as_a_sentence():
    fault = Fault("a.csv", 12, "steps", shown("abc"), "a whole number")
    assert str(fault) == "a.csv:12: column 'steps': found 'abc'; expected a whole number"


def test_what_is_shown_of_a_cell_is_short_and_on_one_line():
    assert shown("a\nb") == "'a\\nb'"
    assert shown("x" * 1_000) == f"'{'x' * 57}'... (1,000 characters)"
    assert shown("caf\udce9") == "'caf\\xe9'"


def test_the_nearest_name_is_given_only_where_it_is_near():
    assert did_you_mean("stepz", ["steps", "seed"]) == "did you mean 'steps'?"
    assert did_you_mean("mood", ["steps", "seed"]) == ""


def test_a_lora_or_an_autoencoder_that_goes_with_other_models_is_refused_with_both_named(tmp_path):
    text = "prompt,vae,loras\na,,ink:0.5\nb,fine,\nc,,ink;ink\nd,,nope\ne,,xl-ink:2\nf,,ink:11\n"
    entries = [
        Model(name=name, family=family, path=Path(f"{name}.safetensors"), base=base, identity="a" * 64)
        for name, family, base in (("ink", "lora", "sd15"), ("xl-ink", "lora", "sdxl"), ("fine", "vae", "sdxl"))
    ]
    with_more = CATALOG.model_copy(update={"models": CATALOG.models | {each.name: each for each in entries}})
    (tmp_path / "prompts.csv").write_text(text)
    found = rows.check(tmp_path / "prompts.csv", ReadOptions(), with_more, Settings()).faults
    assert [(fault.line, fault.column) for fault in found] == [(n, "vae" if n == 3 else "loras") for n in range(3, 8)]
    words = ("goes with sdxl", "ink twice", "one of ink, xl-ink", "goes with sd15", "from -10 to 10")
    assert all(word in str(fault) for word, fault in zip(words, found, strict=True)), [str(fault) for fault in found]


def test_a_textual_inversion_that_is_asked_for_by_its_prefix_must_be_there(tmp_path):
    sunny = Model(name="sunny", family="embedding", path=Path("sunny.pt"), identity="a" * 64)
    known = CATALOG.model_copy(update={"models": CATALOG.models | {"sunny": sunny}})
    (tmp_path / "prompts.csv").write_text("prompt\na embedding:sunny\na sunnny\na embedding:sunnny\n")
    (fault,) = rows.check(tmp_path / "prompts.csv", ReadOptions(), known, Settings()).faults
    assert fault.line == 4
    assert "'embedding:sunnny'" in str(fault) and "one of sunny; did you mean 'sunny'?" in str(fault)


def test_a_prefix_insists_on_a_textual_inversion_that_goes_with_the_model(tmp_path):
    entries = [
        Model(name="wide", family="embedding", path=Path("wide.pt"), base="sdxl", identity="a" * 64),
    ]
    known = CATALOG.model_copy(update={"models": CATALOG.models | {each.name: each for each in entries}})
    (tmp_path / "prompts.csv").write_text("prompt\na wide cat\na embedding:WIDE cat\n")
    (fault,) = rows.check(tmp_path / "prompts.csv", ReadOptions(), known, Settings()).faults
    assert (fault.line, fault.column) == (3, "prompts")
    assert "expected one that goes with sd15; 'wide' goes with sdxl" in str(fault)


def test_set_says_what_the_rows_models_can_take(tmp_path):
    big = Model(name="big", family="sdxl", path=Path("big"), identity="a" * 64)
    known = CATALOG.model_copy(update={"models": CATALOG.models | {"big": big}})
    (tmp_path / "prompts.csv").write_text("prompt,model\na,big\n")
    options = ReadOptions(fills={"prompt_2": "nice", "hires_steps": "10"})
    assert not rows.check(tmp_path / "prompts.csv", options, known, Settings()).faults


def test_a_text_for_a_second_encoder_needs_a_model_that_has_one(tmp_path):
    big = Model(name="big", family="sdxl", path=Path("big"), identity="a" * 64)
    known = CATALOG.model_copy(update={"models": CATALOG.models | {"big": big}})
    (tmp_path / "prompts.csv").write_text("prompt,prompt_2,model\na,b,\na,b,big\n")
    (fault,) = rows.check(tmp_path / "prompts.csv", ReadOptions(), known, Settings()).faults
    assert (fault.line, fault.column) == (2, "prompt_2")
    assert "because model 'demo-shapes' has one text encoder" in str(fault)


def test_a_model_for_inpainting_alone_draws_nothing_without_a_mask(tmp_path):
    masked = Model(name="masked", family="sd15-inpaint", path=Path("masked"), identity="a" * 64)
    (tmp_path / "prompts.csv").write_text("prompt,model\na,masked\n")
    known = CATALOG.model_copy(update={"models": CATALOG.models | {"masked": masked}})
    (fault,) = rows.check(tmp_path / "prompts.csv", ReadOptions(), known, Settings()).faults
    assert "a model that draws without a mask" in str(fault) and "family sd15-inpaint" in str(fault)


def test_a_schedule_type_alone_takes_the_place_of_the_default_s(tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt,schedule_type\na,beta\nb,automatic\nc,\n")
    report = rows.check(tmp_path / "prompts.csv", ReadOptions(), CATALOG, Settings())
    read = rows.read(tmp_path / "prompts.csv", ReadOptions(), CATALOG, Settings(), report)
    found = [json.loads(entry.text)["job"]["scheduler"] for entry in read]
    assert found == ["dpmpp_2m_beta", "dpmpp_2m", "dpmpp_2m_karras"]
