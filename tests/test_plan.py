"""Rows are cut into shards that one model call can run."""

import hypothesis
import pytest
from hypothesis import strategies as st

from producer.entry import Entry
from producer.plan import shard_rows, shards
from shared.jobs import Txt2Img, batch_key

EXAMPLES = hypothesis.settings(max_examples=200)


def row(number: int, steps: int = 20, images: int = 1, guidance: float = 4.0) -> Entry:
    job = Txt2Img(
        model="demo",
        prompt="a star",
        width=64,
        height=64,
        num_inference_steps=steps,
        guidance_scale=guidance,
        scheduler="euler",
        seed=number,
        num_images_per_prompt=images,
    )
    return Entry(number, batch_key(job), images, job.model, "{}")


@pytest.mark.parametrize(
    ("total", "most", "rows"),
    [(0, 64, 8), (1, 64, 8), (24, 64, 8), (300, 64, 10), (2_000, 64, 63), (500_000, 64, 64), (24, 4, 4), (24, 1, 1)],
)
def test_a_small_file_is_cut_smaller_so_that_every_device_gets_work(total, most, rows):
    assert shard_rows(total, most) == rows


@EXAMPLES
@hypothesis.given(
    kinds=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 12)), max_size=60),
    most=st.integers(1, 10),
    most_open=st.integers(1, 20),
)
def test_every_row_is_in_one_shard_of_its_kind_and_bounds_hold(kinds, most, most_open):
    rows = [row(number, steps, images) for number, (steps, images) in enumerate(kinds, 1)]
    taken = 0

    def source():
        nonlocal taken
        for each in rows:
            taken += 1
            yield each

    found, out = [], 0
    for shard in shards(source(), most, most_open):
        out += len(shard.rows)
        found.append(shard)
        assert taken - out <= most_open
    assert sorted(each.row for shard in found for each in shard.rows) == [each.row for each in rows]
    for shard in found:
        numbers = [each.row for each in shard.rows]
        assert {each.key for each in shard.rows} == {shard.key}
        assert numbers == sorted(numbers)
        assert shard.images <= most or len(shard.rows) == 1
    assert found == list(shards(rows, most, most_open))


def test_a_row_with_more_images_than_a_shard_holds_is_a_shard_by_itself():
    found = list(shards([row(1), row(2, images=20), row(3)], 8))
    assert [[each.row for each in shard.rows] for shard in found] == [[1], [2], [3]]


def test_rows_of_another_kind_in_between_do_not_cut_a_shard():
    found = list(shards([row(n, steps=20 if n % 2 else 30) for n in range(1, 17)], 8))
    assert [[each.row for each in shard.rows] for shard in found] == [list(range(1, 17, 2)), list(range(2, 17, 2))]


def test_guidance_and_seed_may_differ_within_a_shard_but_not_guided_and_unguided():
    rows = [row(number, guidance=scale) for number, scale in enumerate([4.0, 7.5, 1.0, 0.0], 1)]
    assert [[each.row for each in shard.rows] for shard in shards(rows, 8)] == [[1, 2], [3, 4]]
