"""A CSV file -> rows with resolved jobs, streaming: one pass checks everything, a second one gives the good rows."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from producer import fills
from producer.entry import Entry, Writer
from producer.extras import SECOND
from producer.faults import Fault
from producer.header import Header, understand
from producer.inputs import Inputs
from producer.records import Lines, Record, records
from producer.table import Draft, Rejected, Table
from producer.template import Reading
from shared.catalog import Catalog
from shared.errors import UsageError
from shared.settings import Settings
from shared.store import Store

__all__ = ["ReadOptions", "Rejected", "Report", "check", "read"]

PATHS = ("image", "mask_image")
MOST_FAULTS = 1000  # kept; the rest is counted
# How files begin that people take for CSV.
FOREIGN = {
    b"PK\x03\x04": "a spreadsheet or ZIP archive",
    b"\xd0\xcf\x11\xe0": "an old Excel spreadsheet",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"RIFF": "a WebP picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "an SQLite database",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


@dataclass(frozen=True)
class ReadOptions:
    """What the command line says about a file; all of it decides what the rows are."""

    salt: str = ""  # of derived seeds
    limit: int | None = None  # read the first rows only
    fills: dict[str, str] = field(default_factory=dict)  # for empty and absent cells: column or alias -> value


@dataclass
class Report:
    """What one pass found."""

    inputs: Inputs  # what rows edit, looked at
    columns: tuple[str, ...] = ()  # that go with the rows, in the file's order
    seed_column: str = "seed"  # what the file calls it
    path_columns: tuple[str, ...] = ()  # that name pictures, as the file calls them
    read: int = 0  # data rows
    rows: int = 0  # good ones
    images: int = 0  # that the good rows make
    models: set[str] = field(default_factory=set)  # that the good rows use
    kinds: Counter[str] = field(default_factory=Counter)  # good rows by kind
    faults: list[Fault] = field(default_factory=list)  # the first MOST_FAULTS
    fault_count: int = 0
    file_faults: int = 0  # of them, those that concern the file: leaving rows out does not help
    warnings: list[str] = field(default_factory=list)
    file_sha256: str = ""  # hex, of all bytes
    _inputs_digest: Any = field(default_factory=hashlib.sha256)

    @property
    def inputs_sha256(self) -> str:
        """Over the inputs of all good rows in order (hex): another picture under the same name is another run."""
        return str(self._inputs_digest.hexdigest())

    @property
    def rejected(self) -> int:
        return self.read - self.rows

    def add(self, faults: Sequence[Fault]) -> None:
        self.fault_count += len(faults)
        self.faults += faults[: MOST_FAULTS - len(self.faults)]

    def count(self, good: Draft) -> None:
        self.rows += 1
        template = good.template
        self.images += template.images
        self.kinds[template.job.kind] += 1
        self.models.update(template.models)
        if good.edit is not None:
            self._inputs_digest.update("\n".join([str(good.row), *good.inputs, ""]).encode())


def check(
    path: Path,
    options: ReadOptions,
    catalog: Catalog,
    settings: Settings,
    open_store: Callable[[], Store] | None = None,
) -> Report:
    """Read all of the file and name every fault. Raises UsageError where there is nothing to read as CSV. `open_store`
    is called where a row names an input in the storage; by default, the storage is the one of the settings."""
    report = Report(Inputs(path.parent, settings, open_store or partial(Store, settings)))
    with _opened(path, options, report.inputs, catalog, settings) as file:
        report.columns = tuple(file.header.kept)
        called = {column: file.header.names[index] for column, index in file.header.at.items()}
        report.seed_column = called.get("seed", "seed")
        report.path_columns = tuple(called[column] for column in PATHS if column in called)
        report.warnings = [f"{path.name}:{file.header.line}: {warning}" for warning in file.header.warnings]
        report.add(file.faults)
        report.file_faults = len(file.faults)
        for item in file:
            report.read += 1
            if isinstance(item, Rejected):
                report.add(item.faults)
            else:
                report.count(item)
        report.add(file.faults[report.file_faults :])
        report.file_faults = len(file.faults)
        report.file_sha256 = file.sha256()
    return report


def read(
    path: Path, options: ReadOptions, catalog: Catalog, settings: Settings, report: Report
) -> Iterator[Entry | Rejected]:
    """Every row once more, in the file's order. Raises UsageError if an input changed since the report and, at the end,
    if the file did."""
    report.inputs.again()
    with _opened(path, options, report.inputs, catalog, settings) as file:
        writer = Writer(file.header, options.salt)
        for item in file:
            yield item if isinstance(item, Rejected) else writer.entry(item)
        if file.sha256() != report.file_sha256:
            raise UsageError(f"{path}: the file changed while it was read; leave it alone and start again")


class CsvFile:
    """One pass over an open file: its header at once, its rows in a loop, its SHA-256 after that."""

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        options: ReadOptions,
        inputs: Inputs,
        catalog: Catalog,
        settings: Settings,
    ) -> None:
        filled = _fills(options, inputs, catalog, settings)
        self.name = name
        self.limit = options.limit
        self.most_rows = settings.max_rows
        self._lines = Lines(file, settings.max_row_bytes)
        self._records = records(self._lines)
        record = next(self._records, None)
        if record is None:
            raise UsageError(f"{name}: the file is empty; expected a line of column names, and a line per picture")
        self.header = understand(record, needs_prompt=filled.keys().isdisjoint(("prompt", "image")))
        self.faults = [problem.at(name, record.line) for problem in self.header.problems]
        # Where the header has no prompt, that is one fault of the file and not one of each row.
        filled = {"prompt": "-"} | filled if self.header.lacks_prompt else filled
        self.table = Table(name, self.header, filled, inputs, catalog, settings)

    def __iter__(self) -> Iterator[Draft | Rejected]:
        number = 0
        rows = islice(self._records, self.limit) if self.header.names else ()
        for number, record in enumerate(rows, 1):
            if number > self.most_rows:
                most = f"{self.most_rows:,}"
                self._fault(record.line, f"more than {most} rows", f"at most {most}", "cut the file in two")
                return
            yield self.table.row(number, record)
        if not number and not self.faults:
            self._fault(self.header.line, "no rows after the column names", "a line per picture")

    def _fault(self, line: int, found: str, expected: str, hint: str = "") -> None:
        self.faults.append(Fault(self.name, line, "", found, expected, hint))

    def sha256(self) -> str:
        return self._lines.sha256()


@contextmanager
def _opened(
    path: Path, options: ReadOptions, inputs: Inputs, catalog: Catalog, settings: Settings
) -> Iterator[CsvFile]:
    if path.is_dir():
        raise UsageError(f"{path}: found a folder; expected a CSV file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: found no regular file; expected one, because it is read twice: save it first")
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; expected a CSV file") from error
    with file:
        start = file.read(16)
        file.seek(0)
        for magic, what in FOREIGN.items():
            if start.startswith(magic):
                raise UsageError(f"{path}: found {what}; expected CSV text (in a spreadsheet: save as CSV UTF-8)")
        rows = CsvFile(path.name, file, options, inputs, catalog, settings)
        with closing(rows.table.taken):
            yield rows


def _fills(options: ReadOptions, inputs: Inputs, catalog: Catalog, settings: Settings) -> dict[str, str]:
    """`--set` by canonical names, checked once and not in every row. Raises UsageError."""
    given = fills.canonical(options.fills)
    if problems := _fill_problems(given, inputs, catalog, settings):
        raise UsageError("\n".join(problems))
    return given


def _fill_problems(given: dict[str, str], inputs: Inputs, catalog: Catalog, settings: Settings) -> list[str]:
    """Read a row that has no cell of its own."""
    reading = Reading({column: f"--set {column}" for column in given})
    for column, cell in given.items():
        if cell and (parse := fills.alone(column, inputs, catalog, settings)):
            reading.read(column, None, parse, cell)
    plain = {"prompt": "-"} | fills.of_any_kind(given)
    if "model" not in given:  # then the rows' models say whether these can be
        plain = {column: cell for column, cell in plain.items() if column not in SECOND}
    table = Table("", Header(0, []), plain, inputs, catalog, settings)
    with closing(table.taken):
        item = table.row(1, Record(0, []))
    faults = item.faults if isinstance(item, Rejected) else ()
    return [str(problem) for problem in reading.problems] + [str(fault).partition(": ")[2] for fault in faults]
