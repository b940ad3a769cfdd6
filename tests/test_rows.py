"""A CSV file is read as RFC 4180 and its users mean it, in two passes that agree."""

import csv
import io
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from producer import cells, columns, rows
from producer.entry import Entry
from producer.records import Lines, records
from producer.rows import ReadOptions, Rejected, Report
from shared import jobs
from shared.catalog import Catalog, Defaults, Limits, Model
from shared.errors import UsageError
from shared.settings import Settings
from workers.demo import captions, scenes

EXAMPLES = hypothesis.settings(max_examples=150)
CATALOG = Catalog(
    defaults={"model": "demo"},
    models={
        "demo": Model(
            name="demo",
            family="sd15",
            path=Path("demo"),
            identity="d" * 64,
            defaults=Defaults(width=128, height=128, num_inference_steps=20, guidance_scale=4.0, scheduler="dpmpp_2m"),
            limits=Limits(min_size=64, max_size=256, multiple_of=8),
        ),
        "large": Model(name="large", family="sd15", path=Path("large"), identity="e" * 64),
    },
)
SETTINGS = Settings()
CSV_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('",\n\r\t'), min_size=1)


def check(path: Path, options: ReadOptions = ReadOptions(), settings: Settings = SETTINGS) -> Report:  # noqa: B008
    return rows.check(path, options, CATALOG, settings)


def read(path: Path, options: ReadOptions = ReadOptions(), settings: Settings = SETTINGS) -> list[jobs.Row | Rejected]:  # noqa: B008
    report = rows.check(path, options, CATALOG, settings)
    found = rows.read(path, options, CATALOG, settings, report)
    return [item if isinstance(item, Rejected) else as_row(item) for item in found]


def as_row(entry: Entry) -> jobs.Row:
    """The row as a worker reads it, after a look at what planning is told about it."""
    row = jobs.Row.model_validate_json(entry.text)
    assert entry[:4] == (row.row, jobs.batch_key(row.job), row.job.num_images_per_prompt, row.job.model)
    return row


@pytest.fixture
def file(tmp_path: Path):
    """Write a file and read it: its rows where all are good."""

    def write(text: str | bytes, options: ReadOptions = ReadOptions()) -> list[jobs.Row]:  # noqa: B008
        path = tmp_path / "prompts.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        report = check(path, options)
        assert [str(fault) for fault in report.faults] == []
        found = [row for row in read(path, options) if isinstance(row, jobs.Row)]
        assert (report.read, report.rows) == (len(found), len(found))
        return found

    return write


def test_an_empty_cell_means_the_default_of_the_model(file):
    (row,) = file("prompt,steps,cfg_scale,sampler,width,model\na red circle,,,,,\n")
    expected = jobs.Txt2Img(
        model="demo",
        prompt="a red circle",
        width=128,
        height=128,
        num_inference_steps=20,
        guidance_scale=4.0,
        scheduler="dpmpp_2m",
        seed=jobs.derived_seed("", 1, "a red circle"),
    )
    assert row.job == expected
    assert row.job_id == jobs.job_id(expected.model_dump(), {"model": "d" * 64})


def test_another_model_brings_its_own_defaults_and_limits(file):
    (row,) = file("prompt,model,width\na red circle,large,768\n")
    assert (row.job.width, row.job.height, row.job.scheduler) == (768, 512, "dpmpp_2m_karras")


def test_a_row_says_everything_in_its_cells(file):
    head = "prompt,negative_prompt,width,height,num_inference_steps,guidance_scale,seed,num_images_per_prompt,"
    head += "scheduler,schedule_type,model,output_format,quality,filename,custom_id,kind\n"
    (row,) = file(head + "a star,text,64,256,30,7,5,2,Euler,Karras,demo,JPG,80,star.jpg,id 1,txt2img\n")
    assert row.job == jobs.Txt2Img(
        model="demo",
        prompt="a star",
        negative_prompt="text",
        width=64,
        height=256,
        num_inference_steps=30,
        guidance_scale=7.0,
        scheduler="euler_karras",
        seed=5,
        num_images_per_prompt=2,
        output_format="jpeg",
        quality=80,
    )
    assert jobs.image_names(row) == ["star-0.jpg", "star-1.jpg"]
    assert row.custom_id == "id 1"


@pytest.mark.parametrize(("alias", "column"), [(a, c) for c, names in columns.ALIASES.items() for a in names])
def test_an_alias_means_its_column_whatever_its_case(alias, column):
    assert columns.NAMES[cells.plain(alias.upper().replace("_", " "))] == column


