"""A fleet under measurement: files go in as `produce` puts them in, the clock stops when every row is done."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer import processes, rows
from producer.rows import ReadOptions
from producer.submit import Request, Submission
from shared import catalog, dispatch, keys, queue
from shared.errors import PixelmillError
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import Store

POLL_S = 0.02
STUCK_S = 240.0  # without a row done


class Fleet:
    """The producer's side, and the supervisor of some workers."""

    def __init__(self, settings: Settings, supervisor: "subprocess.Popen[bytes]", log: Path):
        self.settings = settings
        self.supervisor = supervisor
        self.log = log
        self.ledger = Ledger(settings)
        self.store = Store(settings)
        self.app = queue.make_app(settings)
        self.catalog = catalog.load(settings.models)
        self.store.ensure_bucket()

    def make(self, path: Path, run: str) -> float:
        """Seconds from the first look at the file until all pictures are stored and all rows are done."""
        start = time.perf_counter()
        count = self.submit(path, run)
        self._wait(run, "finishing", "over")
        seconds = time.perf_counter() - start
        self.finish(run, count)  # so that its end files disturb no other measurement
        return seconds

    def submit(self, path: Path, run: str) -> int:
        """What `produce --no-wait` does; how many rows there are."""
        request = Request(path, ReadOptions(), run)
        report = rows.check(path, request.options, self.catalog, self.settings)
        Submission(request, report, self.catalog, self.ledger, self.store).submit()
        dispatch.tick(self.ledger, self.store, self.app)
        return report.rows

    def finish(self, run: str, count: int) -> None:
        """Wait for a run's end; so many rows must be done."""
        self._wait(run, "over")
        self._must_be_done(run, count)

    def await_done(self, run: str, poll_s: float = 0.002) -> None:
        """Until a run of one row has it stored, by the ledger."""
        self._wait(run, "finishing", "over", poll_s=poll_s)

    def lines(self, run: str) -> Iterator[dict[str, Any]]:
        """The manifest of a run: one line per picture, in row order."""
        return (json.loads(raw) for raw in self.store.lines(keys.inside(run, "manifest.jsonl")))

    def picture(self, run: str, line: dict[str, Any]) -> bytes:
        """The stored object of a manifest line."""
        return self.store.get(keys.inside(run, line["key"])) or b""

    def forget(self, run: str) -> None:
        """Remove a run: the next round finds the storage as this one did."""
        self.ledger.forget(run)
        self.store.delete_all(keys.prefix(run))

    def close(self) -> None:
        self.app.close()
        self.ledger.redis.close()

    def _wait(self, run: str, *states: str, poll_s: float = POLL_S) -> None:
        closed, deadline = -1, 0.0
        while (facts := self.ledger.facts(run)).get("state") not in states:
            now = time.monotonic()
            if int(facts.get("done", 0)) != closed:
                closed, deadline = int(facts.get("done", 0)), now + STUCK_S
            if now > deadline or self.supervisor.poll() is not None:
                raise PixelmillError(f"run {run} does not go on; its workers' log ends:\n{processes.tail(self.log)}")
            time.sleep(poll_s)

    def _must_be_done(self, run: str, wanted: int) -> None:
        counts = self.ledger.counts(run)
        if counts["done"] != wanted:
            raise PixelmillError(f"run {run}: {counts}; expected {wanted} rows done; see its workers' log")
