"""Pictures of an earlier run whose jobs are equal: copied inside the storage, never made again."""

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from shared import jobs, keys
from shared.errors import UsageError
from shared.jobs import Img2Img, Row, Txt2Img
from shared.store import Store

COPIES_AT_ONCE = 8


class Earlier:
    """The stored images of an earlier run by job id, on disk, so that a million need no memory."""

    def __init__(self, store: Store, run: str, table: sqlite3.Connection, pool: ThreadPoolExecutor):
        self.store = store
        self.run = run
        self.copied = 0
        self._table = table
        self._pool = pool

    def copy(self, line: str, run: str) -> bool:
        """Copy the images of a row (its JSON) into another run; False if the earlier run does not have all of them."""
        row = Row.model_validate_json(line)
        if not isinstance(row.job, Txt2Img | Img2Img):  # its masks belong to it, and are not among the images
            return False
        query = "select key from images where job_id = ? order by n"
        found = [key for (key,) in self._table.execute(query, (bytes.fromhex(row.job_id),))]
        names = jobs.image_names(row)
        if len(found) < len(names):
            return False
        pairs = [
            (keys.image(self.run, Path(old).name), keys.image(run, new)) for old, new in zip(found, names, strict=False)
        ]
        self.copied += sum(self._pool.map(lambda pair: self.store.copy_new(*pair), pairs))
        return True


@contextmanager
def earlier(store: Store, run: str | None, keep_lock: Callable[[], object]) -> Iterator[Earlier | None]:
    """Read what an earlier run has stored; None if no run is given."""
    if run is None:
        yield None
        return
    if store.head(keys.description(run)) is None:
        raise UsageError(f"--reuse {run}: there is no such run; `produce runs` lists them")
    with (
        tempfile.TemporaryDirectory(prefix="pixelmill-") as folder,
        closing(sqlite3.connect(Path(folder, "images.sqlite"), isolation_level=None)) as table,
        ThreadPoolExecutor(COPIES_AT_ONCE) as pool,
    ):
        table.execute("create table images (job_id blob, n int, key text, primary key (job_id, n)) without rowid")
        table.execute("begin")
        for entry in store.list(keys.results(run)):
            keep_lock()
            lines = (json.loads(raw) for raw in store.lines(entry.key))
            done = ((bytes.fromhex(i["job_id"]), i["n"], i["key"]) for i in lines if i["state"] == "done")
            table.executemany("insert or ignore into images values (?, ?, ?)", done)
        yield Earlier(store, run, table, pool)
