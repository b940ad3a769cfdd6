"""Rows are cut into shards that one model call can run."""

import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies as st

from producer.entry import Entry
from producer.order import by_image
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
    ("total", "most", "batch", "rows"),
    [
        (0, 64, 8, 8),
        (24, 64, 8, 8),
        (128, 64, 8, 8),
        (129, 64, 8, 16),
        (257, 64, 8, 24),
        (257, 64, 16, 32),
        (24, 64, 16, 16),
        (1_000, 64, 8, 64),
        (500_000, 64, 8, 64),
        (24, 4, 8, 4),
        (24, 1, 8, 1),
        (24, 64, 1, 8),
        (24, 64, 3, 9),
    ],
)
def test_a_small_file_is_cut_smaller_so_that_every_device_gets_work_and_its_calls_are_full(total, most, batch, rows):
    assert shard_rows(total, most, batch) == rows


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


# --- edits: rows on one picture travel together ---


def edit(number: int, image: str, steps: int = 20, images: int = 1) -> Entry:
    plain = row(number, steps, images)
    return plain._replace(key=("edit", *plain.key), text=f"row {number}", inputs=(image, "mask"))


def cut(rows: list[Entry], most: int = 8, of_a_group: int = 64) -> list[list[int]]:
    found = shards(by_image(rows), most, most_of_a_group=of_a_group)
    return [[each.row for each in shard.rows] for shard in found]


def test_sixteen_edits_of_each_of_eight_pictures_are_eight_shards_of_whole_pictures_however_shuffled():
    rows = [edit(number, f"inputs/{number % 8}.png") for number in range(1, 129)]
    assert cut(rows) == [list(range(first, 129, 8)) for first in range(1, 9)]


def test_small_groups_share_a_shard_and_are_not_cut():
    rows = [edit(number, f"inputs/{(number - 1) // 3}.png") for number in range(1, 16)]
    assert cut(rows) == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [13, 14, 15]]


def test_a_picture_with_more_rows_than_a_shard_may_hold_is_cut_and_its_rest_may_be_joined():
    rows = [edit(number, "a") for number in range(1, 23)] + [edit(30, "b")]
    assert cut(rows, 4, 10) == [[*range(1, 11)], [*range(11, 21)], [21, 22, 30]]


def test_rows_of_one_picture_with_other_settings_are_other_shards():
    rows = [edit(1, "a"), edit(2, "a", steps=30), edit(3, "a"), edit(4, "b", steps=30)]
    assert cut(rows) == [[1, 3], [2, 4]]


def test_rows_without_a_picture_are_planned_as_if_there_were_no_edits():
    plain = [row(number) for number in range(1, 30, 2)]
    mixed = sorted(plain + [edit(number, "a") for number in range(2, 30, 2)], key=lambda each: each.row)
    assert list(by_image(plain)) == plain
    assert cut(mixed)[:2] == cut(plain)


@EXAMPLES
@hypothesis.given(
    kinds=st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), st.integers(1, 2), st.integers(1, 5)), max_size=60
    ),
    most=st.integers(1, 6),
    of_a_group=st.integers(6, 12),
)
def test_every_edit_is_in_one_shard_and_a_picture_is_cut_only_where_a_shard_cannot_hold_it(kinds, most, of_a_group):
    rows = [
        edit(number, image, steps, images) if image else row(number, steps, images)
        for number, (image, steps, images) in enumerate(kinds, 1)
    ]
    found = list(shards(by_image(rows), most, most_of_a_group=of_a_group))
    assert sorted((each for shard in found for each in shard.rows), key=lambda each: each.row) == rows
    assert found == list(shards(by_image(rows), most, most_of_a_group=of_a_group))
    for shard in found:
        assert {each.key for each in shard.rows} == {shard.key}
        groups = {each.group for each in shard.rows}
        assert shard.images <= most or len(groups) == 1
        assert shard.images <= of_a_group or len(shard.rows) == 1
        assert shard.images <= most or groups != {""} or len(shard.rows) == 1
    for key, image in {(each.key, each.group) for each in rows if each.group}:
        pieces = [[each for each in shard.rows if each.group == image] for shard in found if shard.key == key]
        pieces = [piece for piece in pieces if piece]
        total = sum(each.images for piece in pieces for each in piece)
        assert len(pieces) == 1 or total > of_a_group
        numbers = [each.row for piece in pieces for each in piece]
        assert numbers == sorted(numbers)


@EXAMPLES
@hypothesis.given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 6)), max_size=60), st.integers(1, 20)
)
def test_no_more_rows_wait_than_may_be_open_whatever_their_order(kinds, most_open):
    rows = [edit(n, image, steps) if image else row(n, steps) for n, (image, steps) in enumerate(kinds, 1)]
    taken = out = 0

    def source():
        nonlocal taken
        for each in rows:
            taken += 1
            yield each

    found = []
    for shard in shards(source(), 4, most_open, most_of_a_group=8):
        out += len(shard.rows)
        found += [each.row for each in shard.rows]
        assert taken - out <= most_open
    assert sorted(found) == [each.row for each in rows]


def test_edits_of_shuffled_pictures_need_little_memory_until_they_are_sorted():
    peaks = []
    for count in (1_000, 20_000):
        rows = (edit(n, f"inputs/{n % 100}.png")._replace(text="x" * 1000 + str(n)) for n in range(1, count + 1))
        tracemalloc.start()
        assert sum(len(shard.rows) for shard in shards(by_image(rows), 8, most_of_a_group=64)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2_000_000
