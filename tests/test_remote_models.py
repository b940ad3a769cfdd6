"""Models that lie in the storage: fetched once per host, whole or not at all, and then as good as local ones."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_s3
import numpy as np
import proxy
import pytest
import tiny_models
import torch
from fleet import Fleet, wait_for, write_models
from test_families import as_single_file, draw, sample

from producer import follow, listing
from producer.session import Session
from shared import catalog, remote
from shared import settings as settings_
from shared.catalog import Model
from shared.errors import LeaseLost, ModelError, Unreachable
from shared.jobs import Txt2Img
from shared.settings import Settings
from shared.store import Store
from workers.cache import Cache
from workers.models import Models

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = {"config.json": b"{}", "unet/weights": b"w" * 1000, "empty": b""}
BRING = """
import sys
from pathlib import Path
from shared import catalog, settings
from shared.store import Store
from workers import cache

def show(what):
    print("fetching" if what else "over", flush=True)

def check():
    if sys.argv[3:] and next(Path(sys.argv[2]).glob(".*.half"), None):
        print("half", flush=True)
        sys.stdin.readline()  # until it is killed

entry = catalog.load(Path(sys.argv[1]), Path(sys.argv[2])).models["own"]
print("ready", flush=True)
sys.stdin.readline()
cache.Cache(Store(settings.load()), Path(sys.argv[2]), check, show).bring(entry)
assert entry.is_fetched
"""


@pytest.fixture
def store(settings: Settings) -> Store:
    store = Store(settings)
    store.ensure_bucket()
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where this host keeps what it fetched."""
    return tmp_path / "cache"


@pytest.fixture
def cache(store: Store, folder: Path) -> Cache:
    return Cache(store, folder, lambda: None, lambda _: None)


def put(store: Store, files: dict[str, bytes], prefix: str = "models/own") -> str:
    for name, body in files.items():
        store.replace(f"{prefix}/{name}", body, "application/octet-stream")
    return f"s3://{store.bucket}/{prefix}"


def put_folder(store: Store, folder: Path, prefix: str = "models/own") -> str:
    return put(store, {name: path.read_bytes() for name, path in catalog.below(folder).items()}, prefix)


def listed(folder: Path, into: Path, identity: str = "", **lines: str) -> Model:
    """The entry, written into a catalog and read from there. Without an identity: that of FILES."""
    identity = identity or catalog.identity_by(catalog.hashes(written(into / "files")))
    text = "".join(f'{key} = "{value}"\n' for key, value in lines.items())
    (into / "models.toml").write_text(f'[models.own]\nfamily = "sd15"\nidentity = "{identity}"\n{text}')
    return catalog.load(into / "models.toml", folder).models["own"]


def written(folder: Path) -> dict[str, Path]:
    for name, body in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return catalog.below(folder)


