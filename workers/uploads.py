"""From pixels to objects, beside the model: encoding and putting run in threads while the next batch denoises."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import BoundedSemaphore
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from shared import images, keys, sheet
from shared.errors import BadImage
from shared.images import Pixels
from shared.store import Store
from workers import finishing
from workers.batches import Item
from workers.loaded import Loaded
from workers.patience import patiently

THREADS = 4
WAITING_MOST = 32  # pictures between the model and the storage


@dataclass(frozen=True)
class Stored:
    """A picture in the storage: its facts for the manifest, and small copies for the contact sheet: of an edit, what
    was before, what the mask covers, and what came of it."""

    facts: dict[str, Any]
    tiles: list[Pixels]


class Uploads:
    """Stores a shard's pictures. `check` may raise to stop the waiting while the storage is away. `added`: by their
    names, the identities of whatever else than the model may take part."""

    def __init__(self, store: Store, run: str, model: Loaded, added: Mapping[str, str], check: Callable[[], None]):
        self.store = store
        self.run = run
        self.model = model
        self.added = added
        self.check = check
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._free = BoundedSemaphore(WAITING_MOST)
        self._futures: dict[tuple[int, int], Future[Stored]] = {}

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, item: Item, picture: Callable[[], Pixels | None], made: Callable[[], dict[str, Any]]) -> None:
        """Take a picture from the model; waits while too many are on their way. `made` says how it was made."""
        weight = _weight(item)
        for _ in range(weight):
            self._free.acquire()
        future = self._pool.submit(self._put, item, picture, made)
        future.add_done_callback(lambda _: self._free.release(weight))
        self._futures[item.key] = future

    def keep(self, item: Item) -> None:
        """Look up a picture that an earlier try may have stored."""
        self._futures[item.key] = self._pool.submit(self._stored, item)

    def result(self, item: Item) -> Stored:
        """Wait for a picture. Raises what storing it raised; KeyError if it was never added."""
        return self._futures[item.key].result()

    def settle(self) -> None:
        """Wait until everything that was added is stored, or failed to be."""
        wait(self._futures.values())

    def __contains__(self, item: Item) -> bool:
        return item.key in self._futures

    def kept(self, item: Item) -> bool:
        """Whether `keep` found the picture; what else it found, `result` will say."""
        if not isinstance(self._futures[item.key].exception(), KeyError):
            return True
        del self._futures[item.key]
        return False

    def _put(self, item: Item, picture: Callable[[], Pixels | None], tell: Callable[[], dict[str, Any]]) -> Stored:
        pixels, made = picture(), tell()
        start = time.perf_counter()
        texts = images.texts(item.job, item.n, self.model.name, self.model.identity, self.added)
        finished = finishing.finish(item, pixels, texts)
        facts = _facts(finished.data, finished.pixels) | finished.facts | made
        encoded = time.perf_counter()
        for side in finished.sides:  # before the picture: where it stands, all of it stands
            patiently(lambda side=side: self._put_side(item, side), self.check)  # type: ignore[misc]
        if not patiently(lambda: self._put_new(item, finished.data, facts), self.check):
            return self._stored(item)  # the first stored picture stays
        seconds = {"encode": encoded - start, "put": time.perf_counter() - encoded}
        tiles = [_tile(shown) for shown in finished.shown]
        return Stored({**facts, "seconds": _rounded(made["seconds"] | seconds)}, tiles)

    def _put_side(self, item: Item, side: finishing.Side) -> None:
        """As long as the picture does not stand, masks are those of this try, and not of one that died before it."""
        key = keys.mask(self.run, side.name)
        if self.store.put_new(key, side.body, side.content_type) or self.store.get(key) == side.body:
            return
        self.check()
        if self.store.head(keys.image(self.run, item.name)) is None:
            self.store.replace(key, side.body, side.content_type)

    def _put_new(self, item: Item, data: bytes, facts: dict[str, Any]) -> bool:
        metadata = {"job-id": item.row.job_id, "facts": json.dumps({**facts, "seconds": _rounded(facts["seconds"])})}
        content_type = images.CONTENT_TYPES[item.job.output_format]
        return self.store.put_new(keys.image(self.run, item.name), data, content_type, metadata)

    def _stored(self, item: Item) -> Stored:
        key = keys.image(self.run, item.name)
        metadata = patiently(lambda: self.store.head(key), self.check)
        if metadata is None:
            raise KeyError(key)
        if metadata.get("job-id") != item.row.job_id:
            raise BadImage(f"{key} is another job's picture; nothing is overwritten: choose another filename or run")
        data = patiently(lambda: self.store.get(key), self.check) or b""
        return Stored(json.loads(metadata["facts"]), [_tile(images.decode(data))])


def _weight(item: Item) -> int:
    """How many of the waiting places a picture takes: an edit holds its input, its mask and its result."""
    megapixels = 0 if item.ready is None else item.ready.canvas.size // 3_000_000
    return min(1 + 2 * megapixels, WAITING_MOST)


def _facts(data: bytes, pixels: Pixels) -> dict[str, Any]:
    height, width, _ = pixels.shape
    digest = hashlib.sha256(data).hexdigest()
    return {"sha256": digest, "size_bytes": len(data), "width": width, "height": height}


def _tile(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    image = image.reduce(max(1, max(image.size) // sheet.TILE))  # what is left above the tile's size, `sprite` fits
    return np.asarray(image)


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in seconds.items()}
