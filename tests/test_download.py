"""What `download` brings of a run: pictures, the masks beside them, and the end files."""

import hashlib
import json
from pathlib import Path

import pytest

from producer.download import Downloaded, download
from shared import keys
from shared.errors import PixelmillError
from shared.settings import Settings
from shared.store import Store

OBJECTS = {
    "images/cup-1.png": b"picture",
    "masks/cup-1.png": b"soft",
    "masks/cup-1-0.png": b"found",
    "masks/cup-1.json": b"{}",
    "summary.json": b"{}",
}


@pytest.fixture
def store(settings: Settings) -> Store:
    """A storage with a run of one edit that is done."""
    store = Store(settings)
    store.ensure_bucket()
    line = {"row": 1, "state": "done", "key": "images/cup-1.png", "sha256": hashlib.sha256(b"picture").hexdigest()}
    line |= {"mask": "masks/cup-1.png", "masks": ["masks/cup-1-0.png"]}
    about = {"run": "r", "hash": "0", "file": "a.csv"}
    bodies = {keys.inside("r", name): body for name, body in OBJECTS.items()}
    bodies |= {keys.description("r"): json.dumps(about).encode(), keys.results("r", "0"): json.dumps(line).encode()}
    for key, body in bodies.items():
        store.replace(key, body, "application/octet-stream")
    return store


def test_an_edit_comes_with_its_masks_and_nothing_is_fetched_twice(store: Store, tmp_path: Path) -> None:
    assert download(store, "r", tmp_path) == Downloaded(1, 0)
    assert {name: (tmp_path / name).read_bytes() for name in OBJECTS} == OBJECTS
    store.delete(keys.inside("r", "masks/cup-1.json"))
    assert download(store, "r", tmp_path) == Downloaded(0, 1)


def test_a_mask_that_is_missing_is_named(store: Store, tmp_path: Path) -> None:
    store.delete(keys.inside("r", "masks/cup-1-0.png"))
    with pytest.raises(PixelmillError, match=r"masks/cup-1-0\.png of run r is missing in the storage"):
        download(store, "r", tmp_path)
