"""Rows -> shards: rows that one model call can run together. Pure: no file, no clock, no network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from producer.entry import Entry

LEAST_ROWS = 8  # per shard: fewer, and the way there costs more than the work
WANTED_SHARDS = 16  # in a small file, so that every device of a small fleet gets some; each costs a pause between calls
MOST_OPEN_ROWS = 8192  # that wait, over all keys, for their shard to fill


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows with one compatibility key, in the file's order."""

    key: tuple[Any, ...]
    rows: tuple[Entry, ...]

    @property
    def images(self) -> int:
        return sum(row.images for row in self.rows)


def shard_rows(total_rows: int, most: int, batch_images: int) -> int:
    """How many rows make a shard: `most` in a large file, fewer in a small one, in whole model calls of that many
    images."""
    step = -(-LEAST_ROWS // batch_images) * batch_images
    return min(max(-(-total_rows // (WANTED_SHARDS * step)), 1) * step, most)


def shards(
    rows: Iterable[Entry],
    rows_per_shard: int,
    most_open_rows: int = MOST_OPEN_ROWS,
    most_of_a_group: int | None = None,
) -> Iterator[Shard]:
    """Every row in exactly one shard of at most `rows_per_shard` rows and as many images; a row with more images than
    that is a shard by itself. The same rows give the same shards.

    Rows of one group (an input picture) that come one after another are in one shard, of up to `most_of_a_group` rows
    and images: shards are cut between groups, and inside of one only where that many do not hold it.
    """
    desk = _Desk(rows_per_shard, max(rows_per_shard, most_of_a_group or 0))
    for row in rows:
        full = desk.add(row)
        if full:
            yield from full
        elif desk.waiting > most_open_rows:
            yield from desk.clear(most_open_rows // 2)
    yield from desk.clear(0)


class _Open:
    """A shard that is being filled: complete groups, and the one that may go on."""

    __slots__ = ("group", "images", "rows", "start", "started")

    def __init__(self) -> None:
        self.rows: list[Entry] = []
        self.images = 0
        self.group = ""  # of the rows from `start` on
        self.start = 0  # index of the group's first row
        self.started = 0  # images before it

    def add(self, row: Entry) -> None:
        if row.group != self.group:
            self.group, self.start, self.started = row.group, len(self.rows), self.images
        self.rows.append(row)
        self.images += row.images

    def before(self) -> list[Entry]:
        """Take out what is complete: the group that may go on stays."""
        rows, self.rows = self.rows[: self.start], self.rows[self.start :]
        self.images -= self.started
        self.start = self.started = 0
        return rows


class _Desk:
    """The shards that are being filled, one per key."""

    def __init__(self, most_images: int, most_of_a_group: int) -> None:
        self.most_images = most_images
        self.most_of_a_group = most_of_a_group
        self.waiting = 0  # rows
        self._open: dict[tuple[Any, ...], _Open] = {}

    def add(self, row: Entry) -> list[Shard]:
        """The shards that this row fills: one that has no room for it, one that ends with it."""
        full: list[Shard] = []
        open_ = self._open.get(row.key)
        if open_ is not None and open_.images + row.images > self.most_images:
            full += self._make_room(open_, row)
            open_ = self._open.get(row.key)
        if open_ is None:
            open_ = self._open[row.key] = _Open()
        open_.add(row)
        self.waiting += 1
        if open_.images >= (self.most_of_a_group if row.inputs else self.most_images):
            full.append(self._close(row.key))
        return full

    def _make_room(self, open_: _Open, row: Entry) -> Iterator[Shard]:
        """A group that may go on with this row stays, as long as it fits with the row into a shard of its own."""
        if not row.inputs or row.group != open_.group:
            yield self._close(row.key)
            return
        if open_.start:
            yield self._shard(row.key, open_.before())
        if open_.images + row.images > self.most_of_a_group:
            yield self._close(row.key)

    def clear(self, waiting: int) -> Iterator[Shard]:
        """Until few rows wait: many at once, or every further row would search for one. The largest shards first, and
        last of all those whose group may go on."""
        for key in sorted(self._open, key=lambda key: (self._open[key].group != "", -len(self._open[key].rows))):
            if self.waiting <= waiting:
                return
            yield self._close(key)

    def _close(self, key: tuple[Any, ...]) -> Shard:
        return self._shard(key, self._open.pop(key).rows)

    def _shard(self, key: tuple[Any, ...], rows: list[Entry]) -> Shard:
        self.waiting -= len(rows)
        return Shard(key, tuple(rows))
