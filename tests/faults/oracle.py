"""The oracle: the same question after every fault. Whatever happened, each row has ended exactly once."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from fleet import wait_for
from mill import Mill

from shared import images, keys, queue

LONGEST_LOCK_S = 15.0  # a worker that is killed in dispatch holds its lock for 10 s


def check(
    mill: Mill, run: str, count: int, dead: Collection[int] = (), failed: Collection[int] = (), canceled: int = 0
) -> None:
    """Each row has one object of the manifest's hash, or a record of its death, or a reason; nothing else is there.

    `dead`, `failed`: which rows; `canceled`: how many.
    """
    counts = mill.finish(run, timeout_s=240)
    lines = {line["row"]: line for line in map(json.loads, mill.lines(run))}
    assert sorted(lines) == list(range(1, count + 1)), f"rows of {run}"
    assert len(mill.lines(run)) == count, f"rows of {run} that stand twice"
    ended = {state: [row for row, line in lines.items() if line["state"] == state] for state in ("dead", "failed")}
    assert ended == {"dead": sorted(dead), "failed": sorted(failed)}, reasons(lines.values())
    assert sum(counts[state] for state in ("done", "failed", "dead", "canceled")) == counts["rows"] == count
    assert sum(line["state"] == "canceled" for line in lines.values()) == counts["canceled"] == canceled
    done = [line for line in lines.values() if line["state"] == "done"]
    for line in done:
        _check_object(mill, run, line)
    assert _stored(mill, run, "images/") == {keys.inside(run, line["key"]) for line in done}
    assert _stored(mill, run, "dead/") == {keys.dead(run, row) for row in dead}


def reasons(lines: Collection[dict[str, object]]) -> list[str]:
    return [f"row {line['row']}: {line['state']}: {line['error']}" for line in lines if line["state"] != "done"]


def check_ledger(mill: Mill) -> None:
    """No message, no lease, no shard and no lock is left."""
    try:
        wait_for(lambda: not leftovers(mill), "an empty ledger", LONGEST_LOCK_S + 5)
    except AssertionError as error:
        raise AssertionError(f"{error}; it holds {leftovers(mill)}") from None


def leftovers(mill: Mill) -> list[str]:
    names = [*queue.LANES, keys.DUE, keys.FINISHING]
    found = [key for name in names if mill.ledger._call("exists", name) for key in [name]]
    for pattern in ("shard:*", "lock:*", "run:*:pending:*"):
        found += mill.ledger._scan(pattern)
    return found


def check_uncharged(mill: Mill, run: str) -> None:
    """No row was held to have killed a worker."""
    charged = [line["row"] for line in map(json.loads, mill.lines(run)) if line["attempts"] > 1]
    assert charged == [], f"rows of {run} that were charged with a death"


def rows_with_results(mill: Mill, run: str) -> set[int]:
    """By the commit points, not by what was made of them."""
    entries = mill.store.list(keys.results(run))
    return {json.loads(line)["row"] for entry in entries for line in mill.store.lines(entry.key)}


def drawn_again(mill: Mill) -> Counter[str]:
    """Per prompt, how often it was drawn beyond the first time."""
    text = mill.drawn.read_text() if mill.drawn.exists() else ""
    return Counter({prompt: times - 1 for prompt, times in Counter(text.splitlines()).items() if times > 1})


def calls_again(mill: Mill) -> int:
    """Model calls in which something was drawn that an earlier call had drawn."""
    calls = Path(f"{mill.drawn}.calls")
    drawn: set[str] = set()
    again = 0
    for call in calls.read_text().splitlines() if calls.exists() else ():
        prompts = set(json.loads(call))
        again += bool(prompts & drawn)
        drawn |= prompts
    return again


def _check_object(mill: Mill, run: str, line: dict[str, object]) -> None:
    data = mill.store.get(keys.inside(run, str(line["key"])))
    assert data is not None, line["key"]
    assert hashlib.sha256(data).hexdigest() == line["sha256"], line["key"]
    assert images.decode(data).shape == (line["height"], line["width"], 3)
    assert json.loads(images.read_texts(data)["pixelmill"])["job"] == line["job"]


def _stored(mill: Mill, run: str, folder: str) -> set[str]:
    return {entry.key for entry in mill.store.list(keys.inside(run, folder))}
