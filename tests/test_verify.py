"""`produce verify` finds each kind of fault in a run that real workers made, and nothing in one that is whole."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, wait_for
from PIL import Image

from producer import cli, control, listing, rebuild, rehash, verify
from producer.rehash import Expected
from producer.session import Session
from shared import keys
from shared.settings import Settings
from shared.store import Store

ROWS = "prompt,n\nfirst,\npair,2\nfail,\n,\nlast,\n"  # row 4 has no prompt and is skipped
Found = dict[str, Any]


@pytest.fixture
def session(fleet: Fleet) -> Session:
    return Session(fleet.ledger, fleet.store, fleet.app, None)


RECORDED: dict[str, bytes] = {}  # the objects of `whole`: made once, by a real worker


@pytest.fixture
def whole(fleet: Fleet) -> str:
    """A run that is over, with rows that are done, failed and skipped."""
    run = "whole"
    if not RECORDED:
        make_whole(fleet)
        RECORDED.update((entry.key, fleet.store.get(entry.key) or b"") for entry in fleet.store.list(keys.prefix(run)))
    for key, body in RECORDED.items():
        fleet.store.put_new(key, body, "application/octet-stream")
    return run


def make_whole(fleet: Fleet) -> None:
    with fleet.worker():
        fleet.submit(ROWS, run="whole", skip_bad=True)
        fleet.finish("whole", timeout_s=120)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 3)).save(file, "PNG")
    return file.getvalue()


def look(session: Session, run: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Found]:
    """Exit code and what `--json` prints."""
    capsys.readouterr()
    code = verify.verify(session, run, as_json=True)
    found: Found = json.loads(capsys.readouterr().out)
    return code, found


def key_of(fleet: Fleet, run: str, row: int) -> str:
    lines = [json.loads(line) for line in fleet.lines(run)]
    return next(str(line["key"]) for line in lines if line["row"] == row)


def replace(fleet: Fleet, run: str, name: str, body: bytes) -> None:
    fleet.store.replace(keys.inside(run, name), body, "application/octet-stream")


def edit_manifest(fleet: Fleet, run: str, edit: Callable[[list[str]], list[str]]) -> None:
    replace(fleet, run, "manifest.jsonl", "\n".join([*edit(fleet.lines(run)), ""]).encode())


def test_each_fault_of_an_object_is_found_and_named(
    fleet: Fleet, session: Session, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(session, whole, capsys)[0] == 0
    first, last = key_of(fleet, whole, 1), key_of(fleet, whole, 5)
    good = fleet.store.get(keys.inside(whole, first)) or b""
    fleet.store.delete(keys.inside(whole, last))
    flipped = good[:100] + bytes([good[100] ^ 1]) + good[101:]
    cases = {
        flipped: f"found SHA-256 {hashlib.sha256(flipped).hexdigest()}; expected {hashlib.sha256(good).hexdigest()}",
        good[:-1]: f"found {len(good) - 1:,} bytes; expected {len(good):,}",
    }
    for body, text in cases.items():
        replace(fleet, whole, first, body)
        code, found = look(session, whole, capsys)
        assert (code, found["faults"]) == (1, {"missing": 1, "other bytes": 1})
        assert sorted((fault["where"], fault["text"]) for fault in found["shown"]) == sorted(
            [(f"{first} (row 1)", text), (f"{last} (row 5)", "is missing in the storage")]
        )


def test_an_object_that_no_result_names_is_found(
    fleet: Fleet, session: Session, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("images/stray.png", "masks/stray.png"):
        replace(fleet, whole, name, b"more")
    code, found = look(session, whole, capsys)
    assert (code, [fault["where"] for fault in found["shown"]]) == (1, ["images/stray.png", "masks/stray.png"])
    assert found["faults"] == {"extra": 2}


def test_bytes_that_are_no_picture_are_found_though_their_hash_fits(
    fleet: Fleet, session: Session, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key, body = key_of(fleet, whole, 1), b"no picture"
    replace(fleet, whole, key, body)

    def fitting(lines: list[str]) -> list[str]:
        first = json.loads(lines[0]) | {"sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body)}
        return [json.dumps(first), *lines[1:]]

    edit_manifest(fleet, whole, fitting)
    code, found = look(session, whole, capsys)
    assert (code, found["faults"]) == (1, {"unreadable": 1})
    assert found["shown"][0]["where"] == f"{key} (row 1)"


@pytest.mark.parametrize(
    ("edit", "kind", "where"),
    [
        (lambda lines: [line for line in lines if json.loads(line)["row"] != 3], "lost", "row 3"),
        (lambda lines: lines[:-1], "lost", "row 5"),
        (lambda lines: [lines[0], *lines[2:]], "lost", "row 2"),  # one of its two pictures
        (lambda lines: [*lines, lines[0]], "twice", "row 1"),
        (lambda lines: [*lines, "{"], "line", "manifest.jsonl line 6"),
        (lambda lines: [*lines, json.dumps(json.loads(lines[0]) | {"row": 6})], "twice", "images/"),
        (lambda lines: [*lines, json.dumps(json.loads(lines[3]) | {"row": 9})], "line", "row 9"),
    ],
)
def test_rows_without_a_result_or_with_two_are_found(
    fleet: Fleet,
    session: Session,
    whole: str,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[list[str]], list[str]],
    kind: str,
    where: str,
) -> None:
    edit_manifest(fleet, whole, edit)
    code, found = look(session, whole, capsys)
    assert code == 1
    assert any(fault["kind"] == kind and fault["where"].startswith(where) for fault in found["shown"])
    assert found["faults"][kind] == 1


def test_a_skipped_row_that_nothing_tells_of_is_lost(
    fleet: Fleet, session: Session, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.store.delete(keys.rejected(whole))
    assert [fault["where"] for fault in look(session, whole, capsys)[1]["shown"]] == ["row 4"]


def test_a_canceled_run_is_whole_until_the_line_of_a_canceled_row_is_lost(
    fleet: Fleet, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fleet.submit("prompt\none\ntwo\nthree\n").run
    control.cancel(session, run)
    assert fleet.finish(run)["canceled"] == 3
    code, found = look(session, run, capsys)
    assert (code, found["over"], found["faults"]) == (0, True, {})
    edit_manifest(fleet, run, lambda lines: [lines[0], lines[2]])
    code, found = look(session, run, capsys)
    assert (code, [fault["where"] for fault in found["shown"]]) == (1, ["row 2"])
    fleet.store.delete(keys.inside(run, "manifest.jsonl"))  # what is left says nothing of canceled rows
    assert look(session, run, capsys)[1]["faults"] == {"missing": 1}


def test_a_manifest_that_is_gone_is_a_fault_that_rebuild_mends(
    fleet: Fleet, session: Session, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fleet.lines(whole)
    fleet.store.delete(keys.inside(whole, "manifest.jsonl"))
    code, found = look(session, whole, capsys)
    assert (code, found["faults"], found["objects"]) == (1, {"missing": 1}, 4)
    rebuild.rebuild(session, whole)
    wait_for(lambda: fleet.lines(whole) == before, "the manifest")
    fleet.finish(whole, timeout_s=120)
    assert look(session, whole, capsys)[0] == 0


def test_of_a_run_that_goes_on_what_is_committed_is_checked_and_open_rows_are_expected(
    fleet: Fleet, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet.worker() as worker:
        run = fleet.submit("prompt\n" + "".join(f"slow picture {i}\n" for i in range(24))).run
        wait_for(lambda: fleet.ledger.counts(run)["done"] >= 8, "the first shard")
        worker.kill()
        code, found = look(session, run, capsys)
        assert (code, found["over"]) == (0, False)
        assert found["rows_open"] == 24 - found["objects"] > 0
        stray = keys.inside(run, "images/of-an-open-row.png")
        fleet.store.put_new(stray, b"", "image/png")
        assert look(session, run, capsys)[1]["objects_open"] == found["objects_open"] + 1
        (first, *_) = fleet.store.list(keys.results(run))
        line = json.loads(next(fleet.store.lines(first.key)))
        fleet.store.delete(keys.inside(run, line["key"]))
        code, found = look(session, run, capsys)
        assert (code, found["faults"]) == (1, {"missing": 1})
        assert verify.verify(session, run, as_json=False) == 1
        shown = capsys.readouterr()
        assert f"run {run} is not over: {found['rows_open']} rows are open" in shown.out
        assert f"{line['key']} (row {line['row']}): is missing in the storage" in shown.err


def test_rows_that_failed_and_went_out_again_have_one_result_that_counts(
    fleet: Fleet, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = "whole"
    make_whole(fleet)
    with fleet.worker():
        assert fleet.submit(ROWS, run=whole, skip_bad=True).again == 1
        fleet.finish(whole, timeout_s=120)
    assert len(list(fleet.store.list(keys.results(whole)))) > 1
    assert look(session, whole, capsys)[1]["faults"] == {}
    fleet.store.delete(keys.summary(whole))  # from here on by its results, of two tries
    assert look(session, whole, capsys)[1]["faults"] == {"missing": 1}  # the summary itself


def test_a_run_that_the_broker_has_forgotten_is_checked_by_its_manifest(
    fleet: Fleet, session: Session, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.ledger.redis.flushdb()
    code, found = look(session, whole, capsys)
    assert (code, found["over"], found["objects"]) == (0, True, 4)
    stored = [entry.size_bytes for entry in fleet.store.list(keys.image(whole, ""))]
    assert (len(stored), sum(stored)) == (4, found["size_bytes"])


def test_masks_must_stand_there_and_be_readable(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(settings)
    store.ensure_bucket()
    run = "edits"
    bodies = {"images/cup.png": png(), "masks/cup.png": png(), "masks/cup~0.png": png(), "masks/cup.json": b"[]"}
    line = {"row": 1, "n": 0, "state": "done", "key": "images/cup.png", "job": {"num_images_per_prompt": 1}}
    line |= {"sha256": hashlib.sha256(png()).hexdigest(), "size_bytes": len(png())}
    line |= {"mask": "masks/cup.png", "masks": ["masks/cup~0.png"]}
    bodies |= {"manifest.jsonl": json.dumps(line).encode(), "summary.json": b'{"counts": {}}'}
    bodies |= {"run.json": json.dumps({"run": run, "rows_read": 1}).encode()}
    for name, body in bodies.items():
        store.replace(keys.inside(run, name), body, "application/octet-stream")
    session = Session(Ledgerless(), store, None, None)  # type: ignore[arg-type]
    code, found = look(session, run, capsys)
    assert (code, found["objects"]) == (0, 4)
    store.replace(keys.inside(run, "masks/cup.json"), b"[", "application/json")
    store.replace(keys.inside(run, "masks/cup.png"), b"", "image/png")
    store.delete(keys.inside(run, "masks/cup~0.png"))
    assert look(session, run, capsys)[1]["faults"] == {"missing": 1, "unreadable": 2}


class Ledgerless:
    """A broker that knows nothing."""

    def facts(self, _run: str) -> dict[str, str]:
        return {}


def test_of_very_many_faults_the_first_thousand_are_shown_and_the_others_counted() -> None:
    faults = verify.Faults()
    for row in range(1500):
        faults.add("lost", f"row {row}", "is lost")
    assert (len(faults.shown), faults.counts["lost"]) == (verify.MOST_SHOWN, 1500)
    assert str(faults.shown[-1]) == "row 999: is lost"


def test_no_more_objects_are_asked_for_than_a_few_before_their_turn(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a run has."""
    monkeypatch.setattr(rehash, "WAITING_MOST", 3)
    asked = 0

    def wanted() -> Any:
        nonlocal asked
        for row in range(20):
            asked += 1
            yield Expected(f"images/{row}.png", row, "0", 1)

    store = Store(settings)
    store.ensure_bucket()
    for got, checked in enumerate(rehash.rehash(store, "r", wanted()), 1):
        assert checked.kind == "missing"
        assert asked <= got + 3
    assert asked == 20


def test_the_command_ends_with_1_where_there_are_faults(
    fleet: Fleet, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", whole]) == 0
    assert capsys.readouterr().out.endswith("s; all well\n")
    fleet.store.delete(keys.inside(whole, key_of(fleet, whole, 1)))
    assert cli.main(["verify", whole]) == 1
    assert capsys.readouterr().out.endswith("s; 1 fault: 1 missing\n")
    assert cli.main(["verify", "no-such-run"]) == 2
    assert listing.look(Session(fleet.ledger, fleet.store, fleet.app, None), whole) is not None
