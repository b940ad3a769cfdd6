"""Rows -> shards: rows that one model call can run together. Pure: no file, no clock, no network."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from shared.jobs import Row, batch_key

LEAST_ROWS = 8  # per shard: fewer, and the way there costs more than the work
WANTED_SHARDS = 32  # in a small file, so that every device of a small fleet gets some
MOST_OPEN_ROWS = 8192  # that wait, over all keys, for their shard to fill


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows with one compatibility key, in the file's order."""

    key: tuple[Any, ...]
    rows: tuple[Row, ...]

    @property
    def images(self) -> int:
        return sum(row.job.num_images_per_prompt for row in self.rows)


def shard_rows(total_rows: int, most: int) -> int:
    """How many rows make a shard: `most` in a large file, fewer in a small one."""
    return min(max(-(-total_rows // WANTED_SHARDS), LEAST_ROWS), most)


def shards(rows: Iterable[Row], rows_per_shard: int, most_open_rows: int = MOST_OPEN_ROWS) -> Iterator[Shard]:
    """Every row in exactly one shard of at most `rows_per_shard` rows and as many images; a row with more images than
    that is a shard by itself. The same rows give the same shards."""
    desk = _Desk(rows_per_shard)
    for row in rows:
        yield from desk.add(row)
        if desk.waiting > most_open_rows:
            yield from desk.clear(most_open_rows // 2)
    yield from desk.close()


class _Desk:
    """The shards that are being filled, one per key."""

    def __init__(self, most_images: int) -> None:
        self.most_images = most_images
        self.waiting = 0  # rows
        self._rows: dict[tuple[Any, ...], list[Row]] = {}
        self._images: dict[tuple[Any, ...], int] = {}

    def add(self, row: Row) -> Iterator[Shard]:
        key = batch_key(row.job)
        images = row.job.num_images_per_prompt
        if self._images.get(key, 0) + images > self.most_images and key in self._rows:
            yield self._flush(key)
        self._rows.setdefault(key, []).append(row)
        self._images[key] = self._images.get(key, 0) + images
        self.waiting += 1
        if self._images[key] >= self.most_images:
            yield self._flush(key)

    def clear(self, waiting: int) -> Iterator[Shard]:
        """The largest shards first, until few rows wait: many at once, or every further row would search for one."""
        for key in sorted(self._rows, key=lambda key: -len(self._rows[key])):
            if self.waiting <= waiting:
                return
            yield self._flush(key)

    def close(self) -> Iterator[Shard]:
        for key in list(self._rows):
            yield self._flush(key)

    def _flush(self, key: tuple[Any, ...]) -> Shard:
        rows = self._rows.pop(key)
        del self._images[key]
        self.waiting -= len(rows)
        return Shard(key, tuple(rows))
