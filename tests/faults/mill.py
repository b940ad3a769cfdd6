"""A fleet for faults: its chores outlive a broker or a storage that is away, and it counts what a fault costs."""

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from fleet import Fleet, WorkerProcess, wait_for

from producer.submit import Submitted
from shared import dispatch, finish, queue
from shared.errors import PixelmillError, Unreachable
from shared.settings import Settings
from shared.shards import Shard

SETTINGS = {"LEASE_S": 2, "HEARTBEAT_S": 0.5, "REDELIVER_S": 1, "TICK_S": 0.5, "THREADS": 1, "HANG_S": 3}
LONGEST_WATCH_S = 120.0
LONGEST_MESSAGE_S = 15.0
MEANWHILE = ", the broker away meanwhile"
Held = dict[tuple[str, str], int]  # (run, shard) -> token


class Mill(Fleet):
    """Like a supervisor, it announces its workers even while dispatch fails, and tries everything again."""

    def __init__(self, settings: Settings, folder: Path):
        self.outages = 0  # of the broker, so far; while it is away no lease can end
        self.kills = 0  # faults after which a model call may run again
        self.recoveries: list[tuple[str, float]] = []  # what broke, seconds until a shard of it was free again
        self.runs: dict[str, int] = {}  # rows of each run that was taken
        self.figures: list[str] = []  # what else a case measured
        self._watches: list[threading.Thread] = []
        super().__init__(settings, folder)

    def begin(self, name: str, count: int, word: str = "slow", planted: dict[int, str] | None = None) -> str:
        """Submit a run of that many rows, each of its own prompt; `planted`: words of rows that differ."""
        words = dict.fromkeys(range(1, count + 1), word) | (planted or {})
        text = "prompt\n" + "".join(f"{words[row]} {row} of file {len(self.runs)}\n" for row in range(1, count + 1))
        return self.submit(text, name=f"{name}.csv", run=name).run

    def submit(self, text: str, name: str = "prompts.csv", run: str | None = None, **more: object) -> Submitted:
        """Of a file with a line per row; a run counts once it is taken."""
        submitted = super().submit(text, name, run, **more)
        self.runs[submitted.run] = text.count("\n") - 1
        return submitted

    @contextmanager
    def worker(self, number: int = 0, app: str = "null_app:app", **settings: str) -> Iterator[WorkerProcess]:
        """It leaves when the case is over and it has taken what was sent twice: nobody else would."""
        with super().worker(number, app, **settings) as worker:
            yield worker
            with suppress(AssertionError):  # whether one is left, the oracle asks of every case
                gone = worker.process.poll
                wait_for(lambda: gone() is not None or not self._messages(), "the last message", LONGEST_MESSAGE_S)

    def _messages(self) -> int:
        with suppress(PixelmillError):
            return sum(self.ledger.queued(lane) for lane in queue.LANES)
        return 0

    @contextmanager
    def fault(self, what: str = "", workers: Collection[str] = (), kills: int = 1) -> Iterator[None]:
        """Around what breaks these workers (none named: all); from its beginning, the time until a shard that one of
        them ran can go to another."""
        held, begin, outages = self.held(workers), time.monotonic(), self.outages
        yield
        self.kills += kills
        watch = threading.Thread(target=self._watch, args=(what, held, begin, outages), daemon=True)
        watch.start()
        self._watches.append(watch)

    def held(self, workers: Collection[str] = ()) -> Held:
        """The shards that run now, on these workers (none named: all)."""
        found: Held = {}
        for key in self.ledger._scan("shard:*"):
            _, run, name = key.split(":", 2)
            shard = self.ledger.shard(run, name)
            if shard and shard.state == "running" and (not workers or shard.worker in workers):
                found[run, name] = shard.token
        return found

    def await_rows(self, run: str) -> None:
        """Until a model call runs."""
        wait_for(lambda: any(self._running_rows(run)), "a model call")

    def _running_rows(self, run: str) -> list[tuple[int, ...]]:
        return [shard.running_rows for key in self.held() if key[0] == run and (shard := self.ledger.shard(*key))]

    def recovered(self) -> None:
        """Waits until each shard that a fault hit was free again, or had been committed before it was hit."""
        for watch in self._watches:
            watch.join(LONGEST_WATCH_S)
        assert not any(watch.is_alive() for watch in self._watches), "a shard that was hit never came free"

    def recoveries_s(self, what: str = "") -> list[float]:
        """Of one kind of fault, or of all; sorted."""
        return sorted(seconds for kind, seconds in self.recoveries if what in ("", kind))

    def _watch(self, what: str, held: Held, begin: float, outages: int) -> None:
        while held and not self._stop.is_set():
            with suppress(PixelmillError):
                for (run, name), token in list(held.items()):
                    parts = self.parts(run, name)
                    if parts and not any(shard.token == token and shard.state == "running" for shard in parts):
                        alone = self.outages == outages
                        self.recoveries.append((what if alone else what + MEANWHILE, time.monotonic() - begin))
                        parts = []
                    if not parts:
                        del held[run, name]
            time.sleep(0.1)

    def parts(self, run: str, name: str) -> list[Shard]:
        """What there is of a shard: itself, and rows of it that go alone."""
        names = [key.split(":", 2)[2] for key in self.ledger._scan(f"shard:{run}:{name}*")]
        return [shard for shard in (self.ledger.shard(run, part) for part in names) if shard]

    def close(self) -> None:
        super().close()
        for watch in self._watches:
            watch.join()

    def _do_chores(self) -> None:
        while not self._stop.wait(0.1):
            for chore in (self._announce, self._finish, self._dispatch):
                with suppress(Unreachable):
                    chore()

    def _announce(self) -> None:
        for name in list(self._workers):
            self.ledger.announce(name, {"device": "cpu", "models": list(self.catalog.models)})

    def _finish(self) -> None:
        finish.tick(self.ledger, self.store)

    def _dispatch(self) -> None:
        dispatch.tick(self.ledger, self.store, self.app)


def pool_process(worker: WorkerProcess) -> psutil.Process | None:
    """The process that runs a worker's tasks: the one of its children that holds torch."""
    with suppress(psutil.Error):
        children = psutil.Process(worker.process.pid).children()
        big = [child for child in children if child.memory_info().rss > 150 << 20]
        return big[0] if big else None
    return None
