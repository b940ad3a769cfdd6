"""Pausing, resuming, canceling, trying again, lanes, and dead letters: against a real broker, storage and workers."""

import json

import proxy
import pytest
from fleet import Fleet, wait_for

from producer import control, dead, restore
from producer.session import Session
from shared import keys, queue
from shared.dispatch import DEATHS_TO_BURY
from shared.errors import RunConflict, Unreachable, UsageError
from shared.settings import Settings
from shared.shards import Claim, Outcome


def file_of(*prompts: str) -> str:
    return "prompt\n" + "".join(f"{prompt}\n" for prompt in prompts)


def session(fleet: Fleet) -> Session:
    return Session(fleet.ledger, fleet.store, fleet.app, stack=None)


def state(fleet: Fleet, run: str) -> str:
    return fleet.ledger.facts(run).get("state", "")


def left(fleet: Fleet) -> list[str]:
    """Messages, leases and shards."""
    redis = fleet.ledger.redis
    found = [*redis.scan_iter("shard:*"), *redis.zrange(keys.DUE, 0, -1), *fleet.ledger.finishing()]
    return found + [lane for lane in queue.LANES if fleet.ledger.queued(lane)]


def drawn(fleet: Fleet) -> list[str]:
    return fleet.drawn.read_text().splitlines() if fleet.drawn.exists() else []


def test_a_paused_run_finishes_its_batch_and_goes_on_without_drawing_anything_twice(fleet: Fleet) -> None:
    with fleet.worker():
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(48)))).run
        wait_for(lambda: drawn(fleet), "the first batch")
        control.pause(session(fleet), run)
        wait_for(lambda: fleet.ledger.counts(run)["running"] == 0, "the shard to go back")
        before = len(drawn(fleet))
        assert 0 < before < 48
        other = fleet.submit(file_of("another run"), name="other.csv").run
        fleet.finish(other)  # the fleet is free for others
        assert len(drawn(fleet)) == before + 1
        assert state(fleet, run) == "paused"
        control.resume(session(fleet), run)
        assert fleet.finish(run)["done"] == 48
    assert sorted(drawn(fleet)) == sorted({*drawn(fleet)})


def test_a_canceled_run_stops_between_two_steps_and_keeps_what_is_finished(fleet: Fleet) -> None:
    text = "prompt,steps\n" + "".join(f"quick {i},2\n" for i in range(8)) + "slow for ever,1000\n" * 1
    with fleet.worker():
        run = fleet.submit(text).run
        wait_for(lambda: len(drawn(fleet)) == 8, "the quick rows")
        wait_for(lambda: fleet.ledger.counts(run)["running"] == 1, "the slow row to run")
        control.cancel(session(fleet), run)
        counts = fleet.finish(run, timeout_s=15)  # the slow row alone would take 50 s
    assert (counts["done"], counts["canceled"], counts["images"]) == (8, 1, 8)
    assert left(fleet) == []
    failed = fleet.lines(run, "failed.csv")
    assert [line.split(",")[0] for line in failed] == ["prompt", "slow for ever"]
    assert "Canceled" in failed[1]


def test_a_canceled_batch_leaves_the_finished_rows_of_its_shard_done(fleet: Fleet) -> None:
    with fleet.worker(batch_images="4"):
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(16)))).run
        wait_for(lambda: drawn(fleet), "the first batch of a shard")
        control.cancel(session(fleet), run)
        counts = fleet.finish(run)
        assert counts["done"] == counts["images"] == len(drawn(fleet)) < 16
        assert counts["done"] + counts["canceled"] == counts["rows"] == 16
        stored = {entry.key for entry in fleet.store.list(f"runs/{run}/images/")}
        lines = [json.loads(line) for line in fleet.lines(run)]
        assert stored == {keys.inside(run, line["key"]) for line in lines if line["state"] == "done"}
        assert len(lines) == 16
        control.retry(session(fleet), run)
        counts = fleet.finish(run)
    assert (counts["done"], counts["canceled"]) == (16, 0)
    assert len(drawn(fleet)) == 16  # nothing was drawn twice


def test_a_run_of_thousands_of_shards_is_canceled_without_any_of_them_being_run(fleet: Fleet) -> None:
    run = fleet.submit(file_of(*(f"picture {i}" for i in range(4000)))).run
    control.pause(session(fleet), run)
    control.cancel(session(fleet), run)
    with fleet.worker():
        other = fleet.submit(file_of("another run"), name="other.csv").run
        fleet.finish(other)
        counts = fleet.finish(run)
        wait_for(lambda: not left(fleet), "the queue to be empty")
    assert (counts["done"], counts["canceled"]) == (0, 4000)
    assert drawn(fleet) == ["another run"]


