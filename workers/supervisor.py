"""Keeps one worker process per device alive, and the host's share of dispatch and end files going."""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from shared import catalog, dispatch, finish, queue
from shared.errors import PixelmillError, UsageError
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import Store
from workers import health, held, quarantine

log = logging.getLogger(__name__)
LOOK_S = 0.2
FINISH_EVERY_S = 0.5
FINISH_AGAIN_S = 10.0  # after a failure, which is logged each time
RESTART_AFTER_S = 1.0
CARDS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, Windows' subsystem for Linux
COUNT = "import torch; print(torch.cuda.device_count(), int(torch.backends.mps.is_available()))"


def device_names(settings: Settings) -> list[str]:
    """What to start a worker for: the setting, else every CUDA device, else MPS, else the CPU."""
    if settings.devices:
        return [name.strip() for name in settings.devices.split(",")]
    if parts := mig_parts(os.environ.get("CUDA_VISIBLE_DEVICES", "")):
        return [f"cuda:{i}" for i in range(parts)]
    if sys.platform == "linux" and not any(map(os.path.exists, CARDS)):
        return ["cpu"]  # without torch's two seconds or more
    # Asked in a process of its own: the supervisor must hold neither torch nor a CUDA context.
    answer = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    cuda, mps = map(int, answer.stdout.split())
    return [f"cuda:{i}" for i in range(cuda)] or (["mps"] if mps else ["cpu"])


def mig_parts(given: str) -> int:
    """How many parts of MIG cards CUDA_VISIBLE_DEVICES names. CUDA itself shows a process only the first of them."""
    cards = [card.strip() for card in given.split(",")]
    return len(cards) if all(card.startswith("MIG-") for card in cards) else 0


def visible(index: str, given: str | None) -> str:
    """CUDA_VISIBLE_DEVICES of one worker: its card among those that this host was given."""
    if not given:
        return index
    cards = [card.strip() for card in given.split(",")]
    if int(index) >= len(cards):
        raise UsageError(
            f"PIXELMILL_DEVICES: found cuda:{index}; CUDA_VISIBLE_DEVICES gives {len(cards)} card(s): {given}"
        )
    return cards[int(index)]


