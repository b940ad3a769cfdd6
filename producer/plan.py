"""Rows -> shards: rows that one model call can run together. Pure: no file, no clock, no network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from producer.entry import Entry

LEAST_ROWS = 8  # per shard: fewer, and the way there costs more than the work
WANTED_SHARDS = 32  # in a small file, so that every device of a small fleet gets some
MOST_OPEN_ROWS = 8192  # that wait, over all keys, for their shard to fill


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows with one compatibility key, in the file's order."""

    key: tuple[Any, ...]
    rows: tuple[Entry, ...]

    @property
    def images(self) -> int:
        return sum(row.images for row in self.rows)


def shard_rows(total_rows: int, most: int) -> int:
    """How many rows make a shard: `most` in a large file, fewer in a small one."""
    return min(max(-(-total_rows // WANTED_SHARDS), LEAST_ROWS), most)


def shards(rows: Iterable[Entry], rows_per_shard: int, most_open_rows: int = MOST_OPEN_ROWS) -> Iterator[Shard]:
    """Every row in exactly one shard of at most `rows_per_shard` rows and as many images; a row with more images than
    that is a shard by itself. The same rows give the same shards."""
    desk = _Desk(rows_per_shard)
    for row in rows:
        full = desk.add(row)
        if full:
            yield from full
        elif desk.waiting > most_open_rows:
            yield from desk.clear(most_open_rows // 2)
    yield from desk.clear(0)


class _Open:
    """A shard that is being filled."""

    __slots__ = ("images", "rows")

    def __init__(self) -> None:
        self.rows: list[Entry] = []
        self.images = 0


class _Desk:
    """The shards that are being filled, one per key."""

    def __init__(self, most_images: int) -> None:
        self.most_images = most_images
        self.waiting = 0  # rows
        self._open: dict[tuple[Any, ...], _Open] = {}

    def add(self, row: Entry) -> list[Shard]:
        """The shards that this row fills: one that has no room for it, one that ends with it."""
        full = []
        open_ = self._open.get(row.key)
        if open_ is not None and open_.images + row.images > self.most_images:
            full.append(self._close(row.key))
            open_ = None
        if open_ is None:
            open_ = self._open[row.key] = _Open()
        open_.rows.append(row)
        open_.images += row.images
        self.waiting += 1
        if open_.images >= self.most_images:
            full.append(self._close(row.key))
        return full

    def clear(self, waiting: int) -> Iterator[Shard]:
        """The largest shards first, until few rows wait: many at once, or every further row would search for one."""
        for key in sorted(self._open, key=lambda key: -len(self._open[key].rows)):
            if self.waiting <= waiting:
                return
            yield self._close(key)

    def _close(self, key: tuple[Any, ...]) -> Shard:
        rows = self._open.pop(key).rows
        self.waiting -= len(rows)
        return Shard(key, tuple(rows))
