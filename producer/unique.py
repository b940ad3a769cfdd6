"""Which names a file has given already: exact, with the line of the first, in memory that does not grow."""

import sqlite3
from collections.abc import Iterable


class Taken:
    """Names and the lines that took them. A temporary database: 2 microseconds a name, and the disk holds them."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # "": a private file, removed on close
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA cache_size = -4000")  # KiB
        self._database.execute("CREATE TABLE taken (name TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")  # never committed: nobody else reads it

    def close(self) -> None:
        self._database.close()

    def line(self, name: str) -> int | None:
        """The line that took it."""
        row = self._database.execute("SELECT line FROM taken WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def take(self, names: Iterable[str], line: int) -> None:
        insert = "INSERT INTO taken VALUES (?, ?) ON CONFLICT DO NOTHING"
        for name in names:
            self._database.execute(insert, (name, line))