class Worker:
    """The process of one device, in a process group of its own."""

    app = "workers.app:app"

    def __init__(self, number: int, device: str, threads: int, folder: Path):
        self.device = device
        self.name = f"{device.replace(':', '')}-{number}@{socket.gethostname()}"
        self.drain = folder / f"{number}.drain"  # while it exists, shards are handed back
        self.quarantined = ""  # why
        self._environment = os.environ | self._settings(threads)
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0

    def _settings(self, threads: int) -> dict[str, str]:
        kind, _, index = self.device.partition(":")
        card = visible(index or "0", os.environ.get("CUDA_VISIBLE_DEVICES")) if kind == "cuda" else ""
        return {
            "PIXELMILL_WORKER": self.name,
            "PIXELMILL_DEVICE": self.device,
            quarantine.DRAIN: str(self.drain),
            "PIXELMILL_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),  # read when torch is imported
            **({"CUDA_VISIBLE_DEVICES": card} if kind == "cuda" else {}),
        }

    @property
    def runs(self) -> bool:
        process = self._process  # another thread may put it down
        return process is not None and process.poll() is None

    @property
    def health(self) -> str:
        """In words."""
        if self.quarantined:
            return f"its device {self.device} is quarantined: {self.quarantined}"
        return health.RUNS if self.runs else "its process ended and is started again: see the supervisor's log"

    def keep_alive(self) -> None:
        """Start the process if it is not running, but not again and again without a pause."""
        if self.runs or self.quarantined:
            return
        if self._process is not None and self._not_before == 0.0:
            log.warning("worker %s ended with %s; a new one starts", self.name, self._process.returncode)
            _kill_group(self._process)  # its pool process must not run on beside the new one
            self._not_before = time.monotonic() + RESTART_AFTER_S
        if time.monotonic() >= self._not_before:
            self._start()

    def stop(self) -> None:
        """Ask the process to hand its shard back and to end."""
        self.drain.touch()
        if process := self._process:
            process.terminate()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end, then kill whatever of the group is left. False if it did not end by itself."""
        process = self._process
        if process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
        ended = process.poll() is not None
        _kill_group(process)
        process.wait()
        self._process = None  # its number may be another's soon
        return ended

    def _start(self) -> None:
        command = [sys.executable, "-m", "celery", "-A", self.app, "worker", "-n", self.name]
        command += ["-Q", ",".join(queue.LANES), "-l", "INFO", "--without-gossip", "--without-mingle"]
        self._process = subprocess.Popen(command, env=self._environment, start_new_session=True)
        self._not_before = 0.0


class Supervisor:
    """Everything a host does besides making pictures. `run` returns after SIGTERM or SIGINT."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.ledger = Ledger(settings)
        self.store = Store(settings)
        self.app = queue.make_app(settings)
        self.catalog = catalog.load(settings.models, settings.model_folder)
        self._stop = threading.Event()
        self._announced_s: float | None = None
        self._beat_s = 0.0

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        with tempfile.TemporaryDirectory(prefix="pixelmill-") as folder:
            workers = self._workers(Path(folder))
            chores = threading.Thread(target=self._chores, args=(workers,), name="chores", daemon=True)
            end_files = threading.Thread(target=self._finish_runs, name="end files", daemon=True)
            chores.start()
            end_files.start()
            try:
                while not self._stop.wait(LOOK_S):
                    for worker in workers:
                        self._look_after(worker)
                    self._beat(workers, Path(folder))
            finally:
                self._stop.set()
                health.place().unlink(missing_ok=True)  # whoever asks shall send nothing here any more
                deadline = time.monotonic() + self.settings.grace_s
                self._end(workers, deadline)
                for thread in (chores, end_files):  # a large run's take minutes; whoever comes next writes them anew
                    thread.join(max(0.0, deadline - time.monotonic()))
                _shielded("retire", partial(self._retire, workers))

    def _workers(self, folder: Path) -> list[Worker]:
        devices = device_names(self.settings)
        threads = self.settings.threads or max(1, (os.cpu_count() or 1) // len(devices))
        return [Worker(number, device, threads, folder) for number, device in enumerate(devices)]

    def _look_after(self, worker: Worker) -> None:
        """Keep it alive, unless its device broke too often; then it is put down once and for all."""
        if not worker.quarantined and (why := quarantine.reason(quarantine.noted(worker.drain))):
            worker.quarantined = why
            log.error("device %s of worker %s is quarantined: %s", worker.device, worker.name, why)
            deadline = time.monotonic() + self.settings.grace_s
            threading.Thread(target=self._end, args=([worker], deadline), daemon=True).start()
        worker.keep_alive()

    def _beat(self, workers: list[Worker], private: Path) -> None:
        if time.monotonic() - self._beat_s >= health.BEAT_S:
            self._beat_s = time.monotonic()
            state = health.State(self._beat_s, self._announced_s, {worker.name: worker.health for worker in workers})
            _shielded("health", partial(health.write, state, private))

    def _end(self, workers: list[Worker], deadline: float) -> None:
        """Ask all to end; who does not by the deadline is killed, and what it held goes back, uncharged."""
        for worker in workers:
            worker.stop()
        for worker in workers:
            if not worker.wait(max(0.1, deadline - time.monotonic())):
                log.warning("worker %s did not end within %g s; it was killed", worker.name, self.settings.grace_s)
                _shielded("hand back", partial(self._hand_back, worker.drain))

    def _retire(self, workers: list[Worker]) -> None:
        for worker in workers:
            self.ledger.retire(worker.name)

    def _hand_back(self, drain: Path) -> None:
        if claim := held.noted(drain):
            self.ledger.release(claim)

    def _chores(self, workers: list[Worker]) -> None:
        """Announce and dispatch now and then; none of it may stop the watch over the workers."""
        pause_s = FINISH_EVERY_S  # by then the workers are started
        while not self._stop.wait(pause_s):
            _shielded("announcement", lambda: self._announce(workers))
            _shielded("dispatch", lambda: dispatch.tick(self.ledger, self.store, self.app))
            pause_s = self.settings.tick_s

    def _finish_runs(self) -> None:
        """Write end files soon after a run's last row. In a thread of its own: a large run's take minutes."""
        pause_s = FINISH_EVERY_S
        while not self._stop.wait(pause_s):
            good = _shielded("end files", lambda: finish.tick(self.ledger, self.store))
            pause_s = FINISH_EVERY_S if good else FINISH_AGAIN_S

    def _announce(self, workers: list[Worker]) -> None:
        models = [name for name, model in self.catalog.models.items() if "path" in model.remote or model.path.exists()]
        for worker in workers:
            if worker.quarantined:
                facts = {"device": worker.device, "models": [], "quarantined": worker.quarantined}
                self.ledger.announce(worker.name, facts)
            elif worker.runs:
                self.ledger.announce(worker.name, {"device": worker.device, "models": models})
        self._announced_s = time.monotonic()


def _kill_group(leader: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):  # all of it is gone already
        os.killpg(leader.pid, signal.SIGKILL)


def _shielded(what: str, chore: Callable[[], object]) -> object:
    """What the chore returns, or None if it failed."""
    try:
        return chore()
    except PixelmillError as error:
        log.warning("%s: %s", what, error)
    except Exception:
        log.exception("%s failed; it is tried again", what)
    return None
