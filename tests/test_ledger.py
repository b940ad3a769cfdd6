"""The ledger's atomic steps, against a real broker."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from fleet import wait_for

from shared import dispatch, keys, queue
from shared.errors import LeaseLost, Unreachable
from shared.runs import Ledger
from shared.settings import Settings
from shared.shards import Claim, Outcome, Shard
from shared.store import Store


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(settings.model_copy(update={"lease_s": 1.0, "redeliver_s": 0.2}))
    yield ledger
    ledger.redis.close()


def open_run(ledger: Ledger, run: str = "r", shards: int = 2, model: str = "m") -> None:
    """A run of two rows per shard."""
    rows = shards * 2
    facts = {"rows": rows, "open": rows}
    ledger.create(run, "bulk", facts, b"\0", (Shard(f"{i:06d}", model, 0, 0, 1, 2) for i in range(shards)))


def claimed(ledger: Ledger, name: str, run: str = "r") -> Claim:
    claim = ledger.claim(run, name, "w")
    assert isinstance(claim, Claim)
    return claim


def test_a_shard_is_claimed_once_and_a_committed_one_never(ledger: Ledger) -> None:
    open_run(ledger)
    claim = claimed(ledger, "000000")
    assert ledger.claim("r", "000000", "other") == "running"
    assert ledger.counts("r")["running"] == 2
    assert ledger.commit(claim, Outcome(done=(1, 2), images=2)) is False
    assert ledger.claim("r", "000000", "other") == "done"
    assert ledger.claim("nothing", "000000", "w") == "gone"
    counts = ledger.counts("r")
    assert (counts["done"], counts["running"], counts["open"], counts["pending"]) == (2, 0, 2, 2)


def test_the_last_commit_puts_the_run_before_its_finisher(ledger: Ledger) -> None:
    open_run(ledger, shards=1)
    assert ledger.commit(claimed(ledger, "000000"), Outcome(done=(1,), failed=(2,), images=1)) is True
    assert ledger.finishing() == ["r"]
    assert ledger.facts("r")["state"] == "finishing"
    assert ledger.lane_runs("bulk") == []
    assert ledger.failed_rows("r") == [2]


def test_whoever_lost_the_lease_can_neither_extend_nor_commit_nor_hand_back(ledger: Ledger) -> None:
    open_run(ledger)
    old = claimed(ledger, "000000")
    wait_for(lambda: ("r", "000000") in ledger.expired(), "the end of the lease")
    assert ledger.claim("r", "000000", "other") == "running"  # only dispatch decides what a death means
    shard = ledger.shard("r", "000000")
    assert shard is not None
    assert ledger.replace("r", shard, dispatch.judge(shard).rest, ())
    new = claimed(ledger, "000000")
    for step in (ledger.extend, lambda c: ledger.mark_rows(c, [1]), lambda c: ledger.commit(c, Outcome(done=(1, 2)))):
        with pytest.raises(LeaseLost, match="another worker"):
            step(old)
    ledger.release(old)
    assert ledger.counts("r")["done"] == 0
    ledger.extend(new)
    assert ledger.commit(new, Outcome(done=(1, 2))) is False


def test_a_late_report_of_a_worker_s_end_ends_no_later_claim_of_that_worker(ledger: Ledger) -> None:
    open_run(ledger, shards=1)
    first = ledger.claim("r", "000000", "w", "message 1")
    assert isinstance(first, Claim)
    ledger.note_exit("r", "000000", "message 1", "signal 9")
    wait_for(lambda: ("r", "000000") in ledger.expired(), "the shard of a process that is gone")
    shard = ledger.shard("r", "000000")
    assert shard is not None
    assert shard.exit == "signal 9"
    assert ledger.replace("r", shard, dispatch.judge(shard).rest, ())

    assert isinstance(ledger.claim("r", "000000", "w", "message 2"), Claim)
    ledger.note_exit("r", "000000", "message 1", "signal 9")
    second = ledger.shard("r", "000000")
    assert second is not None
    assert second.exit == ""
    assert ("r", "000000") not in ledger.expired()


def test_a_row_counts_once_however_often_it_is_committed(ledger: Ledger) -> None:
    open_run(ledger)
    ledger.commit(claimed(ledger, "000000"), Outcome(done=(1,), failed=(2,)))
    ledger.commit(claimed(ledger, "000001"), Outcome(done=(1, 2), failed=(1,)))
    counts = ledger.counts("r")
    assert (counts["done"], counts["failed"], counts["open"]) == (2, 0, 2)


def test_a_message_that_comes_late_for_a_shard_that_was_put_back_leaves_nothing_behind(ledger: Ledger) -> None:
    open_run(ledger, shards=1)
    assert ledger.take("r", "m") == "000000"
    wait_for(ledger.expired, "the message to count as lost")
    shard = ledger.shard("r", "000000")
    assert shard is not None
    assert ledger.replace("r", shard, replace(shard, state="pending"), ())
    assert ledger.commit(claimed(ledger, "000000"), Outcome(done=(1, 2))) is True
    assert list(ledger.redis.scan_iter("run:r:pending:*")) == []


def test_a_heartbeat_keeps_a_shard_from_being_looked_at(ledger: Ledger) -> None:
    open_run(ledger)
    claim = claimed(ledger, "000000")
    wait_for(ledger.expired, "the end of the lease")
    ledger.extend(claim)
    assert ledger.expired() == []


def test_a_removed_run_stops_its_workers_and_leaves_no_key(ledger: Ledger) -> None:
    open_run(ledger)
    claim = claimed(ledger, "000000")
    ledger.forget("r")
    with pytest.raises(LeaseLost):
        ledger.extend(claim)
    ledger.drop_due("r", "000000")
    assert list(ledger.redis.scan_iter("*")) == []


def test_dispatch_takes_runs_in_turn_and_keeps_the_queue_short(ledger: Ledger, settings: Settings) -> None:
    open_run(ledger, "big", shards=40)
    open_run(ledger, "small", shards=3)
    ledger.announce("w", {"device": "cpu", "models": ["m"]})
    app = queue.make_app(settings)
    assert dispatch.tick(ledger, Store(settings), app) == dispatch.QUEUED_AT_LEAST
    assert dispatch.tick(ledger, Store(settings), app) == 0  # full
    assert (ledger.pending("big", "m"), ledger.pending("small", "m")) == (35, 0)
    app.close()


def test_dispatch_sends_nothing_that_no_live_worker_can_serve(ledger: Ledger, settings: Settings) -> None:
    open_run(ledger, shards=3)
    app = queue.make_app(settings)
    assert dispatch.tick(ledger, Store(settings), app) == 0
    ledger.announce("w", {"device": "cpu", "models": ["m"]})
    ledger.cannot_serve("w", "m", "damaged")
    assert dispatch.tick(ledger, Store(settings), app) == 0
    ledger.announce("v", {"device": "cpu", "models": ["m"]})
    assert dispatch.tick(ledger, Store(settings), app) == 3
    app.close()


def test_two_dispatchers_at_once_send_nothing_twice(ledger: Ledger, settings: Settings) -> None:
    open_run(ledger, shards=6)
    ledger.announce("w", {"device": "cpu", "models": ["m"]})
    app = queue.make_app(settings)
    with ledger.lock("dispatch", 5):
        assert dispatch.tick(ledger, Store(settings), app) == 0
    assert dispatch.tick(ledger, Store(settings), app) == 6
    app.close()


def test_secrets_stay_out_of_messages_about_a_broker_that_is_away(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": type(settings.redis_url)("redis://:hidden@127.0.0.1:9/0")})
    with pytest.raises(Unreachable, match="PIXELMILL_REDIS_URL") as caught:
        Ledger(away).facts("r")
    assert "hidden" not in str(caught.value)


def test_a_run_that_was_reopened_while_its_end_files_were_written_is_not_over(ledger: Ledger) -> None:
    open_run(ledger, shards=1)
    ledger.commit(claimed(ledger, "000000"), Outcome(done=(1,), failed=(2,)))
    first = ledger.facts("r")["ends"]
    again(ledger)
    assert not ledger.settle("r")
    assert not ledger.end("r", first)
    assert ledger.facts("r")["state"] == "running"
    assert ledger.commit(claimed(ledger, "000000.1"), Outcome(done=(2,))) is True
    assert not ledger.end("r", first)  # the first end files come late: they lack the row that was made again
    assert (ledger.facts("r")["state"], ledger.finishing()) == ("finishing", ["r"])
    assert ledger.end("r", ledger.facts("r")["ends"])
    assert (ledger.facts("r")["state"], ledger.finishing()) == ("over", [])


def again(ledger: Ledger) -> None:
    """The failed row 2 of shard 000000 goes out again."""
    ledger.reopen("r", [Shard("000000.1", "m", 0, 0, 1, 1, only=(2,))], failed=1, dead=0)


def test_end_files_of_a_run_that_was_made_anew_under_its_name_do_not_end_the_new_one(ledger: Ledger) -> None:
    open_run(ledger, shards=1)
    ledger.commit(claimed(ledger, "000000"), Outcome(done=(1, 2)))
    old = ledger.facts("r")["ends"]
    open_run(ledger, shards=1)
    ledger.commit(claimed(ledger, "000000"), Outcome(done=(1, 2)))
    assert not ledger.end("r", old)
    assert ledger.finishing() == ["r"]


def test_rows_that_go_out_again_neither_resume_a_paused_run_nor_revive_a_canceled_one(ledger: Ledger) -> None:
    open_run(ledger)
    ledger.commit(claimed(ledger, "000000"), Outcome(done=(1,), failed=(2,)))
    ledger.pause("r")
    again(ledger)
    assert (ledger.facts("r")["state"], ledger.lane_runs("bulk")) == ("paused", ["r"])
    ledger.resume("r")
    ledger.commit(claimed(ledger, "000000.1"), Outcome(failed=(2,)))
    ledger.cancel("r")
    again(ledger)
    assert (ledger.facts("r")["state"], ledger.lane_runs("bulk"), ledger.finishing()) == ("canceled", [], ["r"])
    assert ledger.settle("r")
    counts = ledger.counts("r")
    assert (counts["canceled"], counts["failed"], counts["open"]) == (3, 0, 0)


def test_what_a_supervisor_that_died_left_of_a_canceled_run_is_cleared_by_the_next(ledger: Ledger) -> None:
    open_run(ledger)
    ledger.cancel("r")
    clear, ledger._clear = ledger._clear, lambda _: None  # type: ignore[method-assign]
    assert ledger.settle("r")
    ledger._clear = clear  # type: ignore[method-assign]
    assert list(ledger.redis.scan_iter("shard:*"))
    assert ledger.settle("r")
    assert list(ledger.redis.scan_iter("shard:*")) == []


def test_a_broker_that_was_away_charges_nobody_and_everyone_gets_another_lease(
    ledger: Ledger, settings: Settings
) -> None:
    ledger.settings = ledger.settings.model_copy(update={"tick_s": 0.1})  # half a lease without a look is an outage
    app, store = queue.make_app(settings), Store(settings)
    open_run(ledger, shards=1)
    claim = claimed(ledger, "000000")
    ledger.mark_rows(claim, [1])
    dispatch.tick(ledger, store, app)
    wait_for(ledger.expired, "the end of the lease, and nobody looked")
    dispatch.tick(ledger, store, app)
    assert ledger.expired() == []
    ledger.extend(claim)  # still the same claim

    def taken() -> bool:
        dispatch.tick(ledger, store, app)
        return ledger.shard("r", "000000-r1") is not None

    wait_for(taken, "a worker that stays silent to lose its shard")
    app.close()


def test_a_worker_of_a_deleted_run_holds_no_lease_on_a_new_one_of_the_same_name(ledger: Ledger) -> None:
    open_run(ledger, shards=1)
    old = claimed(ledger, "000000")
    ledger.forget("r")
    open_run(ledger, shards=1)
    claimed(ledger, "000000")
    with pytest.raises(LeaseLost):
        ledger.commit(old, Outcome(done=(1, 2)))


def test_whoever_claims_a_shard_after_another_looks_for_pictures_first(ledger: Ledger) -> None:
    open_run(ledger, shards=1)
    first = claimed(ledger, "000000")
    ledger.release(first)
    assert (first.shard.look, claimed(ledger, "000000").shard.look) == (False, True)


def test_a_run_that_is_not_yet_open_is_not_claimed(ledger: Ledger) -> None:
    ledger.redis.hset(keys.run("r"), "state", "opening")
    assert ledger.claim("r", "000000", "w") == "opening"


def test_a_worker_in_the_middle_of_a_removal_brings_nothing_back(ledger: Ledger) -> None:
    open_run(ledger)
    claims = [claimed(ledger, name) for name in ("000000", "000001")]
    ledger.redis.unlink(keys.run("r"))  # `forget` has come so far; the shards go last
    with pytest.raises(LeaseLost, match="the run is gone"):
        ledger.commit(claims[0], Outcome(done=(1, 2), images=2))
    ledger.release(claims[1])
    ledger.forget("r")
    assert [key for key in ledger.redis.scan_iter("*r*") if key.startswith(("run:r", "shard:r"))] == []
    assert ledger.finishing() == []
