"""Runs under load while things break at random: `soak.py MINUTES SEED LEASE_S`. A seed repeats the order of faults."""

import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import faulty_s3
import oracle
import psutil
from fleet import WorkerProcess, write_models
from mill import Mill, pool_process
from own_broker import OwnBroker

from producer import stack
from shared import queue
from shared import settings as settings_
from shared.dispatch import DEATHS_TO_BURY
from shared.errors import PixelmillError

WORKERS = 2
OPEN_RUNS = 12  # under load: there is work beside the shards that wait for the end of a lease
RECOVERY_S = 15.0  # beyond the lease: the tick of dispatch, and what a broker that is away adds
CALLS_PER_KILL = 1.0  # model calls that are made again; one was under way
SETTLE_S = 900
BUSY_S = 20
LOG = Path(tempfile.gettempdir(), f"soak-{os.getpid()}.log")  # what the workers say; stays when a soak fails
SOUND = "nothing lost, nothing done twice"


class Soak:
    """One soak. Faults come one after another, each on a worker of its own choice."""

    def __init__(self, mill: Mill, broker: OwnBroker, way: faulty_s3.FaultyS3, workers: list[WorkerProcess], seed: int):
        self.mill = mill
        self.lease_s = mill.settings.lease_s
        self.broker = broker
        self.way = way
        self.workers = workers
        self.random = random.Random(seed)
        self.planted: dict[str, tuple[int, set[int]]] = {}  # run -> rows, rows that kill their worker
        self.faults_made = 0
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
            self.faults_made += 1
            fault()
            self.watch(self.random.uniform(2, 10))
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
        print(f"{time.monotonic() - self.begun:7.1f} s  {what}", flush=True)

    def watch(self, seconds: float) -> None:
        """Be the supervisor of workers that ended, and see how long nothing moves."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for worker in self.workers:
                worker.revive()
            self.look()
            time.sleep(0.2)

    def look(self) -> None:
        with suppress(PixelmillError):
            counts = [self.mill.ledger.counts(run) for run in self.planted]
            progress = sum(c["done"] + c["failed"] + c["dead"] for c in counts) + sum(self.mill.held().values())
            self.stall_s = max(self.stall_s, time.monotonic() - self.moved)
            if progress != self.progress or not any(c["open"] for c in counts):
                self.moved, self.progress = time.monotonic(), progress

    def settle(self) -> None:
        self.say("no more faults; waiting for the end of all runs")
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end and any(
            self.mill.ledger.facts(run).get("state") != "over" for run in self.planted
        ):
            self.watch(1)

    # --- faults ---

    def busy(self) -> WorkerProcess:
        """One that runs a shard, if any soon does: others lose nothing. None whose rows chance has hit so often that
        once more would bury them: who is dead was planted."""
        end = time.monotonic() + BUSY_S
        while time.monotonic() < end:
            if at_work := [worker for worker in self.workers if self.may_be_hit(worker)]:
                return self.random.choice(at_work)
            self.watch(0.2)
        return self.random.choice(self.workers)

    def may_be_hit(self, worker: WorkerProcess) -> bool:
        running = [shard for key in self.mill.held([worker.name]) if (shard := self.mill.ledger.shard(*key))]
        deaths = [shard.deaths.get(row, 0) for shard in running for row in shard.running_rows]
        return bool(running) and max(deaths, default=0) < DEATHS_TO_BURY - 1

    def kill_worker(self) -> None:
        worker = self.busy()
        with self.mill.fault("worker killed", [worker.name]):
            worker.kill()
        worker.start()

    def kill_child(self) -> None:
        worker = self.busy()
        with self.mill.fault("pool process killed", [worker.name]), suppress(psutil.Error):
            child = pool_process(worker)
            if child:
                child.kill()

    def sleep_past_the_lease(self) -> None:
        worker = self.busy()
        with self.mill.fault("worker asleep", [worker.name]), suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGSTOP)
            self.watch(self.lease_s * self.random.uniform(0.5, 1.5))
            os.killpg(worker.process.pid, signal.SIGCONT)

    def restart_broker(self) -> None:
        self.mill.outages += 1
        with self.mill.fault("broker ended", kills=0):
            self.random.choice([self.broker.kill, self.broker.stop])()
            time.sleep(self.random.uniform(0, 4))
            self.broker.start()

    def freeze_broker(self) -> None:
        self.mill.outages += 1
        with self.mill.fault("broker frozen", kills=0):
            self.broker.freeze()
            time.sleep(self.lease_s * self.random.uniform(0.5, 1.5))
            self.broker.thaw()

    def fail_storage(self) -> None:
        self.way.fault = self.random.choice(["500", "503", "reset", "cut-put", "slow"])
        self.way.every = self.random.choice([1, 2, 3])
        self.watch(self.random.uniform(1, 5))
        self.way.fault = "none"

    def drop_connections(self) -> None:
        for _ in range(3):
            self.broker.client.client_kill_filter(_type="normal", skipme=True)
            self.watch(1)

    def roll(self) -> None:
        for worker in self.workers:
            with self.mill.fault("worker stopped", [worker.name]):
                worker.drain.touch()
                worker.process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(25)
                worker.drain.unlink()
                worker.kill()
            worker.start()

    def put_garbage(self) -> None:
        junk = [os.urandom(100), b"{}", b"[" * 1000]
        self.broker.client.lpush(self.random.choice(queue.LANES), self.random.choice(junk))


def verdict(soak: Soak) -> int:
    """Print what was asked for; 1 when a row is lost, or something done twice. How long it took fails no soak: that
    depends on what else the machine does."""
    mill, missed = soak.mill, [*unsound(soak)]
    counts = [mill.ledger.counts(run) for run in soak.planted]
    rows = sum(count for count, _ in soak.planted.values())
    lost = sum(count["open"] for count in counts)
    ended = sum(count[state] for count in counts for state in ("done", "failed", "dead"))
    twice = ended - sum(len(oracle.rows_with_results(mill, run)) for run in soak.planted)
    not_planted = sum(len(set(mill.ledger.failed_rows(run)) - dead) for run, (_, dead) in soak.planted.items())
    again = oracle.calls_again(mill)
    ends = mill.kills + DEATHS_TO_BURY * sum(len(dead) for _, dead in soak.planted.values())
    print(f"runs {len(counts)}, rows {rows}, faults {soak.faults_made}, ends of processes {ends}")
    print(f"lost {lost}, duplicate commits {twice}, dead rows that were not planted {not_planted}")
    print(f"model calls made again {again}: {again / max(1, ends):.2f} for each end of a process")
    for what in sorted({what for what, _ in mill.recoveries}):
        print(f"{what}: a shard is free again after {spread(mill.recoveries_s(what))}")
    print(f"longest stall {soak.stall_s:.1f} s")
    if lost or twice or not_planted:
        missed.append("lost, duplicate or dead rows")
    if again > CALLS_PER_KILL * ends:
        missed.append(f"{again} model calls made again; expected at most {CALLS_PER_KILL:g} for each end of a process")
    slow = sum(seconds > soak.lease_s + RECOVERY_S for seconds in mill.recoveries_s("worker killed"))
    print(
        f"of the killed workers' shards, {slow} waited longer than the lease and {RECOVERY_S:g} s with the broker there"
    )
    print("\n".join([*(f"FAILED: {what}" for what in missed), f"workers' log: {LOG}"]) if missed else SOUND)
    return 1 if missed else 0


def unsound(soak: Soak) -> Iterator[str]:
    """What the oracle finds wrong, run by run."""
    for run, (count, dead) in soak.planted.items():
        try:
            oracle.check(soak.mill, run, count, dead)
        except AssertionError as error:
            yield f"{run}: {str(error)[:500]}"
    try:
        oracle.check_ledger(soak.mill)
    except AssertionError:
        yield f"left in the ledger: {oracle.leftovers(soak.mill)}"
    try:
        soak.mill.recovered()
    except AssertionError as error:
        yield str(error)


def percentile(seconds: list[float], part: float) -> float:
    """Of sorted numbers."""
    return seconds[min(len(seconds) - 1, int(len(seconds) * part))]


def spread(seconds: list[float]) -> str:
    p50, p99 = percentile(seconds, 0.5), percentile(seconds, 0.99)
    return f"p50 {p50:.1f} s, p99 {p99:.1f} s ({len(seconds)} shards)"


def quick(lease_s: float) -> dict[str, float]:
    """The product's own settings, for a lease of this length."""
    often_s = {"HEARTBEAT_S": min(1.0, lease_s / 4), "TICK_S": min(5.0, lease_s / 4)}
    return {"LEASE_S": lease_s, "REDELIVER_S": min(10.0, lease_s / 2), **often_s}


def main(minutes: float, seed: int, lease_s: float) -> int:
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        env = stack.up(folder / "stack", workers=False, flower=False).env
        ends.callback(stack.down, folder / "stack")
        broker = OwnBroker(folder / "broker")
        ends.callback(broker.close)
        own = {"MODELS": write_models(folder), "REDIS_URL": broker.url, "S3_BUCKET": secrets.token_hex(8), "THREADS": 1}
        os.environ.update(env | {f"PIXELMILL_{name}": str(value) for name, value in (own | quick(lease_s)).items()})
        way = ends.enter_context(faulty_s3.before(env["PIXELMILL_S3_ENDPOINT"]))
        mill = Mill(settings_.load(), folder)
        ends.callback(mill.close)
        mill.workers_log = LOG
        workers = [ends.enter_context(mill.worker(n, s3_endpoint=way.endpoint)) for n in range(WORKERS)]
        soak = Soak(mill, broker, way, workers, seed)
        soak.run(minutes)
        if (code := verdict(soak)) == 0:
            LOG.unlink()
        return code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
