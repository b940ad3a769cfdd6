"""A run's end files, written from `results/` in row order when no row is open any more."""

import csv
import io
import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from shared import keys, results, sheet
from shared.errors import PixelmillError
from shared.jobs import ALPHA, Row
from shared.runs import Ledger
from shared.store import JSON_LINES, Store

log = logging.getLogger(__name__)
LOCK_LEASE_S = 120.0
LINES_PER_LEASE = 100_000  # of the manifest: some seconds
Line = dict[str, Any]


def tick(ledger: Ledger, store: Store) -> bool:
    """Finish every run that waits for it, unless somebody else is at it; False if one could not be finished."""
    good = True
    for run in ledger.finishing():
        try:
            _finish_alone(ledger, store, run)
        except PixelmillError:
            raise
        except Exception:
            log.exception("run %s: its end files cannot be written; the other runs go on", run)
            good = False
    return good


def _finish_alone(ledger: Ledger, store: Store, run: str) -> None:
    with ledger.lock(f"finish:{run}", LOCK_LEASE_S) as lock:
        if lock is None:
            return
        if not ledger.settle(run):
            return  # somebody still works on it, though it is canceled
        facts = ledger.facts(run)
        about = store.get(keys.description(run))
        if about is not None:  # else it was removed meanwhile
            failed = frozenset(ledger.failed_rows(run)) if facts.get("canceled", "0") != "0" else None
            finish(store, json.loads(about), lock.reacquire, failed)
        if not ledger.end(run, facts.get("ends", "0")):
            store.delete(keys.summary(run))  # rows went out again while it was written


def finish(
    store: Store, about: dict[str, Any], keep_lock: Callable[[], object], failed: frozenset[int] | None = None
) -> None:
    """Write manifest, metadata, failed.csv, index.html and, last, summary.json. `about`: the run's description;
    `failed`, of a run that was canceled: the rows that failed or died; the others that are not done were canceled."""
    run = about["run"]
    with tempfile.TemporaryDirectory(prefix="pixelmill-") as folder, closing(_open(Path(folder))) as table:
        _collect(store, run, table, keep_lock)
        if failed is not None:
            _add_canceled(store, about, table, failed, keep_lock)
        _attach_cells(store, about, table, keep_lock)
        _write(store, run, "manifest.jsonl", (dump(line) for line in _kept(_lines(table), keep_lock)))
        captioned = (line for line in _kept(_lines(table, "done"), keep_lock) if line["job"].get("prompt"))
        _write(store, run, "metadata.jsonl", (dump(_metadata(line)) for line in captioned))
        keep_lock()
        _write(store, run, "failed.csv", _failed_csv(about["header"], about["seed_column"], table))
        summary = _summary(about, table)
        total = table.execute("select count(*) from lines").fetchone()[0]
        page = sheet.page(about, summary, total, _sheet_lines(table), lambda key: store.get(keys.inside(run, key)))
        store.replace(keys.inside(run, "index.html"), page.encode(), "text/html; charset=utf-8")
        store.replace(keys.summary(run), dump(summary), "application/json")


def dump(value: dict[str, Any]) -> bytes:
    """One line of JSON, UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _open(folder: Path) -> sqlite3.Connection:
    """A table on disk, so that a million rows need no memory. A row's later tries replace the earlier ones."""
    table = sqlite3.connect(folder / "lines.sqlite", isolation_level=None)
    table.executescript(
        """
        pragma journal_mode = off; pragma synchronous = off;
        create table lines (row int, n int, state text, rank int, line text, primary key (row, n)) without rowid;
        create table bad (row int primary key, cells text, error_type text, error text, attempts int);
        begin;
        """
    )
    return table


def _collect(store: Store, run: str, table: sqlite3.Connection, keep_lock: Callable[[], object]) -> None:
    prefix = keys.results(run)
    for entry in store.list(prefix):
        keep_lock()
        rank = results.generation(entry.key.removeprefix(prefix).removesuffix(".jsonl"))
        table.executemany(
            "insert into lines values (?, ?, ?, ?, ?) on conflict do update set "
            "state = excluded.state, rank = excluded.rank, line = excluded.line where excluded.rank >= rank",
            (_record(raw, rank) for raw in store.lines(entry.key)),
        )


def _add_canceled(
    store: Store,
    about: dict[str, Any],
    table: sqlite3.Connection,
    failed: frozenset[int],
    keep_lock: Callable[[], object],
) -> None:
    """A line for every row that is not done and has not failed either: what an earlier try said of it was taken back
    when the row went out again."""
    unmade = "select n from lines where row = ? and state != 'done'"
    for number in range(about["parts"]):
        keep_lock()
        for raw in store.lines(keys.part(about["run"], number)):
            row = Row.model_validate_json(raw)
            known = table.execute("select 1 from lines where row = ? limit 1", (row.row,)).fetchone()
            for (n,) in table.execute(unmade, (row.row,)).fetchall() if known else [(0,)]:
                if row.row not in failed:
                    line = results.failed_line(row, "canceled", results.CANCELED, "the run was canceled", 0, n)
                    values = (row.row, n, json.dumps(line, ensure_ascii=False))
                    table.execute("insert or replace into lines values (?, ?, 'canceled', 0, ?)", values)


