"""Models that lie in the storage: the objects that they consist of, read piece by piece."""

import hashlib
from typing import NamedTuple

from shared import keys
from shared.catalog import VOCABULARY, Model
from shared.errors import ModelError, Refused
from shared.store import Store

PIECE_BYTES = 16 << 20


class Object(NamedTuple):
    """One version of an object."""

    bucket: str
    key: str
    etag: str
    size_bytes: int

    @property
    def offsets(self) -> range:
        """Where its pieces begin."""
        return range(0, self.size_bytes, PIECE_BYTES)

    def __str__(self) -> str:
        return f"{keys.S3}{self.bucket}/{self.key}"


def objects(entry: Model, store: Store) -> dict[str, Object]:
    """What of a model lies in the storage, by the names of `Model.files`.

    Raises ModelError for what is not there or may not be read, and Unreachable.
    """
    found: dict[str, Object] = {}
    for place, location in entry.remote.items():
        if place == "path" and entry.is_single_file:
            found[entry.path.name] = _one(entry, store, location)
        elif place == "path":
            found |= _below(entry, store, location)
        elif place == "tokenizer":
            found |= {f"{place}/{name}": _one(entry, store, f"{location.rstrip('/')}/{name}") for name in VOCABULARY}
        else:
            found |= {f"{place}/{name}": part for name, part in _below(entry, store, location).items()}
    return found


def piece(store: Store, source: Object, offset: int) -> bytes:
    """At most PIECE_BYTES. Raises ModelError if the object is gone or another by now, and Unreachable."""
    body = store.at(source.bucket).get_version(source.key, source.etag, offset, PIECE_BYTES)
    if body is None:
        raise ModelError(f"{source} was deleted or changed while it was read; try again")
    return body


def hashes(store: Store, sources: dict[str, Object]) -> dict[str, str]:
    """Each object's SHA-256 (hex); nothing of it is kept. Raises as `piece` does."""
    found = {}
    for name, source in sources.items():
        digest = hashlib.sha256()
        for offset in source.offsets:
            digest.update(piece(store, source, offset))
        found[name] = digest.hexdigest()
    return found


def _one(entry: Model, store: Store, location: str) -> Object:
    bucket, key = keys.split_s3(location)
    found = store.at(bucket).stat(key)
    if found is None:
        raise _absent(entry, location, "no such object")
    return Object(bucket, key, found.etag, found.size_bytes)


def _below(entry: Model, store: Store, location: str) -> dict[str, Object]:
    """By what comes behind the folder's name."""
    bucket, key = keys.split_s3(location)
    try:
        listed = [found for found in store.at(bucket).list(f"{key}/") if not found.key.endswith("/")]
    except Refused as error:
        raise _absent(entry, location, f"a storage that says: {error}") from error
    found = {each.key.removeprefix(f"{key}/"): Object(bucket, each.key, each.etag, each.size_bytes) for each in listed}
    if not found:
        raise _absent(entry, location, "no object below it")
    if strange := [name for name in found if {"", ".", ".."} & set(name.split("/"))]:  # they would lead elsewhere
        raise ModelError(f"model {entry.name}: {location}: found {strange[0]!r}; expected names of files in folders")
    return found


def _absent(entry: Model, location: str, found: str) -> ModelError:
    return ModelError(
        f"model {entry.name}: {location}: found {found}; expected the model's files, readable with the keys of "
        "PIXELMILL_S3_ACCESS_KEY: check the entry in models.toml, or put them there"
    )
