"""The storage, against a real S3 server."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.errors import Unreachable
from shared.settings import Settings
from shared.store import Store


@pytest.fixture
def store(settings: Settings) -> Store:
    store = Store(settings)
    store.ensure_bucket()
    return store


def test_the_first_of_racing_writers_wins_and_the_others_learn_it(store: Store) -> None:
    assert store.enforces_conditions()
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.put_new("key", b"%d" % n, "text/plain", {"writer": str(n)}), range(8)))
    assert sum(won) == 1
    winner = won.index(True)
    assert store.get("key") == b"%d" % winner
    assert store.head("key") == {"writer": str(winner)}


def test_a_storage_that_ignores_conditions_is_looked_at_before_every_put(store: Store) -> None:
    store._conditional = False  # what the probe finds on such a storage
    assert store.put_new("key", b"first", "text/plain")
    assert not store.put_new("key", b"second", "text/plain")
    assert store.get("key") == b"first"


def test_the_probe_leaves_nothing_behind(store: Store) -> None:
    store.enforces_conditions()
    assert list(store.list("probe/")) == []


def test_objects_are_read_whole_in_ranges_and_by_lines(store: Store) -> None:
    store.replace("lines", io.BytesIO(b"one\ntwo\nthree\n"), "text/plain")
    assert store.get_range("lines", 4, 3) == b"two"
    assert list(store.lines("lines")) == [b"one", b"two", b"three"]
    assert store.get("lines") == b"one\ntwo\nthree\n"


def test_what_is_not_there_is_none_and_no_error(store: Store) -> None:
    assert (store.get("no"), store.head("no"), list(store.lines("no")), list(store.list("no/"))) == (None, None, [], [])
    store.delete("no")


def test_listings_name_keys_and_folders_and_all_of_a_prefix_can_be_deleted(store: Store) -> None:
    for key in ("runs/a/1", "runs/a/2", "runs/b/1", "other"):
        store.put_new(key, b"x", "text/plain")
    assert [entry.key for entry in store.list("runs/a/")] == ["runs/a/1", "runs/a/2"]
    assert list(store.folders("runs/")) == ["a", "b"]
    assert store.delete_all("runs/") == 3
    assert [entry.key for entry in store.list("")] == ["other"]


def test_a_copy_keeps_metadata_and_overwrites_nothing(store: Store) -> None:
    store.put_new("old", b"old", "text/plain", {"job-id": "1"})
    assert store.copy_new("old", "new")
    assert (store.get("new"), store.head("new")) == (b"old", {"job-id": "1"})
    store.put_new("standing", b"standing", "text/plain")
    assert not store.copy_new("old", "standing")
    assert store.get("standing") == b"standing"


def test_wrong_keys_are_refused_with_advice(settings: Settings) -> None:
    wrong = settings.model_copy(update={"s3_secret_key": type(settings.s3_secret_key)("wrong")})
    with pytest.raises(Unreachable, match="PIXELMILL_S3_SECRET_KEY"):
        Store(wrong).ensure_bucket()
