"""`produce models` for what lies in the storage: recognised by its headers, hashed without being kept."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import tiny_models
import torch
from test_families import as_single_file
from test_remote_models import put, put_folder

from producer import cli, recognition, stored
from producer.stored import Stored
from shared import catalog, remote
from shared.settings import Settings
from shared.store import Store
from workers.cache import Cache


@pytest.fixture
def store(settings: Settings) -> Store:
    store = Store(settings)
    store.ensure_bucket()
    return store


@pytest.fixture
def models_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXELMILL_MODELS", str(tmp_path / "models.toml"))
    monkeypatch.setenv("PIXELMILL_MODEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "models.toml"


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_in_the_storage_is_added_as_the_local_one_would_be(
    suffix: str, store: Store, models_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = as_single_file("sd15", tiny_models.entry("sd15", tiny_models.save("sd15", tmp_path)), tmp_path, suffix)
    place = put(store, {f"dream{suffix}": local.path.read_bytes()}, "models")
    put_folder(store, local.tokenizer, "models")
    arguments = [f"{place}/dream{suffix}", "--config", put_folder(store, local.config, "configs"), "--default"]
    monkeypatch.setattr(remote, "PIECE_BYTES", 100_000)
    assert cli.main(["models", "add", *arguments]) == 0
    known = catalog.load(models_toml)
    added = known.models["dream"]
    assert (added.family, added.identity, known.defaults["model"]) == ("sd15", local.identity, "dream")
    assert added.remote == {"path": arguments[0], "tokenizer": place, "config": arguments[2]}


def test_a_folder_in_the_storage_is_added_and_listed_with_its_place(
    store: Store, models_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tiny_models.save("sdxl", tmp_path)
    place = put_folder(store, local)
    assert cli.main(["models", "add", f"{place}/"]) == 0
    mine = catalog.load(models_toml, tmp_path / "cache").models["own"]
    assert (mine.family, mine.identity, mine.location) == ("sdxl", catalog.identity(local), place)
    assert _listed(capsys) == (place, False)
    Cache(store, tmp_path / "cache", lambda: None, lambda _: None).bring(mine)
    assert _listed(capsys) == (place, True)


def _listed(capsys: pytest.CaptureFixture[str]) -> tuple[str, bool]:
    capsys.readouterr()
    assert cli.main(["models", "--json"]) == 0
    facts = next(facts for facts in json.loads(capsys.readouterr().out) if facts["model"] == "own")
    return facts["path"], facts["here"]


def test_the_models_that_ship_say_their_families_from_the_storage_too(store: Store) -> None:
    for name in ("demo-sam", "demo-clipseg"):
        entry = catalog.load().models[name]
        place = put_folder(store, entry.path, name)
        put(store, {"older/sam.pth": b"in a folder of its own, which is not looked into"}, name)
        assert recognition.look(Stored(store, place)).family == entry.family


def test_a_header_is_read_and_not_the_weights(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "READ_BYTES", 4096)
    read: list[int] = []
    get_range = Store.get_range
    monkeypatch.setattr(Store, "get_range", lambda own, *which: read.append(which[2]) or get_range(own, *which))
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    body = safetensors.torch.save({name: torch.zeros(500, 768)})
    place = put(store, {"ink.safetensors": body})
    assert recognition.look(Stored(store, f"{place}/ink.safetensors")) == ("lora", "sd15")
    assert sum(read) < len(body) / 100


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://BUCKET/gone.safetensors", "there is no such file or folder"),
        ("s3://no-such-bucket/own", "there is no such file or folder"),
        ("s3://BUCKET", "expected s3://bucket/folder"),
        ("s3://BUCKET/models/own/text.safetensors", "does not begin as a safetensors file does"),
    ],
)
def test_what_cannot_be_added_is_refused_and_nothing_is_written(
    place: str, words: str, store: Store, models_toml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, {"text.safetensors": b"no model"})
    assert cli.main(["models", "add", place.replace("BUCKET", store.bucket)]) == 2
    assert words in capsys.readouterr().err
    assert not models_toml.exists()
