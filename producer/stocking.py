"""Inputs from this machine's disk into the storage: each once, a few at a time, named by their content."""

import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from producer.inputs import Inputs
from shared.errors import UsageError
from shared.headers import OPENERS
from shared.jobs import SUFFIXES
from shared.store import Store

AT_ONCE = 4  # files in memory
LOOK_EVERY_S = 20.0  # at the lock
CONTENT_TYPES = {SUFFIXES[name]: f"image/{name}" for name in OPENERS}


class Stocking:
    """Stores inputs while rows are read; after `close`, all that were added are there."""

    def __init__(self, store: Store, inputs: Inputs, keep_lock: Callable[[], object]):
        self.store = store
        self.inputs = inputs
        self.keep_lock = keep_lock
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="inputs")
        self._putting: set[Future[None]] = set()
        self._looked = time.monotonic()

    def __enter__(self) -> "Stocking":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, names: Iterable[str]) -> None:
        """Inputs by their names in a job; waits while too many are on their way. Raises what went wrong with one."""
        for name in names:
            if path := self.inputs.take(name):
                self._putting.add(self._pool.submit(self._put, name, path))
            while len(self._putting) >= AT_ONCE:
                self._wait()

    def close(self) -> None:
        """Wait until all are stored."""
        while self._putting:
            self._wait()

    def _wait(self) -> None:
        """For one of them at least, or until it is time to look at the lock."""
        done, self._putting = wait(self._putting, LOOK_EVERY_S, FIRST_COMPLETED)
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self.keep_lock()
            self._looked = time.monotonic()
        for future in done:
            future.result()

    def _put(self, name: str, path: Path) -> None:
        standing = self.store.stat(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read any more: {error.strerror}; start again") from error
        if hashlib.sha256(data).hexdigest() not in name:
            raise UsageError(f"{path}: the file changed while it was read; leave it alone and start again")
        if standing and (standing.size_bytes, standing.etag) == (len(data), hashlib.md5(data).hexdigest()):
            return
        if standing:  # damaged, or stored in a way that its ETag does not tell: equal bytes do no harm
            self.store.replace(name, data, CONTENT_TYPES[Path(name).suffix])
            return
        self.store.put_new(name, data, CONTENT_TYPES[Path(name).suffix])
