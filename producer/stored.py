"""What lies in the storage, with as much of a Path as it takes to recognise a model."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from shared import keys
from shared.errors import UsageError
from shared.store import Store

READ_BYTES = 1 << 20  # of a header, in one request


class Stored:
    """An object, or all below a prefix, by `s3://bucket/key`. Raises Unreachable, and UsageError for another name."""

    def __init__(self, store: Store, location: str):
        if not keys.MODEL.fullmatch(location):
            raise UsageError(f"found {location!r}; expected s3://bucket/folder or s3://bucket/file.safetensors")
        self.bucket, self.key = keys.split_s3(location)
        self._store = store.at(self.bucket)
        self._name = PurePosixPath(self.key)
        self.name, self.stem, self.suffix = self._name.name, self._name.stem, self._name.suffix

    def __str__(self) -> str:
        return f"{keys.S3}{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> "Stored":
        return Stored(self._store, f"{self}/{name}")

    @property
    def parent(self) -> "Stored":
        if "/" not in self.key:
            raise UsageError(f"{self}: found no folder around it; expected s3://bucket/folder/file, or --tokenizer")
        return Stored(self._store, str(self).rpartition("/")[0])

    def is_file(self) -> bool:
        return self._store.stat(self.key) is not None

    def is_dir(self) -> bool:
        return next(self._store.list(f"{self.key}/"), None) is not None

    def iterdir(self) -> "Iterator[Stored]":
        """Its files; folders in it are left out."""
        names = (entry.key.removeprefix(f"{self.key}/") for entry in self._store.list(f"{self.key}/"))
        return (self / name for name in names if name and "/" not in name)

    def read_text(self, encoding: str) -> str:
        body = self._store.get(self.key)
        if body is None:
            raise FileNotFoundError(str(self))
        return body.decode(encoding)

    def open(self, _mode: str) -> io.BufferedReader:
        """Reads what is asked for and a little more, and nothing else."""
        found = self._store.stat(self.key)
        if found is None:
            raise FileNotFoundError(f"{self}: there is no such object")
        return io.BufferedReader(_Ranges(self._store, self.key, found.size_bytes), READ_BYTES)


class _Ranges(io.RawIOBase):
    """An object's bytes, in a request for each read."""

    def __init__(self, store: Store, key: str, size_bytes: int):
        self.store = store
        self.key = key
        self.size_bytes = size_bytes
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size_bytes}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self.size_bytes - self.at))
        if length:
            buffer[:length] = self.store.get_range(self.key, self.at, length)
        self.at += length
        return length


Place = Path | Stored
