"""Job parts: the rows of a run as JSON lines in objects of about 16 MB; a shard is a range of one.

One part is on its way to the storage while the next one is written.
"""

import json
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO

from producer.plan import Shard as PlannedShard
from shared import keys
from shared.shards import ranges
from shared.store import JSON_LINES, Store

PART_BYTES = 16 << 20


class Parts:
    """Writes shards one after another; `close` stores what is left and the list of shards."""

    def __init__(self, store: Store, run: str):
        self.store = store
        self.run = run
        self.shards = 0
        self.parts = 0
        self._part = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._list = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._rejected = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="parts")
        self._putting: Future[None] | None = None

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._part.close()
        self._list.close()
        self._rejected.close()

    def add(self, shard: PlannedShard, look: bool) -> None:
        """Append a shard. `look`: pictures of it may stand in the storage already."""
        offset = self._part.tell()
        self._part.writelines(row.text.encode() + b"\n" for row in shard.rows)
        line = {
            "name": f"{self.shards:06d}",
            "model": shard.rows[0].model,
            "part": self.parts,
            "offset": offset,
            "length": self._part.tell() - offset,
            "count": len(shard.rows),
            "rows": ranges(row.row for row in shard.rows),
            **({"look": True} if look else {}),
        }
        self._list.write(json.dumps(line).encode() + b"\n")
        self.shards += 1
        if self._part.tell() >= PART_BYTES:
            self._put_part()

    def reject(self, line: dict[str, object]) -> None:
        """Keep a row that --skip-bad left out."""
        self._rejected.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """After this, all of the run but its description is in the storage."""
        if self._part.tell():
            self._put_part()
        self._wait()
        self._put(keys.shards(self.run), self._list)
        if self._rejected.tell():
            self._put(keys.rejected(self.run), self._rejected)

    def _put_part(self) -> None:
        self._wait()
        self._putting = self._pool.submit(self._put, keys.part(self.run, self.parts), self._part)
        self.parts += 1
        self._part = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__

    def _wait(self) -> None:
        """Until the part before is stored; raises what went wrong with it."""
        if self._putting is not None:
            self._putting.result()

    def _put(self, key: str, file: IO[bytes]) -> None:
        with file:
            file.seek(0)
            self.store.replace(key, file, JSON_LINES)