def test_a_canceled_run_whose_worker_died_ends_when_the_lease_does(fleet: Fleet) -> None:
    with fleet.worker() as worker:
        run = fleet.submit("prompt,steps\nslow for ever,1000\n").run
        wait_for(lambda: fleet.ledger.counts(run)["running"] == 1, "the row to run")
        worker.kill()
        control.cancel(session(fleet), run)
        with pytest.raises(RunConflict, match="being canceled"):
            fleet.submit("prompt,steps\nslow for ever,1000\n")
        counts = fleet.finish(run)
        assert (counts["done"], counts["dead"], counts["canceled"]) == (0, 0, 1)
        worker.start()
        wait_for(lambda: not left(fleet), "a worker to drop its messages")


def test_the_same_file_again_makes_what_was_canceled(fleet: Fleet) -> None:
    text = file_of("one", "two", "three")
    run = fleet.submit(text).run
    control.cancel(session(fleet), run)
    assert fleet.finish(run)["canceled"] == 3
    with fleet.worker():
        assert fleet.submit(text).again == 3
        counts = fleet.finish(run)
    assert (counts["done"], counts["canceled"]) == (3, 0)


@pytest.mark.parametrize("act", [control.pause, control.resume, control.cancel])
def test_a_run_that_is_over_or_unknown_is_neither_paused_nor_canceled(fleet: Fleet, act) -> None:
    with fleet.worker():
        run = fleet.submit(file_of("one")).run
        fleet.finish(run)
    with pytest.raises(UsageError, match="is over; expected one that is"):
        act(session(fleet), run)
    with pytest.raises(UsageError, match="there is no run"):
        act(session(fleet), "nothing")
    fleet.ledger.forget(run)
    with pytest.raises(UsageError, match="broker does not know"):
        act(session(fleet), run)


