"""The ledger from the storage: for a run that was just submitted, and for one whose broker lost its data.

The storage is the truth: `shards.jsonl` says what there is to do, `results/` what is done.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from shared import keys, results
from shared.queue import BULK
from shared.runs import Ledger
from shared.shards import Shard, expand
from shared.store import Store

Line = dict[str, Any]


@dataclass
class Standing:
    """What results/ says of a run: its closed rows as bitmaps over row numbers, 125 KB for a million."""

    done: bytearray
    failed: bytearray  # dead ones too
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("done", "failed", "dead", "images"), 0))
    newest: dict[str, int] = field(default_factory=dict)  # shard as submitted -> its newest try that has results

    def close(self, row: int, state: str, images: int) -> None:
        _set(self.done if state == "done" else self.failed, row)
        self.counts[state] += 1
        self.counts["images"] += images

    def is_open(self, row: int) -> bool:
        return not (_bit(self.done, row) or _bit(self.failed, row))


def open_run(
    ledger: Ledger,
    store: Store,
    about: dict[str, Any],
    look: bool = False,
    again: bool = True,
    keep_lock: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Fill the ledger with every row of a run that is to do, and let dispatch have it; the run's counters.

    `look`: pictures of such rows may be stored already. `again`: rows that failed are to do, else they stay failed.
    """
    run = about["run"]
    standing = read_results(store, run, about["rows_read"], keep_lock)
    counts = standing.counts
    if again:
        standing.failed = bytearray(len(standing.failed))
        counts = counts | {"failed": 0, "dead": 0}
    shards = _shards(store, run, standing.is_open, standing.newest)
    if look:
        shards = (replace(shard, look=True) for shard in shards)
    keep_lock()
    store.delete(keys.summary(run))
    if again:
        store.delete_all(keys.inside(run, "dead/"))
    closed = counts["done"] + counts["failed"] + counts["dead"]
    facts = {"rows": about["rows_read"], "skipped": about["rows_skipped"], "open": about["rows"] - closed, **counts}
    keep_lock()
    ledger.create(run, about.get("lane", BULK), facts, bytes(standing.done), shards, bytes(standing.failed))
    return facts


def retry(ledger: Ledger, store: Store, about: dict[str, Any], keep_lock: Callable[[], object]) -> int:
    """Send failed, dead and canceled rows out again; returns how many."""
    run, counts = about["run"], ledger.counts(about["run"])
    if counts["canceled"]:
        open_run(ledger, store, about, look=True, keep_lock=keep_lock)
        return sum(counts[name] for name in ("failed", "dead", "canceled"))
    return retry_rows(ledger, store, run, *ledger.failures(run), keep_lock)


def retry_rows(
    ledger: Ledger, store: Store, run: str, rows: Collection[int], dead: int, keep_lock: Callable[[], object]
) -> int:
    """Send these rows out again, `dead` of which died, and the rest failed. Records of their deaths go first: should
    they die again, that is recorded anew."""
    chosen = frozenset(rows)
    if chosen:
        shards = list(open_shards(store, run, chosen.__contains__, ledger.next_try(run)))
        store.delete(keys.summary(run))
        for row in _recorded_deaths(store, run) & chosen:
            store.delete(keys.dead(run, row))
        keep_lock()
        ledger.reopen(run, shards, failed=len(chosen) - dead, dead=dead)
    return len(chosen)


def _recorded_deaths(store: Store, run: str) -> set[int]:
    return {int(Path(entry.key).stem) for entry in store.list(keys.inside(run, "dead/"))}


def read_results(store: Store, run: str, last_row: int, keep_lock: Callable[[], object] = lambda: None) -> Standing:
    """How every row ended that has ended. A row's tries lie in results of one shard as submitted, listed together."""
    size = last_row // 8 + 1
    standing = Standing(bytearray(size), bytearray(size))
    for base, names in groupby(_written(store, run), results.base):
        tries = []
        for name in names:
            keep_lock()
            tries.append((results.generation(name), [json.loads(raw) for raw in store.lines(keys.results(run, name))]))
        standing.newest[base] = max(number for number, _ in tries)
        for row, (state, images) in ends(tries).items():
            standing.close(row, state, images)
    return standing


def ends(tries: Iterable[tuple[int, list[Line]]]) -> dict[int, tuple[str, int]]:
    """(state, images) of each row by its results, (generation, lines) each: a row that was ever done is done, and stays
    it; of the others, the last try counts. What was canceled in its last try has not ended."""
    best: dict[int, tuple[bool, int]] = {}
    found: dict[int, tuple[str, int]] = {}
    for generation, lines in tries:
        bad = {line["row"]: line["state"] for line in lines if line["state"] != "done"}
        images = Counter(line["row"] for line in lines if line["row"] not in bad)
        for row in dict.fromkeys(line["row"] for line in lines):
            rank = (row not in bad, generation)
            if rank >= best.get(row, rank):
                best[row], found[row] = rank, (bad.get(row, "done"), images[row])
    return {row: end for row, end in found.items() if end[0] != "canceled"}


def open_shards(store: Store, run: str, is_open: Callable[[int], bool], least: int = 1) -> Iterator[Shard]:
    """The shards that cover the open rows. A shard that has results already goes out under a new generation: the first
    that neither has results nor is below `least`, because those may still be out."""
    newest: dict[str, int] = {}
    for name in _written(store, run):
        newest[results.base(name)] = max(newest.get(results.base(name), 0), results.generation(name))
    return _shards(store, run, is_open, newest, least)


def _written(store: Store, run: str) -> Iterator[str]:
    """The names of the shards that have results."""
    prefix = keys.results(run)
    return (entry.key.removeprefix(prefix).removesuffix(".jsonl") for entry in store.list(prefix))


def _shards(
    store: Store, run: str, is_open: Callable[[int], bool], newest: dict[str, int], least: int = 1
) -> Iterator[Shard]:
    for raw in store.lines(keys.shards(run)):
        line = json.loads(raw)
        rows = expand(line.pop("rows"))
        todo = tuple(row for row in rows if is_open(row))
        if todo:
            shard = Shard(**line)
            yield _next_try(shard, rows, todo, newest.get(shard.name), least)


def _next_try(shard: Shard, rows: list[int], todo: tuple[int, ...], newest: int | None, least: int) -> Shard:
    if newest is None and len(todo) == len(rows):
        return shard
    return replace(shard, name=f"{shard.name}.{max((newest or 0) + 1, least)}", count=len(todo), only=todo, look=True)


def _bit(bits: bytearray, row: int) -> int:
    return bits[row // 8] & (0x80 >> row % 8)


def _set(bits: bytearray, row: int) -> None:
    bits[row // 8] |= 0x80 >> row % 8
