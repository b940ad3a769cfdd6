"""What goes out next, and what becomes of a shard whose worker fell silent: decisions without a broker."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.dispatch import DEATHS_TO_BURY, Turn, can_serve, choose, judge, room
from shared.shards import Shard, expand, ranges

ALL = frozenset({"a", "b"})


@pytest.mark.parametrize(
    ("queued", "workers", "expected"),
    [(0, 0, 8), (8, 1, 0), (3, 1, 5), (0, 20, 40), (41, 20, 0)],
)
def test_a_lane_holds_two_messages_per_worker_and_at_least_eight(queued: int, workers: int, expected: int) -> None:
    assert room(queued, workers) == expected


@pytest.mark.parametrize(
    ("turns", "last", "served", "expected"),
    [
        ([], "a", ALL, None),
        ([Turn("r", {"a": 0})], "a", ALL, None),
        ([Turn("r", {"a": 1, "b": 1})], "b", ALL, ("r", "b")),  # affinity
        ([Turn("r", {"a": 1}), Turn("s", {"b": 1})], "b", ALL, ("r", "a")),  # turns go before affinity
        ([Turn("r", {"a": 1}), Turn("s", {"b": 1})], "a", frozenset({"b"}), ("s", "b")),  # nobody serves a
        ([Turn("r", {}), Turn("s", {"b": 2})], "", ALL, ("s", "b")),  # paused or over: nothing pending
    ],
)
def test_the_run_in_turn_sends_and_prefers_the_model_last_sent(
    turns: list[Turn], last: str, served: frozenset[str], expected: tuple[str, str] | None
) -> None:
    assert choose(turns, last, served) == expected


def test_a_shard_that_needs_several_models_waits_for_one_worker_that_has_them_all() -> None:
    workers = [{"models": ["a", "b"], "problems": {}}, {"models": ["c"], "problems": {}}]
    assert can_serve(workers, "a+b")
    assert not can_serve(workers, "a+c")


def test_a_model_that_a_worker_failed_to_load_is_not_served_by_it() -> None:
    workers = [{"models": ["a", "b"], "problems": {"b": "damaged"}}, {"models": ["c"], "problems": {}}]
    assert [m for m in ("a", "b", "c", "a+c", "a+b") if can_serve(workers, m)] == ["a", "c"]


def test_models_that_do_not_fit_each_other_on_a_worker_are_served_by_it_one_by_one_alone() -> None:
    workers = [{"models": ["a", "b"], "problems": {"a+b": "b does not fit a"}}]
    assert [m for m in ("a", "b", "a+b") if can_serve(workers, m)] == ["a", "b"]


def shard(count: int, **more: object) -> Shard:
    return Shard("000001", "m", 0, 0, 10, count, state="running", token=3, **more)  # type: ignore[arg-type]


@given(st.integers(2, 64), st.data())
def test_a_death_charges_the_running_rows_alone_and_loses_no_row(count: int, data: st.DataObject) -> None:
    running = data.draw(st.sets(st.integers(1, count), max_size=count))
    verdict = judge(shard(count, running_rows=tuple(sorted(running))))
    assert verdict.bury == ()
    isolated = {row for one in verdict.isolated for row in one.only}
    rest = {row for row in range(1, count + 1) if verdict.rest.wants(row)}
    assert isolated == running
    assert rest == set(range(1, count + 1)) - running
    assert verdict.rest.count == len(rest)
    assert verdict.rest.deaths == {}
    assert all(one.deaths == {one.only[0]: 1} and one.count == 1 for one in verdict.isolated)
    assert len({one.name for one in verdict.isolated}) == len(running)


def test_the_third_death_of_a_row_buries_it() -> None:
    alone = shard(1, only=(7,), running_rows=(7,))
    deaths = []
    while not (verdict := judge(alone)).bury:
        deaths.append(verdict.rest.deaths[7])
        alone = shard(1, only=(7,), running_rows=(7,), deaths=verdict.rest.deaths)
    assert deaths == list(range(1, DEATHS_TO_BURY))
    assert verdict.bury == (7,)


def test_a_worker_that_dies_before_its_first_model_call_charges_nobody() -> None:
    verdict = judge(shard(8))
    assert (verdict.rest.count, verdict.rest.deaths, verdict.isolated, verdict.bury) == (8, {}, (), ())


@given(st.sets(st.integers(1, 500)))
def test_ranges_name_exactly_the_rows_they_were_made_from(rows: set[int]) -> None:
    pairs = ranges(sorted(rows))
    assert expand(pairs) == sorted(rows)
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(pairs))
