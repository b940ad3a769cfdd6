"""The bench works and says what it means; its figures are not tested here."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from bench import help as help_
from bench import prompts, table
from bench.photos import PHOTOS, SIZE, photo
from bench.table import Line, Part
from shared.images import encode_png
from shared.settings import Settings

ROOT = Path(__file__).parent.parent


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_submission_is_measured_in_a_process_of_its_own(settings: Settings, tmp_path: Path) -> None:
    path = prompts.write_full(tmp_path / "rows.csv", 200)
    answer = bench("bench.submission", str(path), "measured")
    measured = json.loads(answer.stdout)
    assert measured["rows"] == 200
    assert measured["check_s"] > 0
    assert measured["submit_s"] > 0
    assert 10 < measured["peak_mib"] < 1000


def test_an_unknown_part_is_named_with_the_known_ones() -> None:
    answer = bench("bench", "lop")
    assert answer.returncode == 2
    assert "unknown part 'lop'; expected help, submit, storage, loop, scaling" in answer.stderr


def test_the_help_part_has_one_line_about_whole_processes() -> None:
    (line,) = help_.measure(None).lines  # type: ignore[arg-type]  # it needs no stack
    assert 0.01 < line.figure < 30


def test_a_ratio_is_the_median_of_the_pairs_and_shows_how_far_they_spread() -> None:
    line = table.ratio("x", "img/s", [(10, 10), (8, 10), (9, 10)], 0.95)
    assert line.cells() == ("x", "9.00 img/s", "10.00 img/s", "0.90x (0.80-1.00)", ">= 0.95x", "MISSED")


def test_a_goal_of_at_most_is_met_from_below() -> None:
    line = Line("memory", "34 MiB", "30 MiB", 4.0, "MiB", 30.0, at_least=False)
    assert line.cells()[-2:] == ("<= 30.00 MiB", "met")
    assert not Part([line]).missed


def test_the_table_is_markdown_with_columns_of_equal_width() -> None:
    lines = table.show([Line("a", "1", "", 1.0, "x", 2.0), Line("a longer name", "1", "2", 3.0, "x", 2.0)]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.count("|") for line in lines] == [7] * 4


def test_prompts_are_all_different_and_the_same_in_every_run() -> None:
    first, again = (list(islice(prompts.texts(Random(1)), 4000)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 4000


def test_pictures_of_the_null_model_compress_as_photographs_do() -> None:
    sizes = [len(encode_png(photo(number), {})) for number in range(4)]
    assert all(0.4 < size / (SIZE * SIZE * 3) < 0.7 for size in sizes)
    assert PHOTOS > 4


@pytest.mark.parametrize(("value", "shown"), [(22_480.4, "22,480"), (0.953, "0.95"), (0.0, "0.00"), (0.001, "1.0e-03")])
def test_numbers_are_as_long_as_they_need_to_be(value: float, shown: str) -> None:
    assert table.number(value) == shown


def test_a_gpu_is_measured_by_code_that_runs_anywhere() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "support")}
    command = [sys.executable, "-m", "bench.gpu", "--quick", "--device", "cpu"]
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    for what in ("sd15 64x64", "sdxl 64x64", "diffusers' plain call", "ViT-H", "over the bare loop", "to a batch"):
        assert what in answer.stdout
    assert answer.stdout.count("equal pixel for pixel") == 5
    assert "failed" not in answer.stdout


def test_a_host_without_a_card_is_told_what_measures_it() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "bench.gpu"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT / "tests" / "support")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert "found no CUDA device; `python -m bench` measures without one" in answer.stderr
