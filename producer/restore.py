"""The ledger from the storage: for a run that was just submitted, and for one whose broker lost its data.

The storage is the truth: `shards.jsonl` says what there is to do, `results/` what is done.
"""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from shared import keys, results
from shared.queue import BULK
from shared.runs import Ledger
from shared.shards import Shard, expand
from shared.store import Store


def open_run(ledger: Ledger, store: Store, about: dict[str, Any], look: bool = False) -> None:
    """Fill the ledger with every row of a run that is not done yet, and let dispatch have it. `look`: pictures of rows
    that are not done may be stored already."""
    run = about["run"]
    done, images = done_rows(store, run, about["rows_read"])
    shards = open_shards(store, run, lambda row: not _bit(done, row))
    if look:
        shards = (replace(shard, look=True) for shard in shards)
    done_count = sum(byte.bit_count() for byte in done)
    facts = {
        "rows": about["rows_read"],
        "skipped": about["rows_skipped"],
        "done": done_count,
        "open": about["rows"] - done_count,
        "images": images,
    }
    ledger.create(run, about.get("lane", BULK), facts, bytes(done), shards)


def retry(ledger: Ledger, store: Store, about: dict[str, Any]) -> int:
    """Send failed, dead and canceled rows out again; returns how many."""
    run, counts = about["run"], ledger.counts(about["run"])
    if counts["canceled"]:
        open_run(ledger, store, about, look=True)
        return sum(counts[name] for name in ("failed", "dead", "canceled"))
    return retry_rows(ledger, store, run, ledger.failed_rows(run), counts["dead"])


def retry_rows(ledger: Ledger, store: Store, run: str, rows: Collection[int], dead: int) -> int:
    """Send these rows out again, `dead` of which died, and the rest failed."""
    chosen = frozenset(rows)
    if chosen:
        shards = open_shards(store, run, chosen.__contains__, ledger.next_try(run))
        ledger.reopen(run, shards, failed=len(chosen) - dead, dead=dead)
    return len(chosen)


def done_rows(store: Store, run: str, last_row: int) -> tuple[bytearray, int]:
    """The bitmap of rows that are done, and how many images they have."""
    states: dict[int, str] = {}
    done, images = bytearray(last_row // 8 + 1), 0
    for entry in store.list(keys.results(run)):
        states.clear()
        lines = [json.loads(raw) for raw in store.lines(entry.key)]
        for line in lines:
            if states.get(line["row"], "done") == "done":
                states[line["row"]] = line["state"]
        for line in lines:
            if states[line["row"]] == "done":
                done[line["row"] // 8] |= 0x80 >> line["row"] % 8
                images += 1
    return done, images


def open_shards(store: Store, run: str, is_open: Callable[[int], bool], least: int = 1) -> Iterator[Shard]:
    """The shards that cover the open rows. A shard that has results already goes out under a new generation: the first
    that neither has results nor is below `least`, because those may still be out."""
    prefix = keys.results(run)
    written = [entry.key.removeprefix(prefix).removesuffix(".jsonl") for entry in store.list(prefix)]
    newest: dict[str, int] = {}
    for name in written:
        newest[results.base(name)] = max(newest.get(results.base(name), 0), results.generation(name))
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
