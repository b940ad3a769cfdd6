"""Dead letters: rows that killed their workers three times, each with a record of what is known."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from producer import control, follow, restore
from producer.alone import LEASE_S, alone
from producer.session import Session
from shared import dispatch, keys
from shared.errors import UsageError
from shared.shards import ranges

COLUMNS = ("row", "attempts", "worker's last words", "prompt")
PROMPT_CHARS = 60


def show_all(session: Session, run: str, as_json: bool) -> int:
    """A line per dead row, in row order."""
    control.described(session, run)
    records = list(_records(session, run))
    if as_json:
        print(json.dumps(records))
    elif records:
        follow.table([_summary(record) for record in records], COLUMNS)
    else:
        print(f"run {run} has no dead rows")
    return 0


def show(session: Session, run: str, row: int) -> int:
    """All that is known of one dead row."""
    print(json.dumps(_record(session, run, row), indent=2, ensure_ascii=False))
    return 0


def retry(session: Session, run: str, rows: Sequence[int]) -> int:
    """Send dead rows out again, with nothing charged to them; without `rows`, all of them."""
    control.described(session, run)
    with alone(session.ledger, run, wait_s=2 * LEASE_S) as check:
        control.refuse_unless(run, control.must_know(session, run), "running", "paused", "finishing", "over")
        chosen = _chosen(session, run, rows)
        failed = set(session.ledger.failed_rows(run))
        again = [row for row in chosen if row in failed]  # the others are out again already
        restore.retry_rows(session.ledger, session.store, run, again, len(again), check)
    dispatch.tick(session.ledger, session.store, session.app)
    print(f"run {run}: {_text(again)} out again" if again else f"run {run} has no dead rows")
    return 0


def drop(session: Session, run: str, rows: Sequence[int]) -> int:
    """Delete records: the rows stay dead, and nobody needs to look at them any more."""
    control.described(session, run)
    chosen = _chosen(session, run, rows)
    for row in chosen:
        session.store.delete(keys.dead(run, row))
    print(f"run {run}: {_text(chosen)} dropped" if chosen else f"run {run} has no dead rows")
    return 0


def _chosen(session: Session, run: str, rows: Sequence[int]) -> list[int]:
    return [_record(session, run, row)["row"] for row in rows] or [record["row"] for record in _records(session, run)]


def _records(session: Session, run: str) -> Iterator[dict[str, Any]]:
    for entry in session.store.list(keys.inside(run, "dead/")):
        if body := session.store.get(entry.key):
            yield json.loads(body)


def _record(session: Session, run: str, row: int) -> dict[str, Any]:
    control.described(session, run)
    body = session.store.get(keys.dead(run, row))
    if body is None:
        raise UsageError(f"run {run} has no record of a dead row {row}; `produce dead list {run}` shows which it has")
    record: dict[str, Any] = json.loads(body)
    return record


def _summary(record: dict[str, Any]) -> tuple[str, ...]:
    prompt = " ".join(str(record["job"].get("prompt", "")).split())
    short = prompt if len(prompt) <= PROMPT_CHARS else prompt[: PROMPT_CHARS - 1] + "…"
    return str(record["row"]), str(record["attempts"]), record["deaths"][-1], short


def _text(rows: Sequence[int]) -> str:
    """`rows 3, 7-9`."""
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges(sorted(rows))]
    return ("row " if len(rows) == 1 else "rows ") + ", ".join(parts)