def test_pausing_and_canceling_twice_change_nothing(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    run = fleet.submit(file_of("one")).run
    for _ in range(2):
        control.pause(session(fleet), run)
    assert capsys.readouterr().out.endswith("is paused already\n")
    for _ in range(2):
        control.resume(session(fleet), run)
    assert capsys.readouterr().out.endswith("was not paused\n")


def announce(fleet: Fleet) -> None:
    """A worker that seems to live, so that dispatch sends, and takes nothing."""
    fleet.ledger.announce("cpu-9@test", {"device": "cpu", "models": list(fleet.catalog.models)})


def test_what_was_finished_before_a_cancel_is_committed_though_the_storage_was_away(
    fleet: Fleet, settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        proxy.before(settings.s3_endpoint) as way,
        fleet.worker(s3_endpoint=f"http://127.0.0.1:{way.port}", batch_images="4"),
    ):
        run = fleet.submit(file_of(*(f"slow picture {i}" for i in range(96)))).run
        wait_for(lambda: drawn(fleet), "the first batch")
        way.go_away()
        before = len(drawn(fleet))
        wait_for(lambda: len(drawn(fleet)) > before, "a batch whose pictures cannot be stored")
        control.cancel(session(fleet), run)
        said: list[str] = []
        wait_for(lambda: said.append(capfd.readouterr().err) or "".join(said).count("waiting: storage") > 8, "uploads")
        way.come_back()
        counts = fleet.finish(run)
    assert before < counts["done"] == counts["images"] == len(drawn(fleet)) < 96
    assert len(list(fleet.store.list(f"runs/{run}/images/"))) == counts["done"]


def test_a_dead_row_that_goes_out_again_is_dead_no_longer_and_may_fail(fleet: Fleet) -> None:
    run = fleet.submit(file_of("a picture")).run
    die(fleet, run)
    assert [record["row"] for record in dead._records(session(fleet), run)] == [1]
    wait_for(lambda: state(fleet, run) == "over", "the end files")
    control.retry(session(fleet), run)
    assert list(dead._records(session(fleet), run)) == []
    assert fleet.store.get(keys.summary(run)) is None  # it is not over
    claim = fleet.ledger.claim(run, "000000.1", "w")
    assert isinstance(claim, Claim)
    fleet.ledger.commit(claim, Outcome(failed=(1,)))
    control.retry(session(fleet), run)
    counts = fleet.ledger.counts(run)
    assert (counts["open"], counts["failed"], counts["dead"]) == (1, 0, 0)


def die(fleet: Fleet, run: str) -> None:
    """Its only row ends three workers."""
    for number in range(DEATHS_TO_BURY):
        claims = []

        def claimed(message: str = f"message {number}", claims: list[Claim] = claims) -> bool:
            claim = fleet.ledger.claim(run, "000000", "w", message)
            claims += [claim] if isinstance(claim, Claim) else []
            return bool(claims)

        wait_for(claimed, "the shard to be free")
        fleet.ledger.mark_rows(claims[0], [1])
        fleet.ledger.note_exit(run, "000000", f"message {number}", "signal 9")
    wait_for(lambda: fleet.ledger.counts(run)["dead"] == 1, "the row to be buried")


def test_whoever_lost_the_lock_on_a_run_sends_nothing_out(fleet: Fleet) -> None:
    def lost() -> None:
        raise Unreachable("the lock ran out")

    run = fleet.submit(file_of("a picture")).run
    die(fleet, run)
    before = fleet.ledger.counts(run)
    about = control.described(session(fleet), run)
    with pytest.raises(Unreachable):
        restore.retry(fleet.ledger, fleet.store, about, lost)
    with pytest.raises(Unreachable):
        restore.open_run(fleet.ledger, fleet.store, about, keep_lock=lost)
    assert fleet.ledger.counts(run) == before


def test_a_new_interactive_run_starts_before_a_queued_bulk_run(fleet: Fleet) -> None:
    announce(fleet)
    bulk = fleet.submit(file_of(*(f"bulk {i}" for i in range(1000))), name="bulk.csv").run
    wait_for(lambda: fleet.ledger.queued("bulk") == 8, "the lane to be full")
    quick = fleet.submit(file_of("quick"), name="quick.csv", lane="interactive").run
    with fleet.worker():
        fleet.finish(quick)
        before = drawn(fleet).index("quick")
        control.cancel(session(fleet), bulk)
    assert before == 0


def test_a_run_that_stands_is_moved_to_another_lane_by_producing_it_again(fleet: Fleet) -> None:
    text = file_of("one")
    run = fleet.submit(text).run
    assert fleet.ledger.lane_runs("bulk") == [run]
    fleet.submit(text, lane="interactive")
    assert (fleet.ledger.lane_runs("bulk"), fleet.ledger.lane_runs("interactive")) == ([], [run])
    with fleet.worker():
        assert fleet.finish(run)["done"] == 1
    assert fleet.ledger.lane_runs("interactive") == []


def test_a_lost_message_goes_out_again_while_its_lane_is_busy(fleet: Fleet) -> None:
    announce(fleet)
    run = fleet.submit(file_of("lost"), name="lost.csv").run
    wait_for(lambda: fleet.ledger.queued("bulk") == 1, "its message")
    control.pause(session(fleet), fleet.submit(file_of("later"), name="later.csv").run)
    raw = fleet.ledger.redis.rpop("bulk")  # what a worker takes that dies before it claims
    assert queue.named(raw.encode()) == (run, "000000")
    assert fleet.ledger.queued("bulk") == 1  # the other run's message stays there
    wait_for(lambda: (run, "000000") in {queue.named(m) for m in fleet.ledger.messages("bulk")}, "it to be sent again")


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\x00", b"{}", b"[1]", b'{"body": "x"}', b'{"body": "W10="}', b"[" * 100_000]
)
def test_garbage_in_a_lane_names_no_shard(raw: bytes) -> None:
    assert queue.named(raw) is None


def test_a_dead_row_is_listed_shown_tried_again_and_dropped(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    # So long a lease that its end is not what sends the row out again.
    with fleet.worker(lease_s="100") as worker:
        run = fleet.submit(file_of("one", "kill", "fail", "two")).run
        counts = fleet.finish(run, timeout_s=120)
        assert (counts["done"], counts["failed"], counts["dead"]) == (2, 1, 1)
        dead.show_all(session(fleet), run, as_json=False)
        listed = capsys.readouterr().out.splitlines()
        assert listed[1].startswith("2")
        assert "SIGKILL" in listed[1]
        dead.show(session(fleet), run, 2)
        record = json.loads(capsys.readouterr().out)
        assert (record["state"], record["attempts"], record["job"]["prompt"]) == ("dead", 3, "kill")
        assert len(record["deaths"]) == 3
        assert all(worker.name in text and "signal 9" in text for text in record["deaths"])
        body = fleet.store.get(keys.dead(run, 2)) or b""
        dead.retry(session(fleet), run, [2])
        assert fleet.store.get(keys.dead(run, 2)) is None
        counts = fleet.ledger.counts(run)
        assert (counts["failed"], counts["dead"], counts["open"]) == (1, 0, 1)
        control.cancel(session(fleet), run)
        assert fleet.finish(run)["canceled"] == 1
    fleet.store.put_new(keys.dead(run, 2), body, "application/json")
    dead.drop(session(fleet), run, [])
    capsys.readouterr()
    dead.show_all(session(fleet), run, as_json=True)
    assert json.loads(capsys.readouterr().out) == []
    with pytest.raises(UsageError, match="no record of a dead row 2"):
        dead.show(session(fleet), run, 2)