def _record(raw: bytes, rank: int) -> tuple[int, int, str, int, str]:
    line = json.loads(raw)
    done_first = 1_000_000 if line["state"] == "done" else 0
    return line["row"], line["n"], line["state"], rank + done_first, raw.decode()


def _attach_cells(
    store: Store, about: dict[str, Any], table: sqlite3.Connection, keep_lock: Callable[[], object]
) -> None:
    """The original cells of every row that is not done: from the job parts, and of rows left out, rejected.jsonl."""
    run = about["run"]
    for raw in store.lines(keys.rejected(run)) if about["rows_skipped"] else ():
        row = json.loads(raw)
        error = "; ".join(row["faults"])
        cells = json.dumps(_found_anywhere(row["cells"], about))
        table.execute("insert into bad values (?, ?, 'BadRow', ?, 0)", (row["row"], cells, error))
    if table.execute("select 1 from lines where state != 'done' limit 1").fetchone() is None:
        return
    failed = "select line from lines where row = ? and state != 'done' limit 1"
    for number in range(about["parts"]):
        keep_lock()
        for raw in store.lines(keys.part(run, number)):
            row = json.loads(raw)
            for (line,) in table.execute(failed, (row["row"],)):
                table.execute("insert into bad values (?, ?, ?, ?, ?)", _bad(row, json.loads(line), about))


def _bad(row: Line, line: Line, about: Line) -> tuple[int, str, str, str, int]:
    filled = {about["seed_column"]: str(row["job"]["seed"])} if "seed" in row["job"] else {}
    cells = json.dumps({**_found_anywhere(row["cells"], about), **filled})
    return row["row"], cells, line["error_type"], line["error"], line["attempts"]


def _found_anywhere(cells: dict[str, str], about: Line) -> dict[str, str]:
    """The paths of pictures begin at the folder of the user's file: made whole, they lead there from anywhere."""
    paths = {name: cells[name].strip() for name in about.get("path_columns", ()) if cells.get(name, "").strip()}
    whole = {name: os.path.join(about["folder"], path) for name, path in paths.items() if _is_relative(path)}
    return {**cells, **whole}


def _is_relative(path: str) -> bool:
    return path != ALPHA and not path.startswith(keys.S3) and not os.path.isabs(path)


def _lines(table: sqlite3.Connection, state: str = "") -> Iterator[Line]:
    query = "select line from lines where ? in ('', state) order by row, n"
    return (json.loads(text) for (text,) in table.execute(query, (state,)))


def _sheet_lines(table: sqlite3.Connection) -> list[Line]:
    """What the contact sheet shows: failures first, then pictures in row order."""
    query = "select line from lines order by state = 'done', row, n limit ?"
    return [json.loads(text) for (text,) in table.execute(query, (sheet.MOST_IMAGES,))]


def _kept(lines: Iterable[Line], keep_lock: Callable[[], object]) -> Iterator[Line]:
    """The lines, and the lock held however many they are."""
    for number, line in enumerate(lines):
        if number % LINES_PER_LEASE == 0:
            keep_lock()
        yield line


def _metadata(line: Line) -> Line:
    """A line of a Hugging Face ImageFolder: the file first, then what a data set needs."""
    job = line["job"]
    return {"file_name": line["key"], "text": job["prompt"], "seed": job["seed"] + line["n"], "row": line["row"]}


def _failed_csv(header: list[str], seed: str, table: sqlite3.Connection) -> Iterator[bytes]:
    """The rows that are not done, as the user wrote them, with their seeds and reasons: can be produced as it is."""
    columns = [*header, *([seed] if seed not in header else []), *results.ERROR_COLUMNS]
    yield _csv_line(columns)
    for cells, *errors in table.execute("select cells, error_type, error, attempts from bad order by row"):
        values = json.loads(cells)
        yield _csv_line([*(values.get(name, "") for name in columns[: -len(results.ERROR_COLUMNS)]), *errors])


def _csv_line(values: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(list(values))
    return text.getvalue().encode()


def _summary(about: dict[str, Any], table: sqlite3.Connection) -> dict[str, Any]:
    """Rows by state; they add up to the rows read."""
    images = table.execute("select count(*) from lines where state = 'done'").fetchone()[0]
    states = ("done", "failed", "dead", "canceled")
    rows = dict.fromkeys(states, 0)
    rank = " ".join(f"when '{state}' then {number}" for number, state in enumerate(states))
    worst = f"select max(case state {rank} end) as w from lines group by row"
    for state, count in table.execute(f"select w, count(*) from ({worst}) group by w"):
        rows[states[state]] = count
    counts = {"rows": about["rows_read"], **rows, "skipped": about["rows_skipped"], "images": images}
    seconds = {"finished_at": datetime.now(UTC).isoformat(timespec="seconds"), "created_at": about["created_at"]}
    return {"run": about["run"], "hash": about["hash"], "counts": counts, **seconds}


def _write(store: Store, run: str, name: str, lines: Iterable[bytes]) -> None:
    with tempfile.TemporaryFile() as file:
        file.writelines(lines)
        _rewind(file)
        store.replace(keys.inside(run, name), file, "text/csv" if name.endswith(".csv") else JSON_LINES)


def _rewind(file: IO[bytes]) -> None:
    file.flush()
    file.seek(0)
