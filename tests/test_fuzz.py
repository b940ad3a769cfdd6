"""Damaged files and absurd cells: whatever comes in, a value or an error of the house comes out.

Valid files are cut, spliced and bent, which reaches further than noise. `make fuzz` tries FUZZ_CASES of each kind.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import edit_files
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import loads, prepare_accept_content

from producer import columns, edit_columns, formats, rows
from producer.faults import BadCell
from producer.rows import ReadOptions
from shared import headers, jobs, keys, queue
from shared.errors import BadInput, UsageError
from shared.runs import Ledger
from shared.settings import Settings
from shared.shards import Shard
from workers import guard, originals

CASES = int(os.environ.get("FUZZ_CASES", "150"))
fuzz = settings(
    max_examples=CASES,
    derandomize="FUZZ_CASES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
MOST_BYTES, MOST_PIXELS = 1 << 20, 1 << 20
MEMORY_BYTES = 512 << 20  # beyond what the process has when a test begins: no file of a few kB may take it
CSV = (
    b"prompt,negative_prompt,seed,width,steps,filename\na red circle,dark,7,128,20,one\n"
    b'"a ""big"", blue\nsquare",,,,,two.png\n',
    b"\xef\xbb\xbfimage,mask_image,points,box,mask_text,prompt\nred.png,mask.png,,,,sky\n"
    b'red.png,,"1,2;3,4",,,a tree\nphotos/blue one.jpg,,,"1,1,20,20",,grass\n',
    b"kind;prompt;post;sampler\r\ntxt2img;a;sharpen:0.5;Euler a\r\n",
)
CELLS = (
    "1,2;3,4",
    "1;0",
    "0,0,64,64",
    "25%",
    "128px",
    "top left",
    "union",
    "yes",
    "0.5",
    "-1",
    "1e9",
    "largest",
    "png",
)
CELL_PARSERS: tuple[Callable[[str], object], ...] = (
    *edit_columns.PARSERS.values(),
    edit_columns.one_mask,
    formats.wanted,
    formats.named,
    formats.png_only,
    columns.post,
    columns.scheduler,
    columns.custom_id,
    lambda cell: columns.seed(cell, 4),
    lambda cell: columns.filename(cell, "png"),
)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Whoever asks for more memory gets MemoryError, which no case expects."""
    if not sys.platform.startswith("linux"):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps to the limit")
def test_memory_is_bounded_here() -> None:
    with pytest.raises(MemoryError):
        bytearray(2 * MEMORY_BYTES)


@st.composite
def bent(draw: st.DrawFn, whole: tuple[bytes, ...]) -> bytes:
    """One of the files with up to four faults: cut off, bits flipped, a piece lost, doubled, or of another file."""
    data = bytearray(draw(st.sampled_from(whole)))
    for fault in draw(st.lists(st.sampled_from(("cut", "flip", "lose", "double", "splice", "insert")), max_size=4)):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(1, 64)))
        if fault == "cut":
            del data[start:]
        elif fault == "flip" and start < len(data):
            data[start] ^= draw(st.integers(1, 255))
        elif fault == "lose":
            del data[start:end]
        elif fault == "double":
            data[start:start] = data[start:end]
        elif fault == "splice":
            other = draw(st.sampled_from(whole))
            data[start:] = other[min(start, len(other)) :]
        elif fault == "insert":
            data[start:start] = draw(st.binary(min_size=1, max_size=8))
    return bytes(data)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edit_files.draw(tmp_path_factory.mktemp("files"))


@fuzz
@given(data=st.data())
def test_a_bent_csv_file_is_read_or_refused(files: Path, data: st.DataObject) -> None:
    path = files / "rows.csv"
    path.write_bytes(data.draw(bent(CSV)))
    try:
        report = rows.check(path, ReadOptions(), edit_files.CATALOG, edit_files.SETTINGS, no_storage)
        entries = list(rows.read(path, ReadOptions(), edit_files.CATALOG, edit_files.SETTINGS, report))
    except UsageError:
        return
    assert len(entries) == report.read
    for entry in entries:
        if not isinstance(entry, rows.Rejected):
            for name in jobs.image_names(edit_files.as_row(entry)):
                assert_key(name)


