"""What an exception means for the images that ran when it came."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadImage
from shared.jobs import Row, Txt2Img, batch_key
from shared.shards import Claim, Shard
from workers import batches, written
from workers.retry import Action, Bury, Halve, Isolate, Save, decide, delay_s, is_broken_device


@pytest.mark.parametrize(
    ("error", "images", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), 8, Halve()),
        (
            torch.cuda.OutOfMemoryError("x"),
            1,
            Bury("OutOfMemory", "one image alone does not fit into the device's memory"),
        ),
        (MemoryError(), 2, Halve()),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 4, Halve()),
        (ValueError("bad"), 8, Isolate()),
        (ValueError("bad"), 1, Bury("ValueError", "bad")),
        (BadImage("black"), 1, Bury("BadImage", "black")),
    ],
)
def test_each_kind_of_error_has_one_answer(error: Exception, images: int, expected: Action) -> None:
    assert decide(error, images) == expected


@pytest.mark.parametrize(
    ("error", "images", "left", "expected"),
    [
        (MemoryError(), 2, ("tiles", "slices"), Halve()),
        (MemoryError(), 1, ("tiles", "slices"), Save("tiles")),
        (MemoryError(), 1, ("slices",), Save("slices")),
        (MemoryError(), 1, (), Bury("OutOfMemory", "one image alone does not fit into the device's memory")),
        (ValueError("bad"), 1, ("tiles",), Bury("ValueError", "bad")),
        (ValueError("bad"), 2, ("tiles",), Isolate()),
    ],
)
def test_memory_is_saved_where_one_image_alone_does_not_fit(
    error: Exception, images: int, left: tuple[str, ...], expected: Action
) -> None:
    assert decide(error, images, left) == expected


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("No CUDA GPUs are available"), True),
        (torch.cuda.OutOfMemoryError("CUDA error: out of memory"), False),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("CUDA error:"), False),
    ],
)
def test_a_device_is_broken_by_errors_after_which_every_call_fails(error: Exception, broken: bool) -> None:
    assert is_broken_device(error) is broken


def test_waiting_grows_and_never_passes_half_a_minute() -> None:
    delays = [delay_s(tries) for tries in range(12)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.5, 30.0)


def row(number: int, width: int, images: int) -> Row:
    job = Txt2Img(
        model="m", prompt="p", width=width, height=64, num_inference_steps=1, guidance_scale=1, scheduler="euler",
        seed=1, num_images_per_prompt=images,
    )  # fmt: skip
    return Row(row=number, line=number, cells={}, job=job, job_id="0" * 64)


rows_strategy = st.lists(st.tuples(st.sampled_from([64, 128]), st.integers(1, 5)), max_size=20)


@given(rows_strategy, st.integers(1, 9))
def test_batches_hold_every_image_once_in_order_and_never_mix(sizes: list[tuple[int, int]], most: int) -> None:
    wanted = batches.items([row(i, width, images) for i, (width, images) in enumerate(sizes, 1)])
    cut, rest = [], wanted
    while rest:
        cut.append(batches.first(rest, most))
        rest = rest[len(cut[-1]) :]
    assert [item.key for batch in cut for item in batch] == [item.key for item in wanted]
    assert all(1 <= len(batch) <= most for batch in cut)
    assert all(len({batch_key(item.row.job) for item in batch}) == 1 for batch in cut)


@given(st.integers(2, 64))
def test_halving_a_batch_makes_both_parts_smaller(count: int) -> None:
    left, right = batches.halves(batches.items([row(i, 64, 1) for i in range(count)]))
    assert len(left) + len(right) == count
    assert max(len(left), len(right)) < count


def test_late_results_of_a_worker_that_lost_its_lease_close_no_row_that_was_isolated_since() -> None:
    body = b"".join(json.dumps({"row": row, "n": 0, "state": "done"}).encode() + b"\n" for row in (1, 2, 3))
    rest = Shard("000000", "m", 0, 0, 1, 2, but=(2,))
    found = written.read(Claim("r", rest, 1), body)
    assert found is not None
    assert (found.done, found.images) == ((1, 3), 2)