def test_scheduler_beside_sampler_name_is_the_schedule_type_as_in_a1111_and_comfyui(file):
    (row,) = file("prompt,sampler_name,scheduler\na star,DPM++ 2M,Karras\n")
    assert row.job.scheduler == "dpmpp_2m_karras"


def test_unknown_columns_are_metadata_and_a_warning_names_the_nearest(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,stpes,mood\na star,20,calm\n")
    (row,) = read(path)
    assert row.metadata == {"stpes": "20", "mood": "calm"}
    assert check(path).warnings == [
        "a.csv:1: column 'stpes' is not known and kept as metadata; did you mean 'steps'?",
        "a.csv:1: column 'mood' is not known and kept as metadata",
    ]


def test_the_columns_of_failed_csv_are_ignored(tmp_path):
    path = tmp_path / "failed.csv"
    path.write_text("prompt,seed,error_type,error,attempts\na star,5,BadImage,it is black,3\n")
    (row,) = read(path)
    report = check(path)
    assert (row.cells, row.metadata) == ({"prompt": "a star", "seed": "5"}, {})
    assert (report.columns, report.warnings) == (("prompt", "seed"), [])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_line_ends_and_a_bom_do_not_matter_and_lines_are_counted(file, end, bom):
    found = file(bom + end.join(["prompt,steps", '"two', 'lines",20', "", "  ", "a star,30.0", "a heart,"]))
    assert [(row.row, row.line, row.job.num_inference_steps) for row in found] == [(1, 2, 20), (2, 6, 30), (3, 7, 20)]
    assert found[0].job.prompt == f"two{end}lines"


def test_quotes_in_an_unquoted_cell_are_text(file):
    (row,) = file('prompt,steps\na 5" nail and a "sign",20\n')
    assert row.job.prompt == 'a 5" nail and a "sign"'


def test_seeds_are_derived_where_none_is_given_and_another_salt_gives_others(file):
    text = "prompt,seed\na star,\na star,-1\na star,7\n"
    plain, salted = file(text), file(text, ReadOptions(salt="b"))
    assert [row.job.seed for row in plain] == [*(jobs.derived_seed("", n, "a star") for n in (1, 2)), 7]
    assert plain[0].job.seed != plain[1].job.seed
    assert plain[0].job.seed != salted[0].job.seed
    assert plain[2].job == salted[2].job


def test_set_fills_empty_and_absent_cells_only(file):
    fills = {"steps": "30", "Negative prompt": "blurry", "seed": "9", "height": "64"}
    first, second = file("prompt,steps,seed\na star,25,\na heart,,3\n", ReadOptions(fills=fills))
    assert (first.job.num_inference_steps, first.job.seed, first.job.height) == (25, 9, 64)
    assert (second.job.num_inference_steps, second.job.seed, second.job.negative_prompt) == (30, 3, "blurry")
    assert second.cells == {"prompt": "a heart", "steps": "", "seed": "3"}


def test_set_can_give_the_prompt(file):
    (row,) = file("seed\n5\n", ReadOptions(fills={"prompt": "a star"}))
    assert row.job.prompt == "a star"


@pytest.mark.parametrize(
    ("fills", "message"),
    [
        ({"stepz": "3"}, "--set stepz: no such column; did you mean 'steps'?"),
        ({"steps": "many"}, "column '--set num_inference_steps': found 'many'; expected a whole number from 1 to 1000"),
        ({"filename": "a"}, "--set filename: no two rows may share a filename; write it into the file"),
        ({"steps": "3", "sd_steps": "4"}, "--set sd_steps: num_inference_steps is set twice"),
    ],
)
def test_a_bad_set_is_one_error_and_not_one_per_row(tmp_path, fills, message):
    path = tmp_path / "a.csv"
    path.write_text("prompt\na\nb\n")
    with pytest.raises(UsageError) as error:
        check(path, ReadOptions(fills=fills))
    assert str(error.value) == message


def test_limit_reads_the_first_rows_and_hashes_the_whole_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt\na\nb\nc\n")
    report = check(path, ReadOptions(limit=2))
    assert (report.read, report.rows) == (2, 2)
    assert report.file_sha256 == check(path).file_sha256


def test_the_report_counts_rows_images_and_models(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt,n,model\na,3,demo\nb,,large\nc,x,\n")
    report = check(path)
    assert (report.read, report.rows, report.rejected, report.images) == (3, 2, 1, 4)
    assert report.models == {"demo", "large"}


def test_a_file_that_changes_between_the_passes_is_noticed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("prompt\na star\n")
    report = check(path)
    path.write_text("prompt\na heart\n")
    with pytest.raises(UsageError, match="the file changed"):
        list(rows.read(path, ReadOptions(), CATALOG, SETTINGS, report))


def test_bad_rows_come_with_their_cells_and_reasons_beside_the_good_ones(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,steps\na star,20\n"a heart",abc\na cross,20,9\n"open,20\na ring,20\n')
    found = read(path)
    bad = [row.as_line() for row in found if isinstance(row, Rejected)]
    assert [row.row for row in found if isinstance(row, jobs.Row)] == [1, 5]
    assert [(line["row"], line["line"], line["cells"], line["raw"]) for line in bad] == [
        (2, 3, {"prompt": "a heart", "steps": "abc"}, None),
        (3, 4, {"prompt": "a cross", "steps": "20,9"}, "a cross,20,9"),
        (4, 5, {"prompt": "open,20\n"}, '"open,20\n'),
    ]
    assert bad[0]["faults"] == ["a.csv:3: column 'steps': found 'abc'; expected a whole number from 1 to 1000"]
    assert json.dumps(bad)


@EXAMPLES
@hypothesis.given(
    prompts=st.lists(CSV_TEXT.filter(str.strip), min_size=1, max_size=8), end=st.sampled_from(["\n", "\r\n"])
)
def test_prompts_that_a_csv_writer_wrote_are_read_back_equal(tmp_path_factory, prompts, end):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["prompt"])
    lines = []
    for prompt in prompts:
        lines.append(len((text.getvalue() + "x").encode().splitlines()))
        writer.writerow([prompt])
    path = tmp_path_factory.mktemp("round") / "a.csv"
    path.write_bytes(text.getvalue().encode())
    found = read(path)
    assert [(row.row, row.line, row.job.prompt) for row in found] == list(
        zip(range(1, len(prompts) + 1), lines, prompts, strict=True)
    )


@EXAMPLES
@hypothesis.given(
    head=st.sampled_from([b"", b"prompt\n", b"prompt,steps,filename,seed\n", b'"prompt",sampler\r']),
    body=st.lists(
        st.sampled_from([b'"', b'""', b",", b"\n", b"\r", b"\0", b"\xe9", b"a", b"20"]) | st.binary(max_size=8)
    ),
)
def test_no_bytes_crash_the_check_and_the_second_pass_agrees(tmp_path_factory, head, body):
    path = tmp_path_factory.mktemp("bytes") / "a.csv"
    path.write_bytes(head + b"".join(body))
    small = Settings(max_row_bytes=64)
    try:
        report = check(path, settings=small)
    except UsageError:
        return
    found = read(path, settings=small)
    faults = [fault for row in found if isinstance(row, Rejected) for fault in row.faults]
    assert (report.read, report.rows) == (len(found), sum(isinstance(row, jobs.Row) for row in found))
    assert report.faults[report.file_faults :] == faults or report.file_faults
    assert json.dumps([row.as_line() for row in found if isinstance(row, Rejected)], ensure_ascii=False).encode()


@EXAMPLES
@hypothesis.given(prompt=CSV_TEXT.filter(str.strip), negative=CSV_TEXT.map(str.strip), seed=st.integers(0, 2**32 - 1))
def test_the_fast_job_id_is_the_one_of_shared_jobs(tmp_path_factory, prompt, negative, seed):
    path = tmp_path_factory.mktemp("id") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["prompt", "negative_prompt", "seed", "cfg"], [prompt, negative, seed, "7.25"]])
    (row,) = read(path)
    assert row.job == jobs.Txt2Img.model_validate(row.job.model_dump())
    assert row.job_id == jobs.job_id(row.job.model_dump(), {"model": "d" * 64})


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for count in (1_000, 20_000):
        path = tmp_path / f"{count}.csv"
        path.write_text("prompt,filename\n" + "".join(f"star {i},name-{i}\n" for i in range(count)))
        tracemalloc.start()
        assert check(path).rows == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2_000_000