def left(folder: Path) -> list[str]:
    """What is in the cache besides locks, which stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# --- what is fetched is what lies there ---


def test_a_folder_in_the_storage_draws_the_same_pixels_as_the_local_one(
    store: Store, cache: Cache, tmp_path: Path
) -> None:
    local = tiny_models.entry("sd15", tiny_models.save("sd15", tmp_path))
    entry = listed(cache.folder, tmp_path, local.identity, path=put_folder(store, local.path))
    assert drawn(entry, cache) == drawn(local, cache)


def test_a_single_file_in_the_storage_draws_the_same_pixels_as_the_local_one(
    store: Store, cache: Cache, tmp_path: Path
) -> None:
    local = as_single_file("sd15", tiny_models.entry("sd15", tiny_models.save("sd15", tmp_path)), tmp_path)
    places = {
        "path": put(store, {"dream.safetensors": local.path.read_bytes()}) + "/dream.safetensors",
        "tokenizer": put_folder(store, local.tokenizer, "words"),
        "config": put_folder(store, local.config, "configs") + "/",
    }
    entry = listed(cache.folder, tmp_path, local.identity, **places)
    assert drawn(entry, cache) == drawn(local, cache)
    assert left(cache.folder) == [entry.identity]


def drawn(entry: Model, cache: Cache) -> bytes:
    model = Models(tiny_models.known(entry), torch.device("cpu"), 1 << 40, cache.bring).get(entry.name)
    (picture,) = draw([sample(3, Txt2Img)], model)
    assert np.std(picture) > 0
    return picture.tobytes()


def test_what_lies_beside_the_catalog_and_what_lies_in_the_storage_go_together(
    store: Store, cache: Cache, tmp_path: Path
) -> None:
    tiny_models.vocabulary(tmp_path / "words")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    whole = Model(
        name="a", family="sd15", path=tmp_path / "model.safetensors", tokenizer=tmp_path / "words", identity="0" * 64
    )
    identity = catalog.identity_of(whole.files())
    place = put(store, {"a.safetensors": b"weights"})
    entry = listed(cache.folder, tmp_path, identity, path=f"{place}/a.safetensors", tokenizer="words")
    cache.bring(entry)
    assert catalog.identity_of(entry.files()) == identity


def test_an_object_is_read_in_pieces(
    store: Store, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PIECE_BYTES", 7)
    entry = listed(cache.folder, tmp_path, path=put(store, FILES))
    cache.bring(entry)
    assert {name: path.read_bytes() for name, path in entry.files().items()} == FILES


def test_a_model_that_is_here_is_not_asked_for_again(store: Store, cache: Cache, tmp_path: Path) -> None:
    entry = listed(cache.folder, tmp_path, path=put(store, FILES))
    cache.bring(entry)
    store.delete_all("models/")
    cache.bring(entry)
    assert entry.is_fetched


def test_a_local_model_has_nothing_to_do_with_the_cache(cache: Cache, tmp_path: Path) -> None:
    written(tmp_path / "local")
    cache.bring(listed(cache.folder, tmp_path, path="local"))
    assert not cache.folder.exists()


def test_who_watches_is_told_how_far_it_is_and_that_it_is_over(store: Store, folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    cache = Cache(store, folder, lambda: None, told.append)
    cache.bring(listed(folder, tmp_path, path=put(store, FILES)))
    assert told == ["model own: 0.0 of 0.0 GB", ""]


# --- several processes of a host ---


def bring(tmp_path: Path, folder: Path, *more: str) -> "subprocess.Popen[str]":
    """A process that is ready to bring the model `own`, and waits for a line."""
    command = [sys.executable, "-c", BRING, str(tmp_path / "models.toml"), str(folder), *more]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_several_processes_that_want_a_model_at_once_fetch_it_once(
    settings: Settings, store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed(folder, tmp_path, path=put(store, FILES))
    with faulty_s3.before(settings.s3_endpoint) as way:
        way.fault = "slow"  # so that they meet
        monkeypatch.setenv("PIXELMILL_S3_ENDPOINT", way.endpoint)
        running = [bring(tmp_path, folder) for _ in range(3)]
        for process in running:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        said = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(said) == [[], [], ["fetching", "over"]]


def test_what_a_killed_process_left_is_cleared_away_by_the_next(
    store: Store, cache: Cache, folder: Path, tmp_path: Path
) -> None:
    entry = listed(folder, tmp_path, path=put(store, FILES))
    process = bring(tmp_path, folder, "stop")
    process.stdin.write("\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]
    while process.stdout.readline() != "half\n":  # type: ignore[union-attr]
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (half,) = left(folder)
    (folder / half / "unet").mkdir(exist_ok=True)
    (folder / half / "unet" / "stray").write_text("of an older version of the model")
    cache.bring(entry)
    assert left(folder) == [entry.identity]
    assert sorted(entry.files()) == sorted(FILES)


def test_a_worker_that_must_end_does_not_fetch_to_the_end(store: Store, folder: Path, tmp_path: Path) -> None:
    def check() -> None:
        raise LeaseLost("this worker is asked to stop")

    entry = listed(folder, tmp_path, path=put(store, FILES))
    with pytest.raises(LeaseLost):
        Cache(store, folder, check, lambda _: None).bring(entry)
    assert left(folder) == []


# --- what is wrong is said, and nothing of it stays ---


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"path": "s3://BUCKET/gone"}, "s3://BUCKET/gone: found no object below it"),
        ({"path": "s3://no-such-bucket/own"}, "s3://no-such-bucket/own: found no object below it"),
        ({"path": "s3://BUCKET/gone.safetensors", "tokenizer": "."}, "gone.safetensors: found no such object"),
        (
            {"path": "s3://BUCKET/models/own/a.safetensors", "tokenizer": "s3://BUCKET/models/own"},
            "own/vocab.json: found no such object",
        ),
    ],
)
def test_what_is_not_there_is_an_error_of_the_model_that_names_the_place(
    lines: dict[str, str], words: str, store: Store, cache: Cache, tmp_path: Path
) -> None:
    put(store, {"a.safetensors": b"weights"})
    entry = listed(
        cache.folder, tmp_path, **{name: place.replace("BUCKET", store.bucket) for name, place in lines.items()}
    )
    with pytest.raises(ModelError, match=words.replace("BUCKET", store.bucket)) as caught:
        cache.bring(entry)
    assert "model own" in str(caught.value) and "check the entry in models.toml" in str(caught.value)
    assert left(cache.folder) == []


def test_other_files_than_the_catalog_names_are_refused_and_not_fetched_twice(
    store: Store, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = listed(cache.folder, tmp_path, path=put(store, {**FILES, "unet/weights": b"other"}))
    with pytest.raises(ModelError, match=f"has identity [0-9a-f]+, the catalog says {entry.identity}") as caught:
        cache.bring(entry)
    assert f"s3://{store.bucket}/models/own" in str(caught.value)
    assert left(cache.folder) == []
    with monkeypatch.context() as patch:
        patch.setattr(remote, "piece", lambda *_: pytest.fail("fetched again"))
        with pytest.raises(ModelError, match="has identity"):
            cache.bring(entry)
    put(store, FILES)
    cache.bring(entry)
    assert left(cache.folder) == [entry.identity]


def test_a_name_that_leads_out_of_the_cache_is_refused(store: Store, cache: Cache, tmp_path: Path) -> None:
    """Some storages take such keys, this one does not: the listing is what one of those would say."""
    entry = listed(cache.folder, tmp_path, path=put(store, FILES))
    for name in ("../escaped", "/escaped", "a/../../escaped", "./a"):
        key = f"models/own/{name}"
        cache.store = Listing(store, key)  # type: ignore[assignment]
        with pytest.raises(ModelError, match="expected names of files in folders"):
            cache.bring(entry)


class Listing:
    def __init__(self, store: Store, key: str):
        self.store, self.key = store, key

    def at(self, bucket: str) -> "Listing":
        return self

    def list(self, prefix: str) -> list[Any]:
        (first, *_) = self.store.list(prefix)
        return [type(first)(self.key, 1, first.etag)]


def test_a_full_disk_is_seen_beforehand_with_what_is_needed_and_what_is_free(
    store: Store, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = listed(cache.folder, tmp_path, path=put(store, FILES))
    monkeypatch.setattr(remote, "piece", lambda *_: pytest.fail("fetched"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9999, 9998, 1001))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"takes 1,002 bytes, .* has 1,001 left"):
        cache.bring(entry)


def test_a_cache_that_cannot_be_written_is_an_error_that_names_the_setting(
    store: Store, cache: Cache, tmp_path: Path
) -> None:
    entry = listed(cache.folder, tmp_path, path=put(store, FILES))
    cache.folder.write_text("a file")
    with pytest.raises(ModelError, match="PIXELMILL_MODEL_CACHE"):
        cache.bring(entry)


def test_a_storage_that_is_away_is_no_fault_of_the_model(settings: Settings, cache: Cache, tmp_path: Path) -> None:
    entry = listed(cache.folder, tmp_path, path=put(cache.store, FILES))
    with proxy.before(settings.s3_endpoint) as way:
        way.go_away()
        cache.store = Store(settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{way.port}"}))
        with pytest.raises(Unreachable):
            cache.bring(entry)
        assert left(cache.folder) == []


def test_a_download_that_breaks_goes_on_where_it_was_when_the_storage_is_back(
    settings: Settings, store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = listed(folder, tmp_path, path=put(store, FILES))
    monkeypatch.setattr(remote, "PIECE_BYTES", 250)
    asked: list[int] = []
    piece = remote.piece
    monkeypatch.setattr(remote, "piece", lambda *which: asked.append(which[2]) or piece(*which))
    with proxy.before(settings.s3_endpoint) as way:

        def check() -> None:
            """Called before each piece, and again while one does not come."""
            {250: way.go_away, 500: way.come_back}.get(asked[-1] if asked else 0, lambda: None)()

        away = Store(settings.model_copy(update={"s3_endpoint": f"http://127.0.0.1:{way.port}"}))
        Cache(away, folder, check, lambda _: None).bring(entry)
    assert entry.is_fetched
    assert asked.count(500) > 1 and asked.count(0) == 2  # of two files that are not empty


# --- a run with such a model ---


@pytest.fixture
def fleet(settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """As the usual one, with a null model of several files in the storage."""
    models = write_models(tmp_path)
    for number in range(8):
        (tmp_path / "null" / f"part-{number}").write_text("none")
    text = models.read_text().replace('path = "null"', f'path = "{put_folder(store, tmp_path / "null")}"')
    identity = catalog.load(models).models["null"].identity
    models.write_text(text.replace(identity, catalog.identity(tmp_path / "null")))
    own = {"MODELS": models, "MODEL_CACHE": tmp_path / "cache", "THREADS": 1, "TICK_S": 1}
    own |= {"LEASE_S": 1.5, "HEARTBEAT_S": 0.3, "REDELIVER_S": 1}
    for name, value in own.items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    fleet = Fleet(settings_.load(), tmp_path)
    yield fleet
    fleet.close()


def test_a_shard_keeps_its_lease_while_its_model_is_fetched_and_status_says_so(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with faulty_s3.before(fleet.settings.s3_endpoint) as way:
        way.fault = "slow"  # nine files: longer than the lease
        with fleet.supervisor("cpu", s3_endpoint=way.endpoint):
            run = fleet.submit("prompt\na\nb\n").run
            wait_for(lambda: _status(fleet, run, capsys), "status to say what is fetched")
            claimed = fleet.ledger.shard(run, "000000")
            assert fleet.finish(run)["done"] == 2
    (thumbs,) = fleet.store.list(f"runs/{run}/thumbs/")
    assert claimed and thumbs.key.endswith(f"-{claimed.token}.webp")  # nobody claimed it a second time
    assert not any(facts["fetching"] for facts in fleet.ledger.workers().values())


def _status(fleet: Fleet, run: str, capsys: pytest.CaptureFixture[str]) -> bool:
    listing.status(Session(fleet.ledger, fleet.store, fleet.app, None), run, as_json=False)
    return "; fetching model null: 0.0 of 0.0 GB" in capsys.readouterr().out


def test_rows_whose_model_is_not_what_the_catalog_says_wait_uncharged_and_the_reason_is_shown(fleet: Fleet) -> None:
    fleet.store.replace("models/own/weights", b"other", "application/octet-stream")
    with fleet.worker():
        run = fleet.submit("prompt\na\nb\n").run
        wait_for(lambda: "has identity" in follow.unserved(fleet.ledger, run), "the reason")
        wait_for(lambda: fleet.ledger.counts(run)["pending"] == 2, "the rows to be handed back")
        counts = fleet.ledger.counts(run)
    assert (counts["failed"], counts["dead"]) == (0, 0)
    assert left(fleet.settings.model_folder) == []


# --- the catalog ---


def test_the_catalog_says_where_in_the_storage_and_where_on_this_host(tmp_path: Path) -> None:
    places = {"path": "s3://b/k.safetensors", "tokenizer": "s3://b/words/", "config": "here"}
    entry = listed(tmp_path / "cache", tmp_path, "a" * 64, **places)
    home = tmp_path / "cache" / ("a" * 64)
    assert (entry.path, entry.tokenizer, entry.config) == (
        home / "model.safetensors",
        home / "tokenizer",
        tmp_path / "here",
    )
    assert entry.remote == {"path": "s3://b/k.safetensors", "tokenizer": "s3://b/words/"}
    assert entry.location == "s3://b/k.safetensors" and entry.is_single_file and not entry.is_fetched


@pytest.mark.parametrize("place", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://bucket//"])
def test_a_place_without_bucket_or_key_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected s3://bucket/folder or"):
        listed(tmp_path, tmp_path, path=place)
