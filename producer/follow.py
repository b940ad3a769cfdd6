"""Watching a run to its end: a bar, a guess when it ends, and a word when nobody can do the work."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared import dispatch, keys
from shared.errors import UsageError
from shared.jobs import split_models
from shared.runs import Ledger
from shared.store import Store

POLL_S = 0.25
NOBODY_AFTER_S = 5.0
LINE_EVERY_S = 10.0  # where there is no terminal
RATE_OVER_S = 60.0


def follow(ledger: Ledger, store: Store, run: str, quiet: bool = False) -> dict[str, Any]:
    """Wait until the run is over; its summary. Ctrl-C stops the waiting, not the run."""
    console = Console(stderr=True, quiet=quiet)
    show = Bar if console.is_terminal and not quiet else Lines
    with show(console, run) as update:
        eta, served = Eta(), Served(ledger, console)
        while (state := ledger.facts(run).get("state")) != "over":
            if state is None:
                raise UsageError(f"run {run} is not in the ledger (any more); `produce runs` lists the runs")
            counts = ledger.counts(run)
            update(counts, eta.update(closed(counts), counts["open"]))
            served.look(run)
            time.sleep(POLL_S)
        update(ledger.counts(run), "")
    return summary(store, run)


def summary(store: Store, run: str) -> dict[str, Any]:
    """summary.json of a run that is over. Raises UsageError if there is none."""
    body = store.get(keys.summary(run))
    if body is None:
        raise UsageError(f"run {run} is not over, or does not exist; `produce runs` lists the runs")
    value: dict[str, Any] = json.loads(body)
    return value


def closed(counts: dict[str, int]) -> int:
    """Rows that need nothing more."""
    return counts["rows"] - counts["open"]


class Eta:
    """Time left, from the rows closed in the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.seen: deque[tuple[float, int]] = deque()

    def update(self, done: int, left: int) -> str:
        """`done` and `left` are rows; empty while there is too little to guess from."""
        now = self.clock()
        self.seen.append((now, done))
        while now - self.seen[0][0] > RATE_OVER_S:
            self.seen.popleft()
        since, before = self.seen[0]
        if done == before or not left:
            return ""
        return "about " + duration(left * (now - since) / (done - before)) + " left"


def duration(seconds: float) -> str:
    """`95` -> `1m 35s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


class Served:
    """Says once when no live worker can serve a model of the run, and when a device is quarantined."""

    def __init__(self, ledger: Ledger, console: Console):
        self.ledger = ledger
        self.console = console
        self.since = time.monotonic()
        self.said = ""
        self.quarantined: set[str] = set()

    def look(self, run: str) -> None:
        for worker, text in quarantines(self.ledger.workers()).items():
            if worker not in self.quarantined:
                self.console.print(f"[yellow]worker {escape(worker)}:[/] {escape(text)}", highlight=False)
                self.quarantined.add(worker)
        text = unserved(self.ledger, run)
        if not text:
            self.since, self.said = time.monotonic(), ""
        elif time.monotonic() - self.since > NOBODY_AFTER_S and text != self.said:
            self.console.print(f"[yellow]waiting:[/] {escape(text)}", highlight=False)
            self.said = text


def unserved(ledger: Ledger, run: str) -> str:
    """Why no live worker can do the open rows of a run, and what to do; empty if one can."""
    workers = ledger.workers()
    if not workers:
        return "no worker is alive; start one with `produce up` (local stack) or `python -m workers` on a GPU host"
    facts = ledger.facts(run)
    models = [m for m in json.loads(facts.get("models", "[]")) if ledger.pending(run, m)]
    missing = [m for m in models if not dispatch.can_serve(workers.values(), m)]
    parts = [part for m in missing for part in (m, *split_models(m))]
    if not missing:
        return ""
    quarantined = quarantines(workers)
    able = [facts for worker, facts in workers.items() if worker not in quarantined]
    reasons = dict.fromkeys(facts["problems"][m] for m in parts for facts in able if m in facts["problems"])
    reasons |= {f"{worker}: {text}": None for worker, text in quarantined.items()}
    why = "; ".join(reasons) or "no live worker has its files: check `path` in models.toml on the worker hosts"
    return f"no live worker can serve {', '.join(m.replace('+', ' with ') for m in missing)}: {why}"


def quarantines(workers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Worker name -> why its device gets no more work, and what to do."""
    return {
        name: f"device {facts['device']} is quarantined: {facts['quarantined']}; look at the device, "
        f"then restart `python -m workers` on {name.partition('@')[2]} to try it again"
        for name, facts in workers.items()
        if "quarantined" in facts
    }


class Bar:
    """A progress bar on a terminal."""

    def __init__(self, console: Console, run: str):
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows")]
        self.progress = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[more]}"), console=console)
        self.task = self.progress.add_task(run, total=None, more="")

    def __enter__(self) -> Callable[[dict[str, int], str], None]:
        self.progress.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def _update(self, counts: dict[str, int], eta: str) -> None:
        total = counts["rows"]
        more = " · ".join(part for part in (troubles(counts), eta) if part)
        self.progress.update(self.task, total=total, completed=closed(counts), more=more)


class Lines:
    """A line now and then, for logs."""

    def __init__(self, console: Console, run: str):
        self.console = console
        self.run = run
        self.next = 0.0
        self.last = ""

    def __enter__(self) -> Callable[[dict[str, int], str], None]:
        return self._update

    def __exit__(self, *_: object) -> None:
        pass

    def _update(self, counts: dict[str, int], eta: str) -> None:
        text = f"{self.run}: {closed(counts)}/{counts['rows']} rows, {counts['images']} images {troubles(counts)}"
        over = counts["open"] == 0
        if text != self.last and (over or time.monotonic() >= self.next):
            self.console.print(f"{text.strip()} {eta}".strip(), highlight=False, soft_wrap=True)
            self.next, self.last = time.monotonic() + LINE_EVERY_S, text


def troubles(counts: dict[str, int]) -> str:
    """`2 failed, 1 dead`; empty if all is well."""
    return ", ".join(f"{counts[name]} {name}" for name in ("failed", "dead", "canceled", "skipped") if counts[name])


def exit_code(counts: dict[str, int]) -> int:
    """0 if every row read is done."""
    return 0 if counts["done"] == counts["rows"] else 1


def table(rows: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """Columns on standard output, as wide as they need to be."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")