class Counted(Lines):
    given = 0

    def __next__(self) -> bytes:
        line = super().__next__()
        self.given += 1
        return line


@EXAMPLES
@hypothesis.given(
    st.lists(st.sampled_from(['"', '""', '"""', ",", "\n", "\n", "a"]), max_size=60), st.sampled_from([16, 999])
)
def test_unclosed_quotes_make_no_line_be_read_more_than_three_times(pieces, most_bytes):
    data = "".join(pieces).encode()
    lines = Counted(io.BytesIO(data), most_bytes)
    assert sum(1 for _ in records(lines)) <= len(data.splitlines())
    assert lines.given <= 3 * len(data.splitlines())


def test_a_row_of_bad_bytes_that_is_too_long_is_rejected_with_what_it_begins_with(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt\n" + b"\x80" * 100 + b"\n" + b'"' + b"\x80" * 60 + b"\n")
    found = read(path, settings=Settings(max_row_bytes=64))
    assert [row.cells["prompt"][:8] for row in found if isinstance(row, Rejected)] == ["\\x80\\x80"] * 2


def test_the_reference_page_names_every_column_and_alias():
    page = Path(__file__).parents[1].joinpath("docs/reference/csv.md").read_text(encoding="utf-8")
    names = [*columns.NAMES, *columns.IGNORED]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_example_is_good_and_says_only_what_the_demo_model_knows():
    path = Path(__file__).parents[1] / "examples/prompts.csv"
    report = check(path)
    assert (report.rows, report.faults, report.warnings) == (24, [], [])
    said = " ".join(row.job.prompt for row in read(path) if isinstance(row, jobs.Row))
    assert set(re.findall(r"[a-z]+", said)) <= _demo_words()


def _demo_words() -> set[str]:
    phrases = [*captions.TEMPLATES, *scenes.COLORS, *scenes.SHAPES, "an with vertical horizontal"]
    for words in (captions.SIZE_WORDS, captions.PLACE_WORDS, captions.PATTERN_WORDS):
        phrases += [phrase for group in words.values() for phrase in group]
    return set(re.findall(r"[a-z]+", re.sub(r"{\w+}", " ", " ".join(phrases))))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_examples_for_models_of_one_s_own_are_good_files(family: Any) -> None:
    own = Model(name="mine", family=family, path=Path("mine"), identity="a" * 64)
    path = Path(__file__).parents[1] / f"examples/{family}.csv"
    report = rows.check(path, ReadOptions(), Catalog(defaults={"model": "mine"}, models={"mine": own}), Settings())
    assert [str(fault) for fault in report.faults] == []
    assert report.rows >= 8


@pytest.mark.parametrize(
    ("prompt", "cell", "left", "loras"),
    [
        ("a cat <lora:ink:0.5>", "", "a cat", (("ink", 0.5),)),
        ("<lora:ink>, a cat<lora:wash:-1>  at night", "", ", a cat at night", (("ink", 1.0), ("wash", -1.0))),
        ("a cat <lora:ink:0.5>", "wash:2", "a cat", (("wash", 2.0), ("ink", 0.5))),
        ("a cat <lora ink>", "ink", "a cat <lora ink>", (("ink", 1.0),)),
        ("a  cat", "", "a  cat", ()),
    ],
)
def test_loras_in_a_prompt_mean_what_the_column_means(
    tmp_path: Path, prompt: str, cell: str, left: str, loras: Any
) -> None:
    more = {
        name: Model(name=name, family="lora", path=Path("l.safetensors"), base="sd15", identity="a" * 64)
        for name in ("ink", "wash")
    }
    known = CATALOG.model_copy(update={"models": CATALOG.models | more})
    path = tmp_path / "tags.csv"
    path.write_text(f'prompt,loras\n"{prompt}",{cell}\n')
    report = rows.check(path, ReadOptions(), known, Settings())
    (entry,) = rows.read(path, ReadOptions(), known, Settings(), report)
    row = json.loads(entry.text)
    assert (row["job"]["prompt"], row["job"]["loras"]) == (left, [list(lora) for lora in loras])
    assert row["cells"]["prompt"] == prompt
    assert set(report.models) == {row["job"]["model"], *(name for name, _ in loras)}


def test_a_blank_negative_prompt_is_the_one_of_set_with_its_words(tmp_path: Path) -> None:
    sunny = Model(name="sunny", family="embedding", path=Path("sunny.pt"), identity="a" * 64)
    known = CATALOG.model_copy(update={"models": CATALOG.models | {"sunny": sunny}})
    path = tmp_path / "blank.csv"
    path.write_text('prompt,seed,negative_prompt\na,1,"  "\na,1,\n')
    options = ReadOptions(fills={"negative_prompt": "sunny"})
    report = rows.check(path, options, known, Settings())
    found = [json.loads(entry.text) for entry in rows.read(path, options, known, Settings(), report)]
    assert [row["job"]["embeddings"] for row in found] == [["sunny"]] * 2
    assert found[0]["job_id"] == found[1]["job_id"]


@pytest.mark.parametrize("kind", ["txt2img", "img2img"])
def test_no_text_of_a_row_is_taken_for_the_place_of_another(kind: str, tmp_path: Path) -> None:
    big = Model(name="big", family="sdxl", path=Path("big"), identity="a" * 64)
    known = Catalog(defaults={"model": "big"}, models={"big": big})
    path = tmp_path / "hole.csv"
    texts = ("<hole>", "hole", "\\u0000hole", "\\x00hole")
    image = Path(__file__).parents[1] / "examples/images/red-heart.png"
    last = image if kind == "img2img" else ""
    path.write_text("prompt,prompt_2,negative_prompt_2,image\n" + "".join(f"a,{t},{t},{last}\n" for t in texts))
    report = rows.check(path, ReadOptions(), known, Settings())
    assert [str(fault) for fault in report.faults] == []
    found = rows.read(path, ReadOptions(), known, Settings(), report)
    made = [jobs.Row.model_validate_json(entry.text).job for entry in found]
    assert [(job.kind, job.prompt_2, job.negative_prompt_2) for job in made] == [(kind, t, t) for t in texts]


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ("a Sunny day,", ("sunny",)),
        ("a day,(SUNNY:1.2)", ("sunny",)),
        ("embedding:sunny dark,", ("dark", "sunny")),
        ("uneasy-sunny,xl-only", ()),
        ("a cat,", ()),
    ],
)
def test_words_of_the_texts_that_are_names_of_textual_inversions_stand_for_them(
    tmp_path: Path, cells: str, named: tuple[str, ...]
) -> None:
    bases: tuple[Any, ...] = (("sunny", "sd15"), ("dark", None), ("xl-only", "sdxl"))
    more = {
        name: Model(name=name, family="embedding", path=Path(f"{name}.pt"), base=base, identity="a" * 64)
        for name, base in bases
    }
    known = CATALOG.model_copy(update={"models": CATALOG.models | more})
    path = tmp_path / "words.csv"
    path.write_text(f"prompt,negative_prompt\n{cells}\n")
    report = rows.check(path, ReadOptions(), known, Settings())
    (entry,) = rows.read(path, ReadOptions(), known, Settings(), report)
    row = jobs.Row.model_validate_json(entry.text)
    assert getattr(row.job, "embeddings", None) == named
    assert row.job_id == jobs.job_id(
        row.job.model_dump(mode="json"), {role: known.models[m].identity for role, m in jobs.models(row.job).items()}
    )
    assert set(report.models) == {"demo", *named}


