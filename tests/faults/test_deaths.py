"""Workers that die, in every way and at every moment: nothing is lost, and what is drawn again is counted."""

import os
import random
import signal
import time

import oracle
import psutil
import pytest
from fleet import WorkerProcess, wait_for
from mill import Mill, pool_process

ROUNDS = 25
DYING = "tests.faults.dying_app:app"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", ["worker", "pool process"])
def test_a_kill_at_a_random_moment_of_a(mill: Mill, victim: str) -> None:
    moments = random.Random(1)
    with mill.worker() as worker:
        for number in range(ROUNDS):
            run = mill.begin(f"killed-{number}", 16)
            mill.await_rows(run)
            time.sleep(moments.uniform(0, 0.4))
            with mill.fault():
                worker.kill() if victim == "worker" else child(worker).kill()
            if victim == "worker":
                worker.start()
            oracle.check(mill, run, 16)
            assert worker.process.poll() is None


def child(worker: WorkerProcess) -> psutil.Process:
    wait_for(lambda: pool_process(worker), "the pool process")
    found = pool_process(worker)
    assert found is not None
    return found


@pytest.mark.parametrize("word", ["kill", "segfault", "leave", "sys-exit"])
def test_a_row_among_a_hundred_that_ends_its_worker_by(mill: Mill, word: str) -> None:
    with mill.worker() as worker:
        run = mill.begin(f"poison-{word}", 100, "picture", {50: word})
        oracle.check(mill, run, 100, dead={50})
        oracle.check_ledger(mill)  # while somebody is there to take messages that were sent twice
        assert worker.process.poll() is None
    mill.kills = 3


def test_python_s_own_memory_error_fails_its_row_alone(mill: Mill) -> None:
    with mill.worker():
        run = mill.begin("shortage", 16, "picture", {5: "shortage"})
        oracle.check(mill, run, 16, failed={5})


def test_a_device_without_memory_for_a_batch_gets_smaller_ones(mill: Mill) -> None:
    with mill.worker():
        run = mill.begin("memory", 24, "picture", {9: "memory"})
        oracle.check(mill, run, 24)


def test_a_message_that_dies_with_the_worker_that_took_it(mill: Mill) -> None:
    with mill.worker() as worker:
        oracle.check(mill, mill.begin("first", 1, "picture"), 1)  # it waits for messages
        os.killpg(worker.process.pid, signal.SIGSTOP)
        run = mill.begin("hole", 8, "picture")
        wait_for(lambda: mill.ledger.queued("bulk") == 0, "the message to be taken")
        with mill.fault(kills=0):
            worker.kill()
        worker.start()
        oracle.check(mill, run, 8)


@pytest.mark.parametrize("point", ["pictures stored", "results stored", "committed"])
def test_a_worker_that_dies_with(mill: Mill, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    monkeypatch.setenv("DYING_AT", point)
    with mill.worker(app=DYING) as worker:
        run = mill.begin("dies", 16, "picture")
        worker.process.wait(60)
        with mill.fault():
            worker.start()
        oracle.check(mill, run, 16)
    assert not oracle.drawn_again(mill)


def test_leases_that_end_while_their_shards_run(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYING_AT", "no heartbeat")
    with mill.worker(app=DYING):
        monkeypatch.delenv("DYING_AT")
        run = mill.begin("heartless", 200)
        mill.await_rows(run)
        with mill.worker(1), mill.fault():
            oracle.check(mill, run, 200)


def is_claimed_again(mill: Mill, run: str, name: str, token: int) -> bool:
    """By its name or as one row of it; a shard of which nothing is left was committed meanwhile."""
    parts = mill.parts(run, name)
    return not parts or any(shard.token > token and shard.state == "running" for shard in parts)


@pytest.mark.timeout(600)
def test_a_worker_that_was_asleep_and_wakes_beside_the_one_that_took_over(mill: Mill) -> None:
    with mill.worker() as sleeper:
        for number in range(3):
            run = mill.begin(f"asleep-{number}", 64)
            mill.await_rows(run)
            os.killpg(sleeper.process.pid, signal.SIGSTOP)
            (held,) = mill.held().items()
            with mill.worker(1), mill.fault():
                wait_for(lambda h=held: is_claimed_again(mill, *h[0], h[1]), "another claim")
                os.killpg(sleeper.process.pid, signal.SIGCONT)
                oracle.check(mill, run, 64)
