"""Stored objects read again, several at once, and compared with what their result lines say."""

import hashlib
import io
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from shared import keys
from shared.store import Store

AT_ONCE = 8
WAITING_MOST = 64  # objects asked for before their turn: memory does not grow with the run
# What is decoded was made by a worker, within the limits of its settings; PIL's own would refuse large pictures.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Expected:
    """An object that a result names. Masks have no hash: then they must stand there and be readable."""

    key: str  # relative to the run
    row: int
    sha256: str  # hex, or empty
    size_bytes: int


@dataclass(frozen=True)
class Checked:
    """What was found: `kind` of fault and its text, empty if the object is as expected."""

    expected: Expected
    size_bytes: int
    kind: str = ""
    text: str = ""


def rehash(store: Store, run: str, wanted: Iterable[Expected]) -> Iterator[Checked]:
    """Every object in order, read and checked in several threads."""
    waiting: deque[Future[Checked]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="verify") as pool:
        try:
            for expected in wanted:
                waiting.append(pool.submit(_check, store, run, expected))
                if len(waiting) == WAITING_MOST:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # the storage went away, or Ctrl-C: nobody waits for the rest


def _check(store: Store, run: str, expected: Expected) -> Checked:
    data = store.get(keys.inside(run, expected.key))
    if data is None:
        return Checked(expected, 0, "missing", "is missing in the storage")
    return Checked(expected, len(data), *judge(expected, data))


def judge(expected: Expected, data: bytes) -> tuple[str, str]:
    """(kind, text) of the fault of an object's bytes; empty if there is none."""
    if expected.sha256:
        if len(data) != expected.size_bytes:
            return "other bytes", f"found {len(data):,} bytes; expected {expected.size_bytes:,}"
        found = hashlib.sha256(data).hexdigest()
        if found != expected.sha256:
            return "other bytes", f"found SHA-256 {found}; expected {expected.sha256}"
    what = "JSON" if expected.key.endswith(".json") else "picture"
    try:
        json.loads(data) if what == "JSON" else _decode(data)
    except Exception as error:  # a decoder may raise anything over bytes that are none of its format
        return "unreadable", f"found no readable {what} ({type(error).__name__}: {error})"
    return "", ""


def _decode(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
