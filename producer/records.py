"""Bytes of a CSV file -> records of cells (RFC 4180), with every physical line counted and memory bounded.

What you can rely on: each byte is hashed once, a record never holds more than the limit, and a quote that is never
closed costs its own record only, because reading goes on in the line after the one where it was opened.
"""

import csv
import hashlib
import re
from collections import deque
from collections.abc import Iterator
from itertools import accumulate
from typing import BinaryIO, NamedTuple

from producer.faults import shown

CHUNK_BYTES = 1 << 18
BOM = b"\xef\xbb\xbf"

_CLOSED = re.compile(r'"[^"]*+(?:""[^"]*+)*+"')  # a quoted cell, whatever follows
_CELL = re.compile(_CLOSED.pattern + r"(?=[,\r\n]|\Z)|(?!\")[^,\r\n]*+")


class Flaw(NamedTuple):
    """What is wrong with the writing of a record, before any cell is understood."""

    line: int
    cell: int  # which one; -1: the whole record
    found: str
    expected: str
    hint: str


class Record(NamedTuple):
    """A row of the file; blank lines are none."""

    line: int  # physical line where it begins
    cells: list[str]
    flaws: tuple[Flaw, ...] = ()
    raw: str | None = None  # the text of a record that could not be cut into cells


class Lines:
    """Physical lines (LF, CRLF or CR, kept) of an open file; `number` is the line given last."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self.number = 0
        self.most_bytes = most_bytes
        self.digest = hashlib.sha256()
        self._file = file
        self._again: deque[bytes] = deque()
        self._fresh = self._read()

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> bytes:
        raw = self._again.popleft() if self._again else next(self._fresh)
        self.number += 1
        return raw

    def rewind(self, lines: list[bytes]) -> None:
        """Give these lines, the last ones given, once more."""
        self._again.extendleft(reversed(lines))
        self.number -= len(lines)

    def sha256(self) -> str:
        """Of the whole file: what was not asked for is hashed now."""
        while chunk := self._file.read(CHUNK_BYTES):
            self.digest.update(chunk)
        return self.digest.hexdigest()

    def _read(self) -> Iterator[bytes]:
        tail = b""
        first = True
        while chunk := self._file.read(CHUNK_BYTES):
            self.digest.update(chunk)
            if first:
                chunk, first = chunk.removeprefix(BOM), False
            lines = (tail + chunk).splitlines(keepends=True)
            # The last line may go on in the next chunk, and after CR an LF may follow.
            tail = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
            yield from lines
            if len(tail) > self.most_bytes:  # cut, so that it stays too long but small; its last byte may be a CR
                tail = tail[: self.most_bytes] + tail[-1:]
        if tail:
            yield tail


def records(lines: Lines) -> Iterator[Record]:
    """Every record of the file, sound or flawed."""
    # Lines are bounded already, and csv's own limit is 128 KiB. Shown as `\xe9`, a bad byte is four characters.
    csv.field_size_limit(4 * lines.most_bytes + 4)
    for raw in lines:
        if len(raw) > lines.most_bytes:
            yield _too_long(lines, raw)
        elif b'"' in raw:
            yield _quoted(lines, raw)
        else:
            text = _text(raw)
            if text.strip():
                cells = text.rstrip("\r\n").split(",")
                yield _sound(lines.number, cells, b"\0" in raw or not raw.isascii())


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _quoted(lines: Lines, raw: bytes) -> Record:
    start = lines.number
    taken = [raw]
    try:
        cells = next(csv.reader(_fed(lines, taken), strict=True))
    except (csv.Error, StopIteration):
        return _broken(lines, start, taken)
    suspect = any(b"\0" in line or not line.isascii() for line in taken)
    return _sound(start, cells, suspect)


def _fed(lines: Lines, taken: list[bytes]) -> Iterator[str]:
    """The first line, and while the csv module asks for more, further ones up to the limit of a record."""
    size = len(taken[0])
    yield _text(taken[0])
    for raw in lines:
        taken.append(raw)
        size += len(raw)
        if size > lines.most_bytes:
            return
        yield _text(raw)


def _sound(line: int, cells: list[str], suspect: bool) -> Record:
    if suspect:
        flaws = [flaw for index, cell in enumerate(cells) for flaw in _cell_flaws(line, index, cell)]
        if flaws:
            return Record(line, [_readable(cell) for cell in cells], tuple(flaws))
    return Record(line, cells)


def _cell_flaws(line: int, index: int, cell: str) -> Iterator[Flaw]:
    if "\0" in cell:
        yield Flaw(line, index, f"a NUL character in {shown(cell)}", "text", "the file may be damaged")
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        found = f"byte 0x{ord(cell[error.start]) & 0xFF:02x}, which is no UTF-8, in {shown(cell)}"
        yield Flaw(line, index, found, "text in UTF-8", "save the file as UTF-8 (in a spreadsheet: CSV UTF-8)")


def _readable(cell: str) -> str:
    """Bytes that are no UTF-8 as `\\xe9`: what is stored must be text."""
    return cell.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _too_long(lines: Lines, raw: bytes) -> Record:
    expected = f"at most {lines.most_bytes:,} bytes in a row"
    flaw = Flaw(lines.number, -1, f"a row of more than {lines.most_bytes:,} bytes", expected, "shorten it")
    return Record(lines.number, [], (flaw,), _readable(_text(raw[: lines.most_bytes])))


def _broken(lines: Lines, start: int, taken: list[bytes]) -> Record:
    """A record whose quotes do not pair up. One that opens and never closes ends with its line, and reading goes on."""
    texts = [_text(raw) for raw in taken]
    text = "".join(texts)
    at, index = _broken_cell(text)
    opened = sum(end <= at for end in accumulate(map(len, texts)))  # in which of the lines taken
    cell = texts[opened][at - sum(map(len, texts[:opened])) :].rstrip("\r\n")
    closed = _CLOSED.match(text, at)
    if closed and closed.end() <= at + len(cell):
        found, expected = f"text after the closing quote: {shown(cell)}", "a comma or the end of the row after it"
        hint = 'a quote inside a quoted cell is written twice: ""'
    else:
        found, expected = f"a quote that is opened here and not closed: {shown(cell)}", "a closing quote"
        hint = "close it; until then this row ends with its line"
    # All quotes in these lines but the very last are in pairs, so each is read twice at most: the time stays linear.
    lines.rewind(taken[opened + 1 :])
    raw = _readable("".join(texts[: opened + 1]))
    return Record(start, [], (Flaw(start + opened, index, found, expected, hint),), raw)


def _broken_cell(text: str) -> tuple[int, int]:
    """Where the first cell begins whose quotes are wrong, and which cell of the record it is."""
    at = index = 0
    while (cell := _CELL.match(text, at)) and text[cell.end() : cell.end() + 1] == ",":
        at, index = cell.end() + 1, index + 1
    return min(at, len(text) - 1), index
