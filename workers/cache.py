"""Models from the storage, kept in a folder of this host: fetched once, however many of its workers want them.

`<identity>/` is complete, since it got this name last; `.<identity>.half` belongs to whoever holds `.<identity>.lock`.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from shared import catalog, remote
from shared.catalog import Model
from shared.errors import ModelError
from shared.remote import Object
from shared.store import Store
from workers.patience import patiently

log = logging.getLogger(__name__)
LOOK_S = 0.5  # whoever waits for another process sees so soon that it must end
SHOW_EVERY_S = 10.0
Parts = Mapping[str, Object]  # by the names of `Model.files`


@dataclass
class Cache:
    """`check` raises when this process has something better to do; `show` tells people what is fetched, "" that it is
    over. `refused`: reasons by identity and objects; what was once not what it should be is not fetched again."""

    store: Store
    folder: Path
    check: Callable[[], None]
    show: Callable[[str], None]
    refused: dict[tuple[object, ...], str] = field(default_factory=dict)
    show_at_s: float = 0.0

    def bring(self, entry: Model) -> None:
        """Have an entry's files on this host. Raises ModelError, Unreachable, and what `check` raises."""
        if entry.is_fetched:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone(entry):
                if not entry.is_fetched:
                    self._fetch(entry)
        except OSError as error:
            raise ModelError(
                f"model {entry.name}: cannot be kept in {self.folder}: {error}; make room, let this user write there, "
                "or name another folder with PIXELMILL_MODEL_CACHE"
            ) from error

    @contextmanager
    def _alone(self, entry: Model) -> Iterator[None]:
        """Among the processes of this host; one that is killed lets go at once."""
        lock = FileLock(self.folder / f".{entry.identity}.lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=LOOK_S)
            except Timeout:
                self.check()
        try:
            yield
        finally:
            lock.release()

    def _fetch(self, entry: Model) -> None:
        half, home = self.folder / f".{entry.identity}.half", self.folder / entry.identity
        try:
            _remove(half)  # of a process that was killed
            parts = remote.objects(entry, self.store)
            if why := self.refused.get((entry.identity, *parts.values())):
                raise ModelError(why)
            self._check_room(entry, parts)
            self._download(entry, parts, half)
            self._check_identity(entry, parts, half)
            _remove(home)  # it is there only if it lacks something
            half.rename(home)
            log.info("model %s is in %s", entry.name, home)
        finally:
            _remove(half)
            self.show_at_s = 0.0
            self.show("")

    def _check_room(self, entry: Model, parts: Parts) -> None:
        needed, free = _size(parts), shutil.disk_usage(self.folder).free
        if needed > free:
            raise ModelError(
                f"model {entry.name}: {entry.location} takes {needed:,} bytes, {self.folder} has {free:,} left: make "
                "room, or name another folder with PIXELMILL_MODEL_CACHE"
            )

    def _download(self, entry: Model, parts: Parts, half: Path) -> None:
        done = 0
        for name, source in parts.items():
            target = half / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for offset in source.offsets:
                    self.check()
                    self._show(entry, done, _size(parts))
                    done += file.write(patiently(partial(remote.piece, self.store, source, offset), self.check))
                file.flush()
                os.fsync(file.fileno())  # after a power cut no file may be empty whose name has lasted

    def _show(self, entry: Model, done: int, total: int) -> None:
        """Now and then."""
        if time.monotonic() < self.show_at_s:
            return
        self.show_at_s = time.monotonic() + SHOW_EVERY_S
        what = f"model {entry.name}: {done / 1e9:.1f} of {total / 1e9:.1f} GB"
        log.info("fetching %s", what)
        self.show(what)

    def _check_identity(self, entry: Model, parts: Parts, half: Path) -> None:
        found = catalog.identity_of(_moved(entry, self.folder / entry.identity, half).files())
        if found != entry.identity:
            why = (
                f"model {entry.name}: what lies at {entry.location} has identity {found}, the catalog says "
                f"{entry.identity}: put the right files there, or add the model anew with `produce models add`"
            )
            self.refused[entry.identity, *parts.values()] = why
            raise ModelError(why)


def _moved(entry: Model, home: Path, to: Path) -> Model:
    """The entry as if what is fetched lay in another folder."""
    return entry.model_copy(update={name: to / getattr(entry, name).relative_to(home) for name in entry.remote})


def _size(parts: Parts) -> int:
    return sum(part.size_bytes for part in parts.values())


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
