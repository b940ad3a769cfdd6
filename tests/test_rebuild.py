"""`produce rebuild`: the broker loses its data, or an old state of it comes back, and no row is lost or done twice."""

import json
from typing import Any

import pytest
from fleet import Fleet, wait_for

from producer import cli, control, rebuild, restore
from producer.session import Session
from shared import keys
from shared.errors import UsageError
from shared.shards import Outcome

COUNTED = ("rows", "open", "done", "failed", "dead", "skipped", "images")


@pytest.fixture
def session(fleet: Fleet) -> Session:
    return Session(fleet.ledger, fleet.store, fleet.app, None)


def file_of(*prompts: str) -> str:
    return "prompt\n" + "".join(f"{prompt}\n" for prompt in prompts)


def counters(fleet: Fleet, run: str) -> dict[str, int]:
    counts = fleet.ledger.counts(run)
    return {name: counts[name] for name in COUNTED}


def results_of(fleet: Fleet, run: str) -> list[dict[str, Any]]:
    return [json.loads(raw) for entry in fleet.store.list(keys.results(run)) for raw in fleet.store.lines(entry.key)]


def line(row: int, state: str = "done", n: int = 0) -> dict[str, Any]:
    return {"row": row, "n": n, "state": state}


@pytest.mark.parametrize(
    ("tries", "expected"),
    [
        ([(0, [line(1), line(2, "failed")])], {1: ("done", 1), 2: ("failed", 0)}),
        ([(0, [line(1, n=0), line(1, n=1)])], {1: ("done", 2)}),
        ([(0, [line(1, n=0), line(1, "failed", n=1)])], {1: ("failed", 0)}),
        ([(0, [line(1, "failed")]), (1, [line(1)])], {1: ("done", 1)}),
        ([(1, [line(1)]), (0, [line(1, "failed")])], {1: ("done", 1)}),
        ([(0, [line(1)]), (1, [line(1, "failed")])], {1: ("done", 1)}),
        ([(10, [line(1, "failed")]), (2, [line(1, "dead")])], {1: ("failed", 0)}),
        ([(1, [line(1, "dead")]), (0, [line(1, "failed")])], {1: ("dead", 0)}),
        ([(0, [line(1)]), (0, [line(1)])], {1: ("done", 1)}),
    ],
)
def test_a_row_ended_as_its_best_and_else_its_last_try_says(
    tries: list[tuple[int, list[dict[str, Any]]]], expected: dict[int, tuple[str, int]]
) -> None:
    assert restore.ends(tries) == expected


def test_a_broker_that_loses_everything_under_a_working_worker_costs_no_row_and_makes_none_twice(
    fleet: Fleet, session: Session
) -> None:
    with fleet.worker():
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(40)))).run
        wait_for(lambda: fleet.ledger.counts(run)["done"] >= 8, "the first shard")
        wait_for(lambda: fleet.ledger.counts(run)["running"], "a shard that runs")
        fleet.ledger.redis.flushdb()
        assert rebuild.rebuild(session, run) == 0
        assert fleet.finish(run, timeout_s=120)["done"] == 40
    lines = results_of(fleet, run)
    assert sorted(line["row"] for line in lines) == list(range(1, 41))
    stored = {entry.key for entry in fleet.store.list(f"runs/{run}/images/")}
    assert stored == {keys.inside(run, line["key"]) for line in lines}
    assert [json.loads(line)["row"] for line in fleet.lines(run)] == list(range(1, 41))


def test_rebuilding_a_run_in_full_swing_does_no_harm(fleet: Fleet, session: Session) -> None:
    with fleet.worker():
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(24)))).run
        for rows_done in (1, 9):
            wait_for(lambda n=rows_done: fleet.ledger.counts(run)["done"] >= n, f"{rows_done} rows")
            rebuild.rebuild(session, run)
        assert fleet.finish(run, timeout_s=120)["done"] == 24
    assert sorted(line["row"] for line in results_of(fleet, run)) == list(range(1, 25))


def test_rows_that_failed_died_or_were_skipped_stay_so_and_all_counters_are_what_they_were(
    fleet: Fleet, session: Session
) -> None:
    prompts = ["good", "fail", "", "kill", "fine", *(f"picture {i}" for i in range(16))]
    text = "prompt,n\n" + "".join(f"{prompt},{2 if prompt == 'fine' else ''}\n" for prompt in prompts)
    with fleet.worker() as worker:
        run = fleet.submit(text, skip_bad=True).run
        fleet.finish(run, timeout_s=120)
        before, drawn = counters(fleet, run), fleet.drawn.read_text()
        assert {name: before[name] for name in ("failed", "dead", "skipped", "open")} == {
            "failed": 1, "dead": 1, "skipped": 1, "open": 0,
        }  # fmt: skip
        failed, manifest = fleet.ledger.failed_rows(run), fleet.lines(run)
        worker.kill()
        fleet.ledger.redis.flushdb()
        rebuild.rebuild(session, run)
        assert counters(fleet, run) == before
        assert fleet.ledger.failed_rows(run) == failed == [2, 4]
        fleet.finish(run, timeout_s=120)
        assert fleet.lines(run) == manifest
        assert fleet.drawn.read_text() == drawn
        assert fleet.submit(text, skip_bad=True).again == 2  # a join sends them out again, as before the loss


