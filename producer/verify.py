"""`produce verify`: every object of a run hashed anew, and every row of its file accounted for."""

import json
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from producer import rerender
from producer.rehash import Checked, Expected, rehash
from producer.rerender import Again
from producer.session import Session
from shared import keys, results
from shared.errors import UsageError
from shared.store import Store

MOST_SHOWN = 1000  # faults; the rest is counted
MANIFEST = "manifest.jsonl"
SUMMARY = "summary.json"
REJECTED = "rejected.jsonl"


@dataclass(frozen=True)
class Fault:
    """`kind`: missing, other bytes, unreadable, extra, lost, twice, line, or one of `Again`. `where`: an object, row
    or line."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass
class Faults:
    """The first MOST_SHOWN, and how many there are of each kind."""

    shown: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, where: str, text: str) -> None:
        self.counts[kind] += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(Fault(kind, where, text))


def verify(session: Session, run: str, as_json: bool, rerendered: int = 0) -> int:
    """Check one run and print what was found; 0 if all is well. `rerendered`: so many pictures are made again."""
    body = session.store.get(keys.description(run))
    if body is None:
        raise UsageError(f"there is no run {run}; `produce runs` lists them")
    start = time.monotonic()
    about, ended = json.loads(body), _ended(session, run)
    made = _made_again(session, about, ended, rerendered, as_json) if rerendered else []
    console = Console(stderr=True, quiet=as_json)
    with tempfile.TemporaryDirectory(prefix="pixelmill-") as folder, closing(_open(Path(folder))) as table:
        check = Check(session.store, about, ended, table)
        if ended is None and session.ledger.facts(run).get("state") == "over":
            check.faults.add("missing", SUMMARY, f"is missing of a run that is over; `produce rebuild {run}` writes it")
        check.read_lines()
        check.look_at_objects(console)
        check.look_for_extras()
        check.look_at_rows()
        check.take_again(made)
    _show(check, time.monotonic() - start, as_json)
    return 1 if check.faults.counts else 0


def _made_again(
    session: Session, about: dict[str, Any], ended: dict[str, Any] | None, count: int, quiet: bool
) -> list[Again]:
    """Before all else: hashing may take hours, and it can be refused."""
    if ended is None:
        raise UsageError(f"--rerender: run {about['run']} is not over, and so has no manifest; try again at its end")
    return rerender.rerender(session, about, count, quiet)


def _ended(session: Session, run: str) -> dict[str, Any] | None:
    """summary.json of a run that is over, else None."""
    body = session.store.get(keys.summary(run))
    summary: dict[str, Any] | None = json.loads(body) if body else None
    return summary


def _open(folder: Path) -> sqlite3.Connection:
    """Tables on disk, so that a million rows need no memory."""
    table = sqlite3.connect(folder / "lines.sqlite", isolation_level=None)
    table.executescript(
        """
        pragma journal_mode = off; pragma synchronous = off;
        create table lines (row int, n int, try int, state text, images int, primary key (row, n, try)) without rowid;
        create table objects (key text primary key, row int, sha256 text, size_bytes int) without rowid;
        begin;
        """
    )
    return table


class Check:
    """One run, by its manifest; as long as it is not over (`ended` is None), by its results so far."""

    def __init__(self, store: Store, about: dict[str, Any], ended: dict[str, Any] | None, table: sqlite3.Connection):
        self.store = store
        self.run: str = about["run"]
        self.rows: int = about["rows_read"]
        self.ended = ended
        self.table = table
        self.faults = Faults()
        self.names_every_row = ended is not None  # whether what is read has a line for each row
        self.rows_open = 0
        self.objects = 0
        self.objects_open = 0  # stored, and of rows that are open
        self.size_bytes = 0
        self.made_again: list[Again] = []

    # --- what there should be ---

    def read_lines(self) -> None:
        for name, number in self._sources():
            self._each(name, partial(self._read, number))
        self._each(REJECTED, lambda line: self._count(int(line["row"]), 0, 0, "skipped", 1))

    def _each(self, name: str, read: Callable[[dict[str, Any]], None]) -> None:
        for number, raw in enumerate(self.store.lines(keys.inside(self.run, name)), 1):
            try:
                read(json.loads(raw))
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                self.faults.add("line", f"{name} line {number}", f"is damaged ({type(error).__name__}: {error})")

    def _sources(self) -> Iterator[tuple[str, int]]:
        """Where result lines lie, and of which try they are. Of several tries, the manifest holds the best lines."""
        if self.ended and self.store.head(keys.inside(self.run, MANIFEST)) is not None:
            yield MANIFEST, 0
            return
        if self.ended:
            self.faults.add("missing", MANIFEST, f"is missing; `produce rebuild {self.run}` writes it anew")
            self.names_every_row = not self.ended["counts"].get("canceled", 0)  # results/ is silent about canceled ones
        for entry in self.store.list(keys.results(self.run)):
            name = entry.key.removeprefix(keys.prefix(self.run))
            yield name, results.generation(Path(name).stem)

    def _read(self, number: int, line: dict[str, Any]) -> None:
        row, n = int(line["row"]), int(line["n"])
        done = line["state"] == "done"
        named = (str(line["key"]), str(line["sha256"]), int(line["size_bytes"])) if done else ()
        self._count(row, n, number, str(line["state"]), int(line["job"]["num_images_per_prompt"]))
        if named:
            self._expect(row, *named)
            for key in results.beside(line):
                self._expect(row, key, "", 0)

    def _count(self, row: int, n: int, number: int, state: str, images: int) -> None:
        added = self.table.execute(
            "insert or ignore into lines values (?, ?, ?, ?, ?)", (row, n, number, state, images)
        )
        if not added.rowcount:
            self.faults.add("twice", f"row {row}", f"has two results for its image {n}; expected one")

    def _expect(self, row: int, key: str, sha256: str, size_bytes: int) -> None:
        added = self.table.execute("insert or ignore into objects values (?, ?, ?, ?)", (key, row, sha256, size_bytes))
        if added.rowcount:
            return
        other = self.table.execute("select row, sha256 from objects where key = ?", (key,)).fetchone()
        if other != (row, sha256):  # a row that went out again keeps the pictures it had
            text = f"two results name it: row {other[0]} with SHA-256 {other[1]}, row {row} with {sha256}"
            self.faults.add("twice", key, text)

    # --- what there is ---

    def look_at_objects(self, console: Console) -> None:
        """Hash and decode everything that a result names."""
        total = self.table.execute("select count(*) from objects").fetchone()[0]
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("objects")]
        shown = console.is_terminal and not console.quiet
        with Progress(*columns, TimeRemainingColumn(), console=console, disable=not shown) as progress:
            task = progress.add_task(self.run, total=total)
            for checked in rehash(self.store, self.run, self._expected()):
                self._take(checked)
                progress.advance(task)

    def _expected(self) -> Iterator[Expected]:
        return (Expected(*record) for record in self.table.execute("select key, row, sha256, size_bytes from objects"))

    def _take(self, checked: Checked) -> None:
        self.objects += 1
        self.size_bytes += checked.size_bytes
        if checked.kind:
            self.faults.add(checked.kind, f"{checked.expected.key} (row {checked.expected.row})", checked.text)

    def look_for_extras(self) -> None:
        """While rows are open, their pictures stand in the storage before their results do."""
        for folder in (keys.image(self.run, ""), keys.mask(self.run, "")):
            for entry in self.store.list(folder):
                key = entry.key.removeprefix(keys.prefix(self.run))
                if self.table.execute("select 1 from objects where key = ?", (key,)).fetchone() is not None:
                    continue
                if self.ended:
                    self.faults.add("extra", key, f"no result names it ({entry.size_bytes:,} bytes)")
                else:
                    self.objects_open += 1

    def look_at_rows(self) -> None:
        unnamed = self.rows - self.table.execute("select count(distinct row) from lines").fetchone()[0]
        if self.ended is None:
            self.rows_open = max(0, unnamed)
        after = 1
        for row, images, wanted in self._rows():
            self._lose(range(after, row) if self.names_every_row else ())
            after = row + 1
            if images < wanted:
                self.faults.add("lost", f"row {row}", f"has {images} of its {wanted} pictures")
            if not 1 <= row <= self.rows:
                self.faults.add("line", f"row {row}", f"has a result, and the file has {self.rows:,} rows")
        self._lose(range(after, self.rows + 1) if self.names_every_row else ())

    def _lose(self, rows: Iterable[int]) -> None:
        for row in rows:
            self.faults.add("lost", f"row {row}", "has neither picture nor failure, and was not skipped")

    def take_again(self, made: Sequence[Again]) -> None:
        self.made_again += made
        for again in made:
            if again.kind:
                self.faults.add(again.kind, again.where, again.text)

    def _rows(self) -> Iterator[tuple[int, int, int]]:
        """Row, images that have a result, images that must have one: a row that failed need not have all of them."""
        return self.table.execute(
            "select row, count(distinct n), case when max(state != 'done') then 1 else max(images) end "
            "from lines group by row order by row"
        )


# --- what is printed ---


def _show(check: Check, seconds: float, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_as_json(check, seconds)))
        return
    faults = check.faults
    for fault in faults.shown:
        print(fault, file=sys.stderr)
    if rest := faults.counts.total() - len(faults.shown):
        print(f"... and {rest:,} more faults", file=sys.stderr)
    for again in check.made_again:
        if not again.kind:
            print(again)
    if check.ended is None:
        print(f"run {check.run} is not over: {check.rows_open:,} rows are open, with {check.objects_open:,} objects")
    figures = f"{check.objects:,} objects, {check.size_bytes:,} bytes, {seconds:.1f} s"
    total = faults.counts.total()
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(faults.counts.items()))
    verdict = f"{total:,} fault{'' if total == 1 else 's'}: {kinds}" if total else "all well"
    print(f"run {check.run}: {figures}; {verdict}")


def _as_json(check: Check, seconds: float) -> dict[str, Any]:
    return {
        "run": check.run,
        "over": check.ended is not None,
        "rows": check.rows,
        "rows_open": check.rows_open,
        "objects": check.objects,
        "objects_open": check.objects_open,
        "size_bytes": check.size_bytes,
        "seconds": round(seconds, 3),
        "faults": dict(check.faults.counts),
        "made_again": [asdict(again) for again in check.made_again],
        "shown": [asdict(fault) for fault in check.faults.shown],
    }
