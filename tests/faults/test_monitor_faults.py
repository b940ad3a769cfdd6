"""The monitor flooded and killed: it shows what it can, and the work never waits for it."""

import re
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import oracle
import psutil
import pytest
from fleet import wait_for
from mill import Mill
from own_broker import _free_port

from producer import services
from shared import queue

EVENTS, AT_ONCE = 100_000, 10_000
MOST_BYTES = 200 << 20
LOGIN = "flood:flood"


@dataclass(frozen=True)
class Monitor:
    """Flower as the local stack starts it."""

    process: subprocess.Popen[bytes]
    port: int

    def seen(self) -> int:
        """How many events of tasks it has received."""
        request = urllib.request.Request(f"http://{services.HOST}:{self.port}/metrics")
        request.add_header("Authorization", f"Basic {b64encode(LOGIN.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            counts = re.findall(
                r'^flower_events_total\{.*type="task-received".*\} (\S+)$', answer.read().decode(), re.M
            )
        return sum(int(float(count)) for count in counts)

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def monitor(mill: Mill) -> Iterator[Monitor]:
    port = _free_port()
    service = services.flower(mill.folder, port, LOGIN, {})
    service.cwd.mkdir()
    with (mill.folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(service.argv, env=dict(service.env), cwd=service.cwd, stdout=log, stderr=log)
    try:
        wait_for(service.ready, "Flower to answer")
        yield Monitor(process, port)
    finally:
        process.kill()
        process.wait()


def flood(mill: Mill, flower: Monitor) -> int:
    """As a worker tells of tasks that it received, each another one; the most bytes that Flower held."""
    most_bytes = 0
    with mill.app.connection_for_write() as connection, mill.app.events.Dispatcher(connection, "cpu-9@test") as worker:

        def receive(number: int) -> None:
            facts = {"name": queue.RUN_SHARD, "args": "()", "kwargs": f"flood shard {number:06d}"}
            worker.send("task-received", uuid=str(uuid4()), retries=0, eta=None, expires=None, **facts)

        # It answers before it listens, and what is told to nobody is lost.
        wait_for(lambda: receive(0) or flower.seen(), "Flower to listen")
        for sent in range(AT_ONCE, EVENTS + 1, AT_ONCE):
            for number in range(AT_ONCE):
                receive(number)
            wait_for(lambda: flower.seen() >= sent, f"Flower to see {sent:,} events")  # noqa: B023
            most_bytes = max(most_bytes, flower.rss_bytes())
    return most_bytes


@pytest.mark.timeout(900)
def test_a_flood_of_events_and_the_monitor_s_death(mill: Mill) -> None:
    with monitor(mill) as flower:
        most_bytes = flood(mill, flower)
        mill.figures.append(f"{EVENTS:,} tasks, Flower at most {most_bytes >> 20} MB")
        with mill.worker():
            run = mill.begin("beside", 256)
            wait_for(lambda: mill.ledger.counts(run)["done"] > 0, "its first rows")
            with mill.fault(kills=0):
                flower.process.kill()
            oracle.check(mill, run, 256)
    assert most_bytes < MOST_BYTES
