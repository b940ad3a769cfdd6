"""The pictures that rows edit: each looked at once, however many rows name it, on disk or in the storage.

What is found is kept in a private file, so that a hundred thousand pictures need no memory, and both passes over the
rows agree.
"""

import hashlib
import json
import os
import re
import sqlite3
import stat
import weakref
from collections.abc import Callable
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from producer.faults import BadCell, did_you_mean, shown_path
from shared import headers, keys
from shared.errors import BadInput, UsageError
from shared.headers import Facts
from shared.jobs import ALPHA, SUFFIXES
from shared.settings import Settings
from shared.store import Store

MOST_KEY_BYTES = 1024  # of S3
MOST_KEPT = 4_000  # in memory
MOST_HINTS = 50  # how often a folder is searched for a name near to one that is not there
MOST_NAMES = 2000  # in a folder that is searched
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_REFUSAL = re.compile(r"found (.*?); expected (.*)", re.DOTALL)


class Input(NamedTuple):
    """A picture by its name in a job, which stands for its content, and what its header says."""

    name: str
    facts: Facts


class Refused(NamedTuple):
    """Why a cell names no picture that can be used."""

    expected: str
    hint: str
    found: str


class Inputs:
    """Pictures and masks by the cells that name them. Raises BadCell, and Unreachable for `s3://` alone."""

    def __init__(self, folder: Path, settings: Settings, open_store: Callable[[], Store]):
        self.folder = folder  # where relative paths begin
        self.settings = settings
        self.open_store = open_store
        self._kept: dict[tuple[str, bool], Input | Refused] = {}
        self._checking = False
        self._hints = 0

    def picture(self, cell: str) -> Input:
        return self._find(cell, mask=False)

    def mask(self, cell: str) -> Input:
        return self._find(cell, mask=True)

    def mask_or_alpha(self, cell: str) -> Input | None:
        """None: the picture's own transparency is the mask."""
        return None if cell.lower() == ALPHA else self.mask(cell)

    def again(self) -> None:
        """For another pass: what was found holds, a file that changed since raises UsageError, and none is taken."""
        self._kept.clear()
        self._checking = True
        if "_table" in vars(self):
            self._table.execute("UPDATE files SET taken = 0")

    def take(self, name: str) -> Path | None:
        """The file that an input is read from, the first time that it is asked for; of `s3://` there is none."""
        row = self._table.execute("SELECT path FROM files WHERE name = ? AND taken = 0", (name,)).fetchone()
        if row is None:
            return None
        self._table.execute("UPDATE files SET taken = 1 WHERE name = ?", (name,))
        return Path(os.fsdecode(row[0]))

    def files(self) -> list[str]:
        """The names of all inputs from this machine's disk."""
        return [name for (name,) in self._table.execute("SELECT name FROM files ORDER BY name")]

    # --- what was found ---

    @cached_property
    def _table(self) -> sqlite3.Connection:
        table = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "": private, removed on close
        weakref.finalize(self, table.close)
        table.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA cache_size = -4000;
            CREATE TABLE seen (cell BLOB, mask INTEGER, found TEXT, stamp TEXT, PRIMARY KEY (cell, mask)) WITHOUT ROWID;
            CREATE TABLE files (name TEXT PRIMARY KEY, path BLOB, taken INTEGER) WITHOUT ROWID;
            BEGIN;
            """
        )
        return table

    def _find(self, cell: str, mask: bool) -> Input:
        found = self._kept.get((cell, mask))
        if found is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            found = self._kept[cell, mask] = self._recall(cell, mask) or self._look(cell, mask)
        if isinstance(found, Refused):
            raise BadCell(*found)
        return found

    def _recall(self, cell: str, mask: bool) -> Input | Refused | None:
        query = "SELECT found, stamp FROM seen WHERE cell = ? AND mask = ?"
        row = self._table.execute(query, (os.fsencode(cell), mask)).fetchone()
        if row is None:
            return None
        if self._checking and row[1]:
            self._check(self.folder / cell, row[1])
        name, *values = json.loads(row[0])
        return Input(name, Facts(*values)) if name else Refused(*values)

    def _check(self, path: Path, stamp: str) -> None:
        try:
            now = _stamp(path.stat())
        except OSError:
            now = ""
        if now != stamp:
            raise UsageError(f"{path}: the file changed while it was read; leave it alone and start again")

    def _look(self, cell: str, mask: bool) -> Input | Refused:
        found: Input | Refused
        stamp = ""
        try:
            found, stamp = self._input(cell, mask=mask)
            texts = [found.name, *vars(found.facts).values()]
        except BadCell as bad:
            found = Refused(bad.expected, bad.hint, bad.found)
            texts = ["", *found]
        self._table.execute("INSERT INTO seen VALUES (?, ?, ?, ?)", (os.fsencode(cell), mask, json.dumps(texts), stamp))
        return found

    # --- looking ---

    def _input(self, cell: str, mask: bool) -> tuple[Input, str]:
        """The input and, of a file, its stamp."""
        if cell.startswith(keys.S3):
            return self._stored(cell, mask), ""
        if _ELSEWHERE.match(cell):
            hint = "save the picture beside the CSV file; nothing is fetched from the web"
            raise BadCell("the path of a file, or s3://bucket/key", hint)
        return self._local(cell, mask)

    def _local(self, cell: str, mask: bool) -> tuple[Input, str]:
        path = self.folder / cell
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise BadCell("a picture file", found=f"{shown_path(cell)}, which is no file")
            self._check_bytes(status.st_size, cell)
            with path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                data = file.read(self.settings.max_input_bytes + 1)
        except OSError as error:
            raise self._unreadable(path, cell, error) from error
        facts = self._facts(data, cell, mask)
        name = keys.local_input(hashlib.sha256(data).hexdigest(), SUFFIXES[facts.format])
        self._table.execute("INSERT OR IGNORE INTO files VALUES (?, ?, 0)", (name, os.fsencode(path)))
        return Input(name, facts), stamp

    def _unreadable(self, path: Path, cell: str, error: OSError) -> BadCell:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return BadCell("a picture file that can be read", error.strerror or "", shown_path(cell))
        hint = "" if Path(cell).is_absolute() else f"paths begin at the file's folder, {self.folder.absolute()}"
        self._hints += 1
        if self._hints <= MOST_HINTS and path.parent.is_dir():
            names = (entry.name for entry in os.scandir(path.parent))
            hint = did_you_mean(path.name, islice(names, MOST_NAMES)) or hint
        return BadCell("a picture file that exists", hint, shown_path(cell))

    def _stored(self, cell: str, mask: bool) -> Input:
        bucket, _, key = cell.removeprefix(keys.S3).partition("/")
        if (
            not bucket
            or not key
            or len(key.encode()) > MOST_KEY_BYTES
            or not cell.isprintable()
            or {".", ".."}.intersection(key.split("/"))
        ):
            raise BadCell("s3://bucket/key")
        store = self.open_store()
        allowed = [prefix.strip() for prefix in self.settings.input_prefixes.split(",") if prefix.strip()]
        allowed = allowed or [f"{keys.S3}{store.bucket}/"]
        if not cell.startswith(tuple(allowed)):
            raise BadCell("an object under " + ", ".join(allowed), "PIXELMILL_INPUT_PREFIXES says which are allowed")
        store = store.at(bucket)
        version = store.stat(key)
        if version is None:
            raise BadCell("an object that exists and may be read")
        self._check_bytes(version.size_bytes, cell)
        data = store.get_version(key, version.etag)
        if data is None:
            raise BadCell("an object that stays as it is", "it was changed while it was read")
        return Input(keys.s3_input(bucket, key, version.etag), self._facts(data, cell, mask))

    def _check_bytes(self, size: int, cell: str) -> None:
        most = self.settings.max_input_bytes
        if size > most:
            hint = "make it smaller, or raise PIXELMILL_MAX_INPUT_BYTES"
            raise BadCell(f"at most {most:,} bytes", hint, f"{size:,} bytes in {shown_path(cell)}")

    def _facts(self, data: bytes, cell: str, mask: bool) -> Facts:
        settings = self.settings
        try:
            return headers.look(data, settings.max_input_bytes, settings.max_input_pixels, "picture", mask=mask)
        except BadInput as error:
            text = str(error).removeprefix("picture: ")
            parts = _REFUSAL.fullmatch(text)
            found, expected = parts.groups() if parts else (text, "a picture that can be used")
            raise BadCell(expected, found=f"{found} in {shown_path(cell)}") from error


def _stamp(status: os.stat_result) -> str:
    """Differs when a file was written to."""
    return f"{status.st_mtime_ns} {status.st_size}"
