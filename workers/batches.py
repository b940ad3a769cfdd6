"""Pure: which images of a shard go through the model together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from shared import jobs
from shared.jobs import Row


@dataclass(frozen=True)
class Item:
    """One image to make: image `n` of a row."""

    row: Row
    n: int
    ready: Any = field(default=None, compare=False)  # of edits: a workers.ready.Ready

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from the other images of its run."""
        return self.row.row, self.n

    @property
    def job(self) -> Any:
        """Its row's job; of which kind, the runner knows that is given it."""
        return self.row.job

    @property
    def seed(self) -> int:
        seed: int = self.job.seed
        return seed + self.n

    @property
    def name(self) -> str:
        """Its file name in the run's images/."""
        return jobs.image_names(self.row)[self.n]


def items(rows: Iterable[Row]) -> list[Item]:
    """Every image of every row, in order."""
    return [Item(row, n) for row in rows for n in range(row.job.num_images_per_prompt)]


def first(wanted: Sequence[Item], images: int, length: Callable[[Item], int] = lambda _: 1) -> list[Item]:
    """The next batch: at most so many images from the beginning, all of one compatibility key, and of one length.

    A shard that resumes may lack some rows; the shape of each batch is recorded with its images.
    """
    if wanted[0].row.batch_images:
        return [wanted[0]]
    key, long = _key(wanted[0]), length(wanted[0])
    return list(takewhile(lambda item: _key(item) == key and length(item) == long, wanted[:images]))


def filled(batch: Sequence[Item], shapes: Sequence[int] = ()) -> list[Item]:
    """What the model call runs: the batch, its last image repeated up to the next of the shapes, or a lone image as
    often as its row asks. What was added is drawn and never stored.

    Neighbours do not change pixels, the shape of the batch does.
    """
    wanted = batch[0].row.batch_images if len(batch) == 1 else None
    size = wanted or min((shape for shape in shapes if shape >= len(batch)), default=len(batch))
    return [*batch, *[*batch[-1:]] * (size - len(batch))]


def most(images: int, shapes: Sequence[int]) -> int:
    """How many images to take, if at most so many fit, so that filling up adds none."""
    return max((shape for shape in shapes if shape <= images), default=images)


def halves(batch: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """Two parts of a batch that did not fit into memory."""
    middle = (len(batch) + 1) // 2
    return batch[:middle], batch[middle:]


def _key(item: Item) -> tuple[object, ...]:
    return jobs.batch_key(item.row.job)
