"""What is wrong in a file, said so that a person can mend it: where, what was found, what was expected, what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

SHOWN_CHARS = 60  # of a cell, in a fault


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a cell, wherever it stands."""

    column: str  # as the file names it; "#3" is the third column, "" the whole row
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"column {self.column!r}: " if self.column else ""
        return f"{place}found {self.found}; expected {self.expected}" + (f"; {self.hint}" if self.hint else "")

    def at(self, file: str, line: int) -> "Fault":
        return Fault(file, line, self.column, self.found, self.expected, self.hint)


@dataclass(frozen=True, slots=True)
class Fault:
    """A problem at its place in a file."""

    file: str  # name without folders
    line: int  # physical line; 1 = the first
    column: str
    found: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {Problem(self.column, self.found, self.expected, self.hint)}"


class BadCell(ValueError):
    """A cell that does not mean what its column needs."""

    def __init__(self, expected: str, hint: str = "", found: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint
        self.found = found  # empty: the cell as it is

    def problem(self, column: str, cell: str) -> Problem:
        return Problem(column, self.found or shown(cell), self.expected, self.hint)


def shown(cell: str) -> str:
    """The cell in quotes and on one line, cut to what a person can take in."""
    if len(cell) <= SHOWN_CHARS:
        return _quoted(cell)
    return f"{_quoted(cell[: SHOWN_CHARS - 3])}... ({len(cell):,} characters)"


def shown_path(path: str) -> str:
    """A path in quotes; of a long one the end, which says which file it is."""
    return _quoted(path if len(path) <= SHOWN_CHARS else "..." + path[3 - SHOWN_CHARS :])


def _quoted(text: str) -> str:
    # Bytes that are no UTF-8 were decoded to U+DC80..U+DCFF ("surrogateescape"): shown as the bytes they are.
    return repr(text).replace("\\udc", "\\x")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint with the nearest valid name, or nothing where none is near."""
    near = get_close_matches(name.strip().lower(), list(choices), n=1, cutoff=0.7)
    return f"did you mean {near[0]!r}?" if near else ""
