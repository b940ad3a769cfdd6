"""Edits by input picture, however far apart their rows stand in the file: sorted on disk, in little memory."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from producer.entry import Entry


def by_image(rows: Iterable[Entry]) -> Iterator[Entry]:
    """Rows without an input as they come. After them the others: those of one compatibility key together, among them
    those on one picture together, the picture first that the file names first, and its rows in the file's order."""
    keys: dict[tuple[Any, ...], int] = {}
    with closing(sqlite3.connect("", isolation_level=None)) as table:  # "": a private file, removed on close
        table.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA cache_size = -4000;
            CREATE TABLE edits (key INTEGER, "group" TEXT, row INTEGER PRIMARY KEY, more TEXT, text TEXT);
            BEGIN;
            """
        )
        for row in rows:
            if row.inputs:
                number = keys.setdefault(row.key, len(keys))
                more = json.dumps([row.images, row.model, row.inputs])
                table.execute("INSERT INTO edits VALUES (?, ?, ?, ?, ?)", (number, row.group, row.row, more, row.text))
            else:
                yield row
        yield from _sorted(table, list(keys))


def _sorted(table: sqlite3.Connection, keys: list[tuple[Any, ...]]) -> Iterator[Entry]:
    """The order is made of numbers only; the texts are fetched one by one."""
    first = 'min(row) OVER (PARTITION BY key, "group")'
    order = f"SELECT key, row FROM (SELECT key, row, {first} AS first FROM edits) ORDER BY key, first, row"
    for key, number in table.execute(order):
        more, text = table.execute("SELECT more, text FROM edits WHERE row = ?", (number,)).fetchone()
        images, model, inputs = json.loads(more)
        yield Entry(number, keys[key], images, model, text, tuple(inputs))
