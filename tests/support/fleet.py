"""Workers and runs for tests: real Celery processes with the null model, on the test's own broker and bucket."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from producer import follow, rows
from producer.rows import ReadOptions
from producer.submit import Request, Submission, Submitted
from shared import catalog, dispatch, finish, queue
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import Store

SUPPORT = Path(__file__).parent
MODELS = """
default = "null"
[models.null]
family = "sd15"
path = "null"
identity = "IDENTITY"
[models.null.defaults]
width = 64
height = 64
num_inference_steps = 2
guidance_scale = 4.0
scheduler = "dpmpp_2m"
"""


def write_models(folder: Path) -> Path:
    """A catalog with the null model in a folder of its own."""
    (folder / "null").mkdir()
    (folder / "null" / "weights").write_text("none")
    overlay = folder / "models.toml"
    overlay.write_text(MODELS.replace("IDENTITY", catalog.identity(folder / "null")))
    return overlay


class Fleet:
    """One test's producer side, the chores of a supervisor, and as many workers as it starts."""

    def __init__(self, settings: Settings, folder: Path):
        self.settings = settings
        self.folder = folder
        self.ledger = Ledger(settings)
        self.store = Store(settings)
        self.app = queue.make_app(settings)
        self.catalog = catalog.load(settings.models)
        self.store.ensure_bucket()
        self.drawn = folder / "drawn"  # the prompts that null models drew, a line each
        self.workers_log: Path | None = None  # where workers write; None: beside the tests' own output
        self._workers: list[str] = []
        self._stop = threading.Event()
        self._chores = threading.Thread(target=self._do_chores, daemon=True)
        self._chores.start()

    def submit(self, text: str, name: str = "prompts.csv", run: str | None = None, **more: object) -> Submitted:
        """What `produce --csv --no-wait` does with a file of this text."""
        path = self.folder / name
        path.write_text(text)
        options = ReadOptions(salt=str(more.pop("salt", "")))
        request = Request(
            path,
            options,
            run,
            skip_bad=bool(more.pop("skip_bad", False)),
            reuse=more.pop("reuse", None),
            lane=more.pop("lane", None),
        )  # type: ignore[arg-type]
        report = rows.check(path, options, self.catalog, self.settings)
        submitted = Submission(request, report, self.catalog, self.ledger, self.store).submit()
        dispatch.tick(self.ledger, self.store, self.app)
        return submitted

    def finish(self, run: str, timeout_s: float = 60.0) -> dict[str, int]:
        """Wait for a run's end; its counts by the summary, which must equal the ledger's."""
        wait_for(lambda: self.ledger.facts(run).get("state") == "over", f"run {run} to be over", timeout_s)
        summary: dict[str, int] = follow.summary(self.store, run)["counts"]
        ledger = self.ledger.counts(run)
        assert {k: summary[k] for k in ("done", "failed", "dead")} == {k: ledger[k] for k in ("done", "failed", "dead")}
        return summary

    def lines(self, run: str, name: str = "manifest.jsonl") -> list[str]:
        """Lines of one of a run's end files."""
        return (self.store.get(f"runs/{run}/{name}") or b"").decode().splitlines()

    @contextmanager
    def worker(self, number: int = 0, app: str = "null_app:app", **settings: str) -> Iterator["WorkerProcess"]:
        """A worker like those that a supervisor starts, and its announcement. `settings`: its own PIXELMILL_*."""
        own = {f"PIXELMILL_{name.upper()}": value for name, value in settings.items()}
        own |= {"NULL_MODEL_DRAWN": str(self.drawn)}
        worker = WorkerProcess(f"cpu-{number}@test", app, self.folder / f"drain-{number}", own, self.workers_log)
        self._workers.append(worker.name)
        try:
            yield worker
        finally:
            self._workers.remove(worker.name)
            worker.kill()

    @contextmanager
    def supervisor(self, devices: str, **settings: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A real supervisor with workers of the null model. `settings`: its own PIXELMILL_*."""
        own = {f"PIXELMILL_{name.upper()}": value for name, value in settings.items()}
        own |= {"PIXELMILL_DEVICES": devices, "NULL_MODEL_DRAWN": str(self.drawn)}
        own |= {"PYTHONPATH": f"{SUPPORT}:{SUPPORT.parent.parent}", "TMPDIR": str(self.folder)}
        process = subprocess.Popen([sys.executable, str(SUPPORT / "null_workers.py")], env=os.environ | own)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def close(self) -> None:
        self._stop.set()
        self._chores.join()
        self.app.close()
        self.ledger.redis.close()

    def _do_chores(self) -> None:
        while not self._stop.wait(0.1):
            for name in self._workers:
                self.ledger.announce(name, {"device": "cpu", "models": list(self.catalog.models)})
            finish.tick(self.ledger, self.store)
            dispatch.tick(self.ledger, self.store, self.app)


class WorkerProcess:
    """A Celery process in a process group of its own."""

    def __init__(self, name: str, app: str, drain: Path, settings: dict[str, str], log: Path | None = None):
        self.name = name
        self.app = app
        self.drain = drain  # while it exists, shards are handed back
        self.settings = settings
        self.log = log
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "celery", "-A", self.app, "worker", "-n", self.name, "-l", "INFO"]
        command += ["-Q", ",".join(queue.LANES), "--without-gossip", "--without-mingle"]
        own = {"PIXELMILL_WORKER": self.name, "PIXELMILL_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        own |= {"PIXELMILL_DRAIN": str(self.drain)} | self.settings
        environment = os.environ | own | {"PYTHONPATH": str(SUPPORT)}
        with self.log.open("ab") if self.log else nullcontext() as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def revive(self) -> None:
        """What a supervisor does for one that ended."""
        if self.process.poll() is not None:
            self.kill()
            self.start()

    def kill(self) -> None:
        """What a power cut does to it."""
        with suppress(ProcessLookupError):  # it was killed before
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Poll until something holds; a test that waits in vain says for what."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.02)
