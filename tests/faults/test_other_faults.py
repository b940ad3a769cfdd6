"""Producers that die, wrong clocks, devices that break, calls that hang, and workers that are asked to stop."""

import os
import random
import signal
import subprocess
import sys
import time

import oracle
import pytest
from fleet import Fleet, wait_for
from mill import Mill

from shared import keys

DYING = "tests.faults.dying_app:app"
ROWS = 60


@pytest.mark.timeout(900)
def test_a_producer_that_is_killed_in_the_middle_of_submitting(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELMILL_SHARD_ROWS", "32")
    chance = random.Random(3)
    with mill.worker():
        for number in range(10):
            name = f"producer-{number}"
            path = mill.folder / f"{name}.csv"
            path.write_text("prompt\n" + "".join(f"picture {row} of {number}\n" for row in range(1, ROWS + 1)))
            command = [sys.executable, "-m", "producer.cli", "--csv", str(path), "--run", name, "--no-wait"]
            producer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_for(lambda: _has_begun(mill, name) or producer.poll() is not None, "the first object", 30)  # noqa: B023
            time.sleep(chance.uniform(0, 0.15))
            producer.kill()
            producer.wait()
            mill.submit(path.read_text(), name=path.name, run=name)  # waits until the dead one's lock ends
            oracle.check(mill, name, ROWS)


def _has_begun(mill: Mill, run: str) -> bool:
    return next(mill.store.list(keys.prefix(run)), None) is not None


@pytest.mark.parametrize("skew_s", [-600, 600])
def test_a_worker_whose_clock_is_wrong_by(mill: Mill, monkeypatch: pytest.MonkeyPatch, skew_s: int) -> None:
    monkeypatch.setenv("DYING_AT", f"clock {skew_s}")
    with mill.worker(app=DYING):
        monkeypatch.delenv("DYING_AT")
        with mill.worker(1):
            oracle.check(mill, mill.begin("skewed", 160), 160)
    assert not oracle.drawn_again(mill)


def test_a_device_that_breaks_once_charges_nobody(mill: Mill) -> None:
    with mill.worker(), mill.worker(1):
        run = mill.begin("device", 24, "picture", {12: "broken"})
        oracle.check(mill, run, 24)
    assert {line for line in mill.lines(run) if '"attempts": 1' not in line} == set()
    mill.kills = 1


@pytest.mark.parametrize("word", ["hang", "grip"])
def test_a_model_call_that_never_returns(mill: Mill, word: str) -> None:
    with mill.worker(), mill.worker(1):
        run = mill.begin("endless", 24, "picture", {12: word})
        oracle.check(mill, run, 24, dead={12})
    mill.kills = 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_is_stopped_by(mill: Mill, number: signal.Signals) -> None:
    with mill.worker() as worker:
        for round_ in range(3):
            run = mill.begin(f"stopped-{round_}", 64)
            mill.await_rows(run)
            with mill.fault():
                os.kill(worker.process.pid, number)
                worker.process.wait(60)
            worker.start()
            oracle.check(mill, run, 64)
            oracle.check_uncharged(mill, run)


@pytest.mark.timeout(600)
def test_a_rolling_restart_under_load_charges_nobody(mill: Mill) -> None:
    with mill.worker() as first, mill.worker(1) as second:
        runs = [mill.begin(f"rolling-{number}", 96) for number in range(3)]
        wait_for(mill.drawn.exists, "a model call")
        for worker in (first, second, first, second):
            with mill.fault():  # as the supervisor does it: hand back, then end
                worker.drain.touch()
                worker.process.terminate()
                worker.process.wait(60)
                worker.drain.unlink()
            worker.start()
            wait_for(lambda w=worker: _is_at_it(mill, w.name), "its next shard, or the end", 60)
        for run in runs:
            oracle.check(mill, run, 96)
            oracle.check_uncharged(mill, run)


def _is_at_it(fleet: Fleet, worker: str) -> bool:
    names = [key for key in fleet.ledger._scan("shard:*") if fleet.ledger._call("hget", key, "worker") == worker]
    return bool(names) or not fleet.ledger._scan("shard:*")