def test_what_is_put_onto_a_model_makes_another_job_and_another_batch(tmp_path: Path) -> None:
    def entries(identity: str) -> Catalog:
        more = {
            name: Model(name=name, family=family, path=Path("f.safetensors"), base="sd15", identity=identity * 64)
            for name, family in (("ink", "lora"), ("wash", "lora"), ("fine", "vae"))
        }
        return CATALOG.model_copy(update={"models": CATALOG.models | more})

    path = tmp_path / "added.csv"
    cells = (",,", "ink,,", "ink:0.5,,", "wash,,", "ink;wash,,", ",fine,", ",,1", "ink,fine,1")
    path.write_text("prompt,seed,loras,vae,clip_skip\n" + "".join(f"a,1,{each}\n" for each in cells))
    found = []
    for identity in ("a", "b"):
        known = entries(identity)
        report = rows.check(path, ReadOptions(), known, Settings())
        made = [jobs.Row.model_validate_json(e.text) for e in rows.read(path, ReadOptions(), known, Settings(), report)]
        for row in made:  # the producer hashes in a faster way
            identities = {role: known.models[name].identity for role, name in jobs.models(row.job).items()}
            assert row.job_id == jobs.job_id(row.job.model_dump(), identities)
        found.append([row.job_id for row in made])
        keys = [entry.key for entry in rows.read(path, ReadOptions(), known, Settings(), report)]
        assert len(set(found[-1])) == len(set(keys)) == len(cells)
    same = [one == other for one, other in zip(*found, strict=True)]
    assert same == [True, False, False, False, False, False, True, False]
