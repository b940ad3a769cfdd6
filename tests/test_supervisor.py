"""`python -m workers` as a real process: what it starts, restarts and ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from fleet import Fleet, wait_for

from shared import settings
from shared.errors import UsageError
from shared.settings import Settings
from workers.supervisor import Supervisor, device_names, visible


def test_a_supervisor_keeps_a_worker_per_device_and_leaves_nothing_behind(fleet: Fleet) -> None:
    environment = os.environ | {"PIXELMILL_DEVICES": "cpu,cpu", "PIXELMILL_TICK_S": "0.2"}
    supervisor = subprocess.Popen([sys.executable, "-m", "workers"], env=environment)
    process = psutil.Process(supervisor.pid)
    try:
        wait_for(lambda: len(fleet.ledger.workers()) == 2, "two announcements")
        wait_for(lambda: len(process.children()) == 2, "two workers")
        (first, second) = process.children()
        os.killpg(first.pid, signal.SIGKILL)
        wait_for(lambda: len(set(process.children()) - {first}) == 2, "a new worker")
        assert second in process.children()
        everything = process.children(recursive=True)
    finally:
        supervisor.terminate()
        assert supervisor.wait(60) == 0
    wait_for(lambda: not any(child.is_running() for child in everything), "the end of all processes", 10)
    assert fleet.ledger.workers() == {}


def test_workers_end_with_a_supervisor_that_is_killed(fleet: Fleet) -> None:
    environment = os.environ | {"PIXELMILL_DEVICES": "cpu"}
    supervisor = subprocess.Popen([sys.executable, "-m", "workers"], env=environment)
    process = psutil.Process(supervisor.pid)
    wait_for(lambda: len(process.children(recursive=True)) >= 2, "the worker and its pool process")
    everything = process.children(recursive=True)
    supervisor.kill()
    supervisor.wait()
    wait_for(lambda: not any(child.is_running() for child in everything), "the end of the worker")


class Worker:
    """Stands for a worker process, to a supervisor that only asks whether it runs."""

    def __init__(self, name: str, runs: bool):
        self.name = name
        self.runs = runs
        self.device = "cpu"
        self.quarantined = ""


def test_end_files_that_take_long_keep_nobody_from_being_announced(fleet: Fleet, monkeypatch) -> None:
    supervisor = Supervisor(fleet.settings.model_copy(update={"tick_s": 0.05}))
    begun = threading.Event()
    monkeypatch.setattr("workers.supervisor.finish.tick", lambda *_: begun.set() or supervisor._stop.wait())
    workers = [Worker("works@test", runs=True), Worker("fell@test", runs=False)]
    threads = [
        threading.Thread(target=supervisor._finish_runs),
        threading.Thread(target=supervisor._chores, args=(workers,)),
    ]
    for thread in threads:
        thread.start()
    try:
        assert begun.wait(30)
        wait_for(fleet.ledger.workers, "an announcement")
        seen = fleet.ledger.workers()["works@test"]["seen_ms"]
        wait_for(lambda: fleet.ledger.workers()["works@test"]["seen_ms"] > seen, "the next announcement")
        assert list(fleet.ledger.workers()) == ["works@test"]
    finally:
        supervisor._stop.set()
        for thread in threads:
            thread.join()


def test_devices_are_those_of_the_setting() -> None:
    assert device_names(Settings(devices="cuda:0, cuda:2")) == ["cuda:0", "cuda:2"]


def test_a_worker_sees_its_card_among_those_that_the_host_was_given() -> None:
    assert visible("1", None) == "1"
    assert visible("1", "4,7") == "7"
    assert visible("0", "GPU-1a,GPU-2b") == "GPU-1a"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("MIG-1a,MIG-2b, MIG-3c", ["cuda:0", "cuda:1", "cuda:2"]),
        ("MIG-GPU-5e/1/0", ["cuda:0"]),
        ("0,1", ["cpu"]),
        ("", ["cpu"]),
    ],
)
def test_every_part_of_a_card_that_the_host_was_given_has_a_worker(
    given: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.supervisor.CARDS", (str(Path("/nowhere")),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert device_names(Settings()) == expected


def test_a_worker_sees_its_part_of_a_card() -> None:
    assert [visible(str(n), "MIG-1a, MIG-2b") for n in range(2)] == ["MIG-1a", "MIG-2b"]


def test_a_host_without_a_graphics_card_is_known_without_torch(monkeypatch) -> None:
    monkeypatch.setattr("workers.supervisor.CARDS", (str(Path("/nowhere")),))
    monkeypatch.setattr("workers.supervisor.subprocess.run", None)
    assert device_names(Settings()) == ["cpu"]


@pytest.mark.parametrize("devices", ["gpu7", "cuda:x", "cpu,,cpu"])
def test_a_device_that_cannot_be_is_refused_by_every_command(devices: str, monkeypatch) -> None:
    monkeypatch.setenv("PIXELMILL_DEVICES", devices)
    with pytest.raises(UsageError, match=r"PIXELMILL_DEVICES.*expected names such as cuda:0, mps or cpu"):
        settings.load()


def test_a_card_that_the_host_was_not_given_is_refused() -> None:
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES gives 1 card"):
        visible("1", "0")