def test_in_the_middle_of_a_run_the_counters_are_those_from_before(fleet: Fleet, session: Session) -> None:
    with fleet.worker() as worker:
        run = fleet.submit(file_of("fail", *(f"picture {i}" for i in range(6)), *["slow"] * 17)).run
        wait_for(lambda: fleet.ledger.counts(run)["done"] >= 7, "the first shard")
        worker.kill()
        before = counters(fleet, run)
        assert (before["failed"], before["open"] > 0) == (1, True)
        fleet.ledger.redis.flushdb()
        rebuild.rebuild(session, run)
        assert counters(fleet, run) == before


def test_a_join_after_the_loss_sends_failed_rows_out_again(fleet: Fleet) -> None:
    text = file_of("good", "fail", "fine")
    with fleet.worker():
        run = fleet.submit(text).run
        fleet.finish(run, timeout_s=120)
        fleet.ledger.redis.flushdb()
        assert fleet.submit(text).joined
        fleet.finish(run, timeout_s=120)
    assert [line["row"] for line in results_of(fleet, run)].count(2) == 2


def test_an_old_state_of_the_broker_is_overwritten_by_what_the_storage_says(fleet: Fleet, session: Session) -> None:
    text = file_of(*(f"picture {i}" for i in range(20)))
    run = fleet.submit(text).run
    old = {key: fleet.ledger.redis.dump(key) for key in raw_keys(fleet)}
    with fleet.worker() as worker:
        fleet.finish(run, timeout_s=120)
        before = counters(fleet, run)
        worker.kill()
    fleet.ledger.redis.flushdb()
    for key, value in old.items():
        fleet.ledger.redis.restore(key, 0, value)
    assert fleet.ledger.counts(run)["done"] == 0
    rebuild.rebuild(session, run)
    assert counters(fleet, run) == before


def test_all_means_runs_that_the_broker_lost_and_that_are_not_over(
    fleet: Fleet, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet.worker():
        fleet.submit(file_of("one"), run="ended")
        fleet.finish("ended", timeout_s=120)
    for run in ("lost", "lost-too", "known"):
        fleet.submit(file_of("one", run), run=run)
    for run in ("ended", "lost", "lost-too"):
        fleet.ledger.forget(run)
    fleet.ledger.redis.hset(keys.run("lost-too"), "state", "opening")  # a rebuild was interrupted
    claim = fleet.ledger.claim("known", "000000", "w")
    assert rebuild.rebuild_all(session) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run lost: 2 rows; 2 go out",
        "run lost-too: 2 rows; 2 go out",
    ]
    assert fleet.ledger.facts("ended") == {}
    fleet.ledger.commit(claim, Outcome(done=(1, 2), images=2))  # its worker did not lose the lease
    rebuild.rebuild_all(session)
    assert "nothing to rebuild" in capsys.readouterr().out


def test_a_run_that_was_canceled_and_sent_out_again_is_not_canceled_by_a_rebuild(
    fleet: Fleet, session: Session
) -> None:
    run = fleet.submit(file_of("one", "two"), run="again").run
    control.cancel(session, run)
    assert fleet.finish(run)["canceled"] == 2
    control.retry(session, run)
    rebuild.rebuild(session, run)
    assert fleet.ledger.facts(run)["state"] == "running"
    assert counters(fleet, run)["open"] == 2


def test_results_that_appear_while_the_ledger_is_made_count_once(
    fleet: Fleet, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is just about to commit writes its results between two looks at the storage."""
    with fleet.worker():
        run = fleet.submit(file_of("one", "two")).run
        fleet.finish(run, timeout_s=120)
        body = fleet.store.get(keys.results(run, "000000")) or b""
        fleet.store.delete(keys.results(run, "000000"))
        fleet.drawn.unlink()
        create = fleet.ledger.create

        def late(*arguments: Any) -> None:
            fleet.store.put_new(keys.results(run, "000000"), body, "application/x-ndjson")
            create(*arguments)

        monkeypatch.setattr(fleet.ledger, "create", late)
        rebuild.rebuild(session, run)
        assert fleet.finish(run, timeout_s=120)["done"] == 2
    assert [entry.key for entry in fleet.store.list(keys.results(run))] == [keys.results(run, "000000")]
    assert not fleet.drawn.exists()  # whoever claimed the shard found its results


def test_a_run_that_does_not_exist_or_is_not_named_is_refused(
    fleet: Fleet, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="there is no run nothing"):
        rebuild.rebuild(session, "nothing")
    for arguments in (["rebuild"], ["rebuild", "r", "--all"]):
        assert cli.main(arguments) == UsageError.exit_code
        assert "give the name of one run, or --all" in capsys.readouterr().err


def raw_keys(fleet: Fleet) -> list[str]:
    found: list[str] = fleet.ledger.redis.keys("*")
    return [key for key in found if not key.startswith(("lock:", "_kombu"))]
