"""Runs under load while things break at random: `soak.py MINUTES SEED`. A seed repeats the order of faults."""

import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import faulty_s3
import oracle
import psutil
from fleet import WorkerProcess, write_models
from mill import SETTINGS, Mill, pool_process
from own_broker import OwnBroker

from producer import stack
from shared import queue
from shared import settings as settings_
from shared.errors import PixelmillError

WORKERS = 2
OPEN_RUNS = 3  # under load: so many runs are never done
BATCH_IMAGES = 8  # what one kill may have drawn in vain is one model call and what waits to be stored


class Soak:
    """One soak. Faults come one after another, each on a worker of its own choice."""

    def __init__(self, mill: Mill, broker: OwnBroker, way: faulty_s3.FaultyS3, workers: list[WorkerProcess], seed: int):
        self.mill = mill
        self.broker = broker
        self.way = way
        self.workers = workers
        self.random = random.Random(seed)
        self.planted: dict[str, tuple[int, set[int]]] = {}  # run -> rows, rows that kill their worker
        self.log: list[str] = []
        self.begun = time.monotonic()
        self.moved, self.progress, self.stall_s = time.monotonic(), -1, 0.0
        self.faults: list[Callable[[], None]] = [
            self.kill_worker,
            self.kill_child,
            self.sleep_past_the_lease,
            self.restart_broker,
            self.freeze_broker,
            self.fail_storage,
            self.drop_connections,
            self.roll,
            self.put_garbage,
        ]

    def run(self, minutes: float) -> None:
        while time.monotonic() - self.begun < minutes * 60:
            self.keep_loaded()
            fault = self.random.choice(self.faults)
            self.say(fault.__name__)
            fault()
            self.watch(self.random.uniform(2, 8))
        self.settle()

    def keep_loaded(self) -> None:
        with suppress(PixelmillError):
            open_runs = [run for run in self.planted if self.mill.ledger.facts(run).get("state") != "over"]
            for _ in range(OPEN_RUNS - len(open_runs)):
                self.submit()

    def submit(self) -> None:
        name, rows = f"soak-{len(self.planted)}", self.random.randint(8, 128)
        dead = {self.random.randint(1, rows)} if self.random.random() < 0.25 else set()
        self.planted[name] = rows, dead
        self.mill.begin(name, rows, "slow", dict.fromkeys(dead, "kill"))
        self.say(f"run {name}: {rows} rows, of which {sorted(dead)} kill")

    def say(self, what: str) -> None:
        self.log.append(what)
        print(f"{time.monotonic() - self.begun:7.1f} s  {what}", flush=True)

    def watch(self, seconds: float) -> None:
        """Be the supervisor of workers that ended, and see how long nothing moves."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for worker in self.workers:
                if worker.process.poll() is not None:
                    with suppress(ProcessLookupError):
                        os.killpg(worker.process.pid, signal.SIGKILL)
                    worker.start()
            self.look()
            time.sleep(0.2)

    def look(self) -> None:
        with suppress(PixelmillError):
            counts = [self.mill.ledger.counts(run) for run in self.planted]
            progress = sum(c["done"] + c["failed"] + c["dead"] for c in counts) + sum(self.mill.held().values())
            if progress != self.progress or not any(c["open"] for c in counts):
                self.moved, self.progress = time.monotonic(), progress
        self.stall_s = max(self.stall_s, time.monotonic() - self.moved)

    def settle(self) -> None:
        self.say("no more faults; waiting for the end of all runs")
        end = time.monotonic() + 600
        while time.monotonic() < end and any(
            self.mill.ledger.facts(run).get("state") != "over" for run in self.planted
        ):
            self.watch(1)

    # --- faults ---

    def kill_worker(self) -> None:
        with self.mill.fault():
            worker = self.random.choice(self.workers)
            worker.kill()
        worker.start()

    def kill_child(self) -> None:
        with self.mill.fault(), suppress(psutil.Error):
            child = pool_process(self.random.choice(self.workers))
            if child:
                child.kill()

    def sleep_past_the_lease(self) -> None:
        worker = self.random.choice(self.workers)
        with self.mill.fault(), suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGSTOP)
            time.sleep(self.random.uniform(2.5, 5))
            os.killpg(worker.process.pid, signal.SIGCONT)

    def restart_broker(self) -> None:
        with self.mill.fault():
            self.random.choice([self.broker.kill, self.broker.stop])()
            time.sleep(self.random.uniform(0, 4))
            self.broker.start()

    def freeze_broker(self) -> None:
        with self.mill.fault():
            self.broker.freeze()
            time.sleep(self.random.uniform(1, 5))
            self.broker.thaw()

    def fail_storage(self) -> None:
        self.way.fault = self.random.choice(["500", "503", "reset", "cut-put", "slow"])
        self.way.every = self.random.choice([1, 2, 3])
        time.sleep(self.random.uniform(1, 5))
        self.way.fault = "none"

    def drop_connections(self) -> None:
        for _ in range(3):
            self.broker.client.client_kill_filter(_type="normal", skipme=True)
            time.sleep(1)

    def roll(self) -> None:
        for worker in self.workers:
            with self.mill.fault():
                worker.drain.touch()
                worker.process.terminate()
                with suppress(Exception):
                    worker.process.wait(25)
                worker.drain.unlink()
            worker.kill() if worker.process.poll() is None else None
            worker.start()

    def put_garbage(self) -> None:
        junk = [os.urandom(100), b"{}", b"[" * 1000]
        self.broker.client.lpush(self.random.choice(queue.LANES), self.random.choice(junk))


def verdict(soak: Soak) -> int:
    """Print what was asked for; 1 when a goal is missed."""
    mill, bad = soak.mill, []
    rows = sum(count for count, _ in soak.planted.values())
    not_planted = 0
    for run, (count, dead) in soak.planted.items():
        found = set(mill.ledger.failed_rows(run))
        not_planted += len(found - dead)
        try:
            oracle.check(mill, run, count, dead)
        except AssertionError as error:
            bad.append(f"{run}: {str(error)[:500]}")
    try:
        oracle.check_ledger(mill)
    except AssertionError:
        bad.append(f"left in the ledger: {oracle.leftovers(mill)}")
    again = oracle.drawn_again(mill)
    times = mill.recovered()
    lost = sum(mill.ledger.counts(run)["open"] for run in soak.planted)
    counted = sum(sum(mill.ledger.counts(run)[k] for k in ("done", "failed", "dead")) for run in soak.planted)
    p50, p99 = (times[int(len(times) * part)] if times else 0.0 for part in (0.5, 0.99))
    per_kill = sum(again.values()) / max(1, mill.kills)
    print(f"runs {len(soak.planted)}, rows {rows}, faults {len(soak.log)}, kills {mill.kills}")
    print(f"lost {lost}, duplicate commits {counted + lost - rows}, dead rows that were not planted {not_planted}")
    most = max(again.values(), default=0)
    print(f"rows drawn again {sum(again.values())}: {per_kill:.2f} per kill, one row at most {most}")
    print(f"recovery p50 {p50:.1f} s, p99 {p99:.1f} s; longest stall {soak.stall_s:.1f} s")
    if per_kill > BATCH_IMAGES:
        bad.append(f"{per_kill:.2f} rows drawn again per kill; expected at most {BATCH_IMAGES}")
    print("\n".join(["MISSED", *bad]) if bad else "every goal is met")
    return 1 if bad else 0


def main(minutes: float, seed: int) -> int:
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        env = stack.up(folder / "stack", workers=False, flower=False).env
        ends.callback(stack.down, folder / "stack")
        broker = OwnBroker(folder / "broker")
        ends.callback(broker.close)
        own = SETTINGS | {"MODELS": write_models(folder), "REDIS_URL": broker.url, "S3_BUCKET": secrets.token_hex(8)}
        os.environ.update(env | {f"PIXELMILL_{name}": str(value) for name, value in own.items()})
        way = ends.enter_context(faulty_s3.before(env["PIXELMILL_S3_ENDPOINT"]))
        mill = Mill(settings_.load(), folder)
        ends.callback(mill.close)
        workers = [ends.enter_context(mill.worker(n, s3_endpoint=way.endpoint)) for n in range(WORKERS)]
        soak = Soak(mill, broker, way, workers, seed)
        soak.run(minutes)
        return verdict(soak)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2])))