@fuzz
@given(data=st.data())
def test_a_bent_picture_is_decoded_or_refused(files: Path, data: st.DataObject) -> None:
    whole = tuple(path.read_bytes() for path in sorted(files.rglob("*")) if path.suffix in PICTURES)
    picture = data.draw(bent(whole))
    for decode in (look, look_at_a_mask, decoded, mask):
        try:
            decode(picture)
        except BadInput as error:
            told = str(error)
        else:
            told = "expected"
        assert "expected" in told


PICTURES = {".png", ".jpg", ".webp", ".tif"}


def look(data: bytes) -> object:
    return headers.look(data, MOST_BYTES, MOST_PIXELS)


def look_at_a_mask(data: bytes) -> object:
    return headers.look(data, MOST_BYTES, MOST_PIXELS, mask=True)


def decoded(data: bytes) -> object:
    return originals.decode(data, MOST_BYTES, MOST_PIXELS, "picture")


def mask(data: bytes) -> object:
    return originals.gray_mask(data, MOST_BYTES, MOST_PIXELS, "mask")


@fuzz
@given(cell=bent(tuple(cell.encode() for cell in CELLS)).map(lambda data: data.decode("utf-8", "replace")) | st.text())
def test_a_cell_is_understood_or_refused_by_every_column(cell: str) -> None:
    for parse in CELL_PARSERS:
        with suppress(BadCell):
            parse(cell.strip())


@fuzz
@given(
    name=st.text() | st.text("ab./\\:-_ \n\0"),
    row=st.integers(1, 10_000_000),
    images=st.integers(1, 3),
    made=st.sampled_from(["png", "jpeg", "webp", "tiff"]),
)
def test_names_in_the_storage_are_of_safe_characters_whatever_a_user_types(
    name: str, row: int, images: int, made: jobs.OutputFormat
) -> None:
    stems = [columns.name_after(name, row)]
    with suppress(BadCell):
        stems.append(columns.filename(name, made) or "none")
    with suppress(UsageError):
        stems.append(keys.checked_run(name))
    for stem in stems:
        for key in jobs.own_names(stem, made, images):
            assert_key(key)


def assert_key(name: str) -> None:
    assert name.isascii() and set(name) <= SAFE and not name.startswith("."), name


SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def no_storage() -> None:
    raise UsageError("no storage here")


@fuzz
@given(body=bent((b'[[], {"run": "one", "shard": "000000", "version": 1}, {"callbacks": null}]', b"null", b'"x"')))
def test_a_bent_message_is_decoded_or_refused_and_never_unpickled(body: bytes) -> None:
    accepted = prepare_accept_content(queue.celery_config(edit_files.SETTINGS)["accept_content"])
    with suppress(DecodeError):
        found = loads(body, "application/json", "utf-8", accept=accepted)
        assert found == b"" or json.dumps(found)  # kombu gives an empty body back as it is
    with pytest.raises(ContentDisallowed):
        loads(body, "application/x-python-serialize", "binary", accept=accepted)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(settings)
    facts = {"rows": 2, "open": 2}
    ledger.create("one", "bulk", facts, b"\0", [Shard("000000", "m", 0, 0, 1, 1), Shard("000001", "m", 0, 0, 1, 1)])
    ledger.announce("w", {"device": "cpu", "models": ["m"]})
    yield ledger
    ledger.redis.close()


NAMES = (b"one", b"one:done", b"one:failed", b"one:pending:m", b"000000", b"000000.1-r5", b"bulk", b"../one", b"one/")
REASONS = {"gone", "done", "running"}


@fuzz
@given(
    name=bent(NAMES).map(lambda data: data.decode("utf-8", "replace")) | st.text(),
    shard=bent(NAMES).map(lambda data: data.decode("utf-8", "replace"))
    | st.none()
    | st.integers()
    | st.lists(st.text()),
)
def test_a_message_with_bent_names_is_dropped_or_claims_nothing_that_is_not_there(
    ledger: Ledger, name: str, shard: object
) -> None:
    if guard.names_a_shard({"run": name, "shard": shard}):
        claim = ledger.claim(name, str(shard), "w")
        if isinstance(claim, str):
            assert claim in REASONS
        else:
            assert (claim.run, claim.shard.name) in {("one", "000000"), ("one", "000001")}
            ledger.release(claim)
