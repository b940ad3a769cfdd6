"""Inputs are looked at once, refused before they are decoded, and named by what they hold."""

import hashlib
import os
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from producer import inputs, rows, stocking
from producer.faults import BadCell
from producer.inputs import Inputs
from producer.rows import ReadOptions
from producer.stocking import Stocking
from shared import catalog, keys
from shared.errors import UsageError
from shared.headers import Facts
from shared.settings import Settings
from shared.store import Store


def no_store() -> Store:
    raise AssertionError("nobody asked for the storage")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (30, 20), (200, 20, 20)).save(path)
    return path


def known(folder: Path, **settings: object) -> Inputs:
    return Inputs(folder, Settings(**settings), no_store)


def refusal(found: Inputs, cell: str) -> str:
    with pytest.raises(BadCell) as bad:
        found.picture(cell)
    return str(bad.value.problem("image", cell))


def test_a_file_is_named_by_its_content_and_suffixed_by_its_true_format(photo):
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    found = known(photo.parent).picture("photo.png")
    assert found == (f"inputs/{digest}.png", Facts("png", 30, 20, True, "RGB"))
    photo.rename(photo.parent / "renamed.jpg")
    assert known(photo.parent).picture("./renamed.jpg").name == found.name
    assert known(Path("/")).picture(str(photo.parent / "renamed.jpg")).name == found.name
    Image.open(photo.parent / "renamed.jpg").save(photo.parent / "a.png", "TIFF")
    assert known(photo.parent).picture("a.png").name.endswith(".tif")


@pytest.mark.parametrize("cell", ["http://x/a.png", "HTTPS://x/a.png", "data:image/png;base64,AAAA", "file:///a.png"])
def test_nothing_is_fetched_from_the_web(tmp_path, cell):
    assert refusal(known(tmp_path), cell).endswith(
        "expected the path of a file, or s3://bucket/key; "
        "save the picture beside the CSV file; nothing is fetched from the web"
    )


def test_a_file_that_is_absent_is_refused_with_a_name_that_is_near_or_where_paths_begin(photo):
    found = known(photo.parent)
    assert refusal(found, "phto.png").endswith("expected a picture file that exists; did you mean 'photo.png'?")
    assert f"paths begin at the file's folder, {photo.parent}" in refusal(found, "quite/another.tif")
    assert "expected a picture file that exists" in refusal(found, "photo.png/x")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "'pipe.png', which is no file; expected a picture file" in refusal(known(tmp_path), "pipe.png")
    assert "which is no file" in refusal(known(tmp_path), ".")
    assert "expected a picture file that can be read" in refusal(known(tmp_path), "x" * 300)


