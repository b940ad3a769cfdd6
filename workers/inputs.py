"""Input pictures on their way to the model: fetched and decoded beside it, and kept while rows ask for them again."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import BadInput
from shared.jobs import Job, inputs
from shared.keys import INPUTS as LOCAL
from shared.settings import Settings
from shared.store import Store
from workers import originals
from workers.originals import Original

THREADS = 2
KEPT_BYTES = 1 << 30  # of decoded pictures
COMING_BYTES = 64 << 20
T = TypeVar("T", Original, NDArray[np.uint8])


class Inputs:
    """By name: `inputs/<sha256>.<suffix>`, or `s3://bucket/key#etag`; the name stands for the content."""

    def __init__(self, store: Store, settings: Settings):
        self.store = store
        self.settings = settings
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="input")
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, str], Future[object]] = OrderedDict()

    def picture(self, name: str) -> Original:
        """Raises BadInput (of the row's own fault) and Unreachable."""
        return self._get("picture", name, originals.decode)

    def mask(self, name: str) -> NDArray[np.uint8]:
        """A mask file in gray: HxW in [0, 255]. Raises as `picture` does."""
        return self._get("mask", name, originals.gray_mask)

    def want(self, wanted: Iterable[Job]) -> None:
        """Begin to fetch what these jobs will ask for, as far as there is room."""
        for job in wanted:
            if self._held() > KEPT_BYTES // 2:
                return
            for name in inputs(job):
                if name == getattr(job, "image", ""):
                    self._future("picture", name, originals.decode)
                else:
                    self._future("mask", name, originals.gray_mask)

    def _get(self, kind: str, name: str, read: Callable[[bytes, int, int, str], T]) -> T:
        found: T = self._future(kind, name, read).result()
        self._make_room()
        return found

    def _future(self, kind: str, name: str, read: Callable[[bytes, int, int, str], T]) -> "Future[T]":
        with self._lock:
            kept = self._kept.get((kind, name))
            if kept is None or (kept.done() and kept.exception()):  # what failed is asked for anew
                self._kept[kind, name] = self._pool.submit(self._read, name, read)
            self._kept.move_to_end((kind, name))
            return self._kept[kind, name]  # type: ignore[return-value]

    def _read(self, name: str, read: Callable[[bytes, int, int, str], T]) -> T:
        data = self.store.get_input(name)
        if data is None:
            raise BadInput(
                f"{name} is not in the storage any more, was changed, or may not be read; put it back, or produce anew"
            )
        if name.startswith(LOCAL) and hashlib.sha256(data).hexdigest() not in name:
            raise BadInput(f"{name} is damaged in the storage: its content has another hash; produce the file again")
        return read(data, self.settings.max_input_bytes, self.settings.max_input_pixels, name)

    def _held(self) -> int:
        """Bytes; a picture on its way counts as a large one."""
        with self._lock:
            return sum(_size(future) or COMING_BYTES for future in self._kept.values())

    def _make_room(self) -> None:
        """Let the pictures go that were not asked for the longest; the last one stays."""
        with self._lock:
            sizes = {key: _size(future) for key, future in self._kept.items()}
            total = sum(sizes.values())
            for key in list(self._kept)[:-1]:
                if total <= KEPT_BYTES:
                    return
                total -= sizes[key]
                del self._kept[key]


def _size(future: "Future[object]") -> int:
    if not future.done() or future.exception() is not None:
        return 0
    found = future.result()
    if isinstance(found, Original):
        return found.pixels.nbytes + (found.alpha.nbytes if found.alpha is not None else 0)
    return found.nbytes if isinstance(found, np.ndarray) else 0
