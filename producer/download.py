"""A run's files in a local folder: pictures by its results, checked by their SHA-256, masks, and the end files."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import keys, results
from shared.errors import PixelmillError, UsageError
from shared.store import Store

AT_ONCE = 8
CHUNK = 4096  # pictures asked for before the next are read from the results
DESCRIPTION = "run.json"
END_FILES = ("metadata.jsonl", "failed.csv", "index.html", "summary.json", "manifest.jsonl")


@dataclass(frozen=True)
class Downloaded:
    """How many pictures were fetched, and how many stood there already."""

    fetched: int
    kept: int


def download(store: Store, run: str, folder: Path) -> Downloaded:
    """Fetch what is missing or differs. Raises UsageError if the folder holds another run."""
    about = store.get(keys.description(run))
    if about is None:
        raise UsageError(f"there is no run {run}; `produce runs` lists them")
    _claim(folder, run, about)
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    fetched = kept = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for lines in _chunks(_pictures(store, run)):
            got = list(pool.map(lambda line: _fetch(store, run, folder, line), lines.values()))
            fetched, kept = fetched + sum(got), kept + len(got) - sum(got)
    for name in END_FILES:
        body = store.get(keys.inside(run, name))
        if body is not None:
            _write(folder / name, body)
    return Downloaded(fetched, kept)


def _claim(folder: Path, run: str, about: bytes) -> None:
    """Make the folder this run's, unless it is another's."""
    check_folder(folder, run, json.loads(about)["hash"])
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / DESCRIPTION, about)


def check_folder(folder: Path, run: str, run_hash: str) -> None:
    """Raises UsageError unless the folder is new, empty, or this run's: nobody's files are overwritten."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder}: found a file; expected a folder for the pictures, or the name of a new one")
    held = _held(folder)
    if held is None and any(folder.iterdir()):
        raise UsageError(f"{folder} holds other files; choose a new folder for the pictures")
    if held is not None and (held["run"], held["hash"]) != (run, run_hash):
        raise UsageError(f"{folder} holds run {held['run']} ({held['file']}); choose another folder for {run}")


def _held(folder: Path) -> dict[str, Any] | None:
    """The description of the run whose download the folder is; None if it is none."""
    try:
        known = json.loads((folder / DESCRIPTION).read_bytes())
        return known if {"run", "hash", "file"} <= known.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _pictures(store: Store, run: str) -> Iterator[dict[str, Any]]:
    """Lines of results/ whose picture is stored: also of a run that is not over."""
    for entry in store.list(keys.results(run)):
        for raw in store.lines(entry.key):
            line = json.loads(raw)
            if line["state"] == "done":
                yield line


def _chunks(lines: Iterator[dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """By key: a row that was tried again has two lines for the same picture."""
    chunk: dict[str, dict[str, Any]] = {}
    for line in lines:
        chunk[line["key"]] = line
        if len(chunk) == CHUNK:
            yield chunk
            chunk = {}
    yield chunk


def _fetch(store: Store, run: str, folder: Path, line: dict[str, Any]) -> bool:
    """True if the picture had to be fetched."""
    for key in results.beside(line):  # written once, and so never another
        path = folder / "masks" / Path(key).name
        if not path.exists():
            _write(path, _there(store, run, key))
    path = folder / "images" / Path(line["key"]).name
    if path.exists() and _sha256(path.read_bytes()) == line["sha256"]:
        return False
    data = _there(store, run, line["key"])
    if _sha256(data) != line["sha256"]:
        raise PixelmillError(f"{line['key']} of run {run} is damaged in the storage")
    _write(path, data)
    return True


def _there(store: Store, run: str, key: str) -> bytes:
    data = store.get(keys.inside(run, key))
    if data is None:
        raise PixelmillError(f"{key} of run {run} is missing in the storage")
    return data


def _write(path: Path, data: bytes) -> None:
    """All of the file or nothing, also if the power goes."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