def test_a_file_beyond_the_limits_is_refused_and_a_large_one_is_not_even_read(photo):
    with (photo.parent / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    found = refusal(known(photo.parent), "huge.png")
    assert "found 1,099,511,627,776 bytes in 'huge.png'; expected at most 268,435,456 bytes" in found
    assert "PIXELMILL_MAX_INPUT_BYTES" in found
    found = refusal(known(photo.parent, max_input_pixels=599), "photo.png")
    assert found == (
        "column 'image': found 30 x 20 pixels (600) in 'photo.png'; "
        "expected at most 599: make it smaller, or raise the limit"
    )


def test_what_is_no_picture_is_refused_in_the_words_of_the_reader(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    assert refusal(known(tmp_path), "a.gif") == (
        "column 'image': found a GIF in 'a.gif'; expected PNG, JPEG, WebP or TIFF: save it as one of these"
    )


def test_a_mask_may_be_bilevel_where_a_picture_may_not(tmp_path):
    Image.new("1", (30, 20)).save(tmp_path / "bits.png")
    found = known(tmp_path)
    assert found.mask("bits.png").facts.mode == "1"
    assert "bilevel" in refusal(found, "bits.png")
    assert found.mask_or_alpha("ALPHA") is None


def test_each_file_is_read_once_good_or_bad_however_many_rows_name_it(photo, monkeypatch):
    looked: list[str] = []
    look = inputs.headers.look
    monkeypatch.setattr(
        inputs.headers, "look", lambda data, *rest, **more: looked.append("") or look(data, *rest, **more)
    )
    monkeypatch.setattr(inputs, "MOST_KEPT", 2)
    (photo.parent / "words.png").write_text("words")
    for name in "abc":
        (photo.parent / f"{name}.png").write_bytes(photo.read_bytes())
    found = known(photo.parent)
    for _ in range(3):
        names = {found.picture(f"{name}.png").name for name in "abc"}
        assert "found text" in refusal(found, "words.png")
    assert (len(names), len(looked)) == (1, 4)


def test_a_hundred_thousand_pictures_need_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Inputs, "_input", lambda _, cell, **__: (inputs.Input(f"inputs/{cell}", FACTS), "1 1"))
    found = known(tmp_path)
    tracemalloc.start()
    for number in range(100_000):
        found.picture(f"photos/{number:064d}.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24_000_000
    assert found.picture(f"photos/{7:064d}.png") == (f"inputs/photos/{7:064d}.png", FACTS)


FACTS = Facts("png", 30, 20, True, "RGB")


def test_a_file_that_changes_between_the_passes_is_noticed(photo):
    path = photo.parent / "a.csv"
    path.write_text("image,prompt\nphoto.png,a\n")
    models = catalog.load()
    report = rows.check(path, ReadOptions(), models, Settings(), no_store)
    assert len(list(rows.read(path, ReadOptions(), models, Settings(), report))) == 1
    Image.new("RGB", (31, 20)).save(photo)
    with pytest.raises(UsageError, match=r"photo\.png: the file changed while it was read"):
        list(rows.read(path, ReadOptions(), models, Settings(), report))
    photo.unlink()
    with pytest.raises(UsageError, match="the file changed"):
        list(rows.read(path, ReadOptions(), models, Settings(), report))


# --- with a storage ---


@pytest.fixture
def store(settings: Settings) -> Store:
    found = Store(settings)
    found.ensure_bucket()
    return found


def test_an_object_is_named_by_bucket_key_and_version_and_read_as_that_version_only(store, photo, settings):
    data = photo.read_bytes()
    store.replace("photos/a#1.png", data, "image/png")
    found = Inputs(photo.parent, settings, lambda: store).picture(f"s3://{store.bucket}/photos/a#1.png")
    assert found.facts == FACTS
    assert keys.split_s3_input(found.name)[:2] == (store.bucket, "photos/a#1.png")
    assert store.get_input(found.name) == data
    store.replace("photos/a#1.png", data + b" ", "image/png")
    assert store.get_input(found.name) is None
    store.delete("photos/a#1.png")
    assert store.get_input(found.name) is None


def test_objects_outside_the_allowed_prefixes_are_refused(store, photo, settings):
    found = Inputs(photo.parent, settings, lambda: store)
    assert f"expected an object under s3://{store.bucket}/" in refusal(found, "s3://other/photo.png")
    assert "PIXELMILL_INPUT_PREFIXES" in refusal(found, f"s3://{store.bucket}-2/photo.png")
    assert "expected an object that exists" in refusal(found, f"s3://{store.bucket}/absent.png")
    for cell in ("s3://", "s3://bucket", f"s3://{store.bucket}/", f"s3://{store.bucket}/in/../out.png"):
        assert "expected s3://bucket/key" in refusal(found, cell)
    allowed = settings.model_copy(update={"input_prefixes": "s3://photos/in/, s3://more/"})
    found = Inputs(photo.parent, allowed, lambda: store)
    assert "expected an object under s3://photos/in/, s3://more/" in refusal(found, f"s3://{store.bucket}/a.png")
    store.at("more").ensure_bucket()
    store.at("more").replace("b.png", photo.read_bytes(), "image/png")
    name = found.picture("s3://more/b.png").name
    assert name.startswith("s3://more/b.png#")
    assert store.get_input(name) == photo.read_bytes()


def test_an_object_beyond_the_limit_is_refused_unread(store, photo, settings):
    store.replace("a.png", b"x" * 2000, "image/png")
    small = settings.model_copy(update={"max_input_bytes": 1999})
    found = Inputs(photo.parent, small, lambda: store)
    assert "found 2,000 bytes" in refusal(found, f"s3://{store.bucket}/a.png")


def test_prefixes_that_would_allow_a_neighbour_are_no_setting():
    for value in ("photos", "s3://", "s3://photos", "s3://photos/in", "s3://a/,b"):
        with pytest.raises(ValueError, match="is no prefix"):
            Settings(input_prefixes=value)


def test_inputs_are_stored_once_with_their_type_while_the_lock_is_kept(store, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(stocking, "LOOK_EVERY_S", 0.0)
    found = Inputs(tmp_path, settings, lambda: store)
    names = []
    for number in range(12):
        Image.new("L", (20, 20), number).save(tmp_path / f"{number}.tif")
        (tmp_path / f"copy-{number}.tif").write_bytes((tmp_path / f"{number}.tif").read_bytes())
        names += [found.picture(f"{number}.tif").name, found.picture(f"copy-{number}.tif").name]
    put: list[str] = []
    looks: list[int] = []
    put_new = store.put_new
    monkeypatch.setattr(store, "put_new", lambda key, *rest: put.append(key) or put_new(key, *rest))
    with Stocking(store, found, lambda: looks.append(1)) as stock:
        stock.add(names)
        stock.add([f"s3://{store.bucket}/x.png#1"])
        stock.close()
    assert sorted(put) == sorted(set(names))
    assert looks
    assert {entry.key for entry in store.list("inputs/")} == set(names)
    found.again()
    with Stocking(store, found, lambda: None) as stock:
        stock.add(names)  # they are there already: looked for, and not sent
        stock.close()
    assert len(put) == 12
    store.delete(names[0])
    found.again()
    with Stocking(store, found, lambda: None) as stock:
        stock.add(names)
        stock.close()
    assert put[12:] == [names[0]]


def test_a_file_that_changes_before_it_is_stored_is_refused(store, photo, settings):
    found = Inputs(photo.parent, settings, lambda: store)
    name = found.picture("photo.png").name
    Image.new("RGB", (30, 20), (1, 2, 3)).save(photo)
    with Stocking(store, found, lambda: None) as stock:
        stock.add([name])
        with pytest.raises(UsageError, match="changed while it was read"):
            stock.close()
    assert list(store.list("inputs/")) == []
