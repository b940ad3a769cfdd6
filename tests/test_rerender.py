"""`produce verify --rerender`: pictures made again by real workers are those that are stored, or it is said."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet import Fleet
from PIL import Image

from producer import follow, rerender, verify
from producer.session import Session
from shared import jobs, keys
from shared import settings as settings_
from shared.errors import UsageError
from shared.jobs import Row
from shared.settings import Settings
from workers import batches
from workers.demo import crowds

BATCH = 4
STEPS = 3
PROMPT = "a red circle on a blue background"
EDITS = {
    "img2img": "scene.png,,,,,0.8,,{prompt},",
    "inpaint": "scene.png,mask.png,,,,,,{prompt},",
    "outpaint": "scene.png,,,,,,50%,{prompt},webp",
    "segment": 'scene.png,,,"64,64",,,,,',
    "mask_edit": 'scene.png,,,"60,60",replace_object,,,{prompt},',
    "kept": "scene.png,empty.png,,,,,,{prompt},",
}
HEADER = "image,mask_image,mask_text,points,action,strength,expand_right,prompt,output_format,on_empty,seed,steps\n"


@pytest.fixture
def demo_fleet(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """The models that ship with the project, one thread each, batches of four."""
    for name, value in {"THREADS": 1, "BATCH_IMAGES": BATCH}.items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    fleet = Fleet(settings_.load(), tmp_path)
    yield fleet
    fleet.close()


def session(fleet: Fleet) -> Session:
    return Session(fleet.ledger, fleet.store, fleet.app, None)


def again(fleet: Fleet, run: str, count: int, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and what `--json` prints. Whatever came of it, nothing of the second run stays."""
    capsys.readouterr()
    code = verify.verify(session(fleet), run, True, count)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert left(fleet) == []
    return code, found


def left(fleet: Fleet) -> list[str]:
    """What is there of runs that make pictures again."""
    known = [*(entry.key for entry in fleet.store.list("")), *fleet.ledger.redis.scan_iter("*")]
    return [name for name in known if ".again-" in name]


def lines(fleet: Fleet, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fleet.lines(run)]


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def replace(fleet: Fleet, run: str, row: int, body: bytes, **facts: object) -> str:
    """Another picture in place of a row's, of which the manifest knows; its key."""
    made = lines(fleet, run)
    (line,) = (line for line in made if line["row"] == row)
    line |= {"sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body), **facts}
    fleet.store.replace(keys.inside(run, line["key"]), body, "image/png")
    text = "".join(json.dumps(line) + "\n" for line in made)
    fleet.store.replace(keys.inside(run, "manifest.jsonl"), text.encode(), "application/x-ndjson")
    return str(line["key"])


def test_pictures_that_ran_in_batches_are_made_again_exactly_by_a_worker_that_runs_one_at_a_time(
    demo_fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"a {color} circle,{seed},{STEPS},64,64,{images}" for seed, color, images in ROWS]
    text = "prompt,seed,steps,width,height,num_images_per_prompt\n" + "\n".join(rows) + "\n"
    with demo_fleet.worker(app="workers.app:app"):
        run = demo_fleet.submit(text).run
        assert demo_fleet.finish(run, 120)["images"] == 7
    assert sorted(line["batch_shape"][0] for line in lines(demo_fleet, run)) == [3, 3, 3, 4, 4, 4, 4]
    before = {entry.key for entry in demo_fleet.store.list("")}
    with demo_fleet.worker(1, app="workers.app:app", batch_images="1"):
        code, found = again(demo_fleet, run, 5, capsys)
    assert (code, found["faults"], len({(line["row"], line["n"]) for line in found["made_again"]})) == (0, {}, 5)
    assert {line["text"] for line in found["made_again"]} == {"made again, with equal pixels"}
    assert {entry.key for entry in demo_fleet.store.list("")} == before


ROWS = ((1, "red", 1), (2, "green", 1), (3, "blue", 2), (4, "red", 1), (5, "green", 1), (6, "blue", 1))


def test_edits_of_every_kind_are_made_again(
    demo_fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowd = crowds.draw(np.random.default_rng(5), most=1)
    Image.fromarray(crowd.image).save(tmp_path / "scene.png")
    Image.fromarray(((crowd.labels == 1) * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    Image.new("L", crowd.image.shape[1::-1]).save(tmp_path / "empty.png")
    text = HEADER
    for kind, cells in EDITS.items():
        steps = "" if kind == "segment" else STEPS
        keep = "keep" if kind == "kept" else ""
        text += f"{cells.format(prompt=PROMPT)},{keep},{'' if kind == 'segment' else 7},{steps}\n" * 2
    with demo_fleet.worker(app="workers.app:app"):
        run = demo_fleet.submit(text, name="edits.csv").run
        assert demo_fleet.finish(run, 200)["done"] == 2 * len(EDITS)
        code, found = again(demo_fleet, run, 99, capsys)
    assert (code, found["faults"], len(found["made_again"])) == (0, {}, 2 * len(EDITS))
    assert {line["text"] for line in found["made_again"]} == {"made again, with equal pixels"}


def test_a_picture_that_is_not_that_of_its_job_is_found_though_its_hash_fits(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet.worker():
        run = fleet.submit("prompt\none\ntwo\nthree\n").run
        fleet.finish(run)
        key = replace(fleet, run, 2, png(9))
        assert verify.verify(session(fleet), run, as_json=True) == 0
        code, found = again(fleet, run, 3, capsys)
        assert (code, found["faults"]) == (1, {"other pixels": 1})
        (fault,) = found["shown"]
        assert fault["where"] == f"{key} (row 2)"
        assert "of 255 in 4,096 of 4,096 pixels" in fault["text"]
        assert verify.verify(session(fleet), run, False, 3) == 1
        shown = capsys.readouterr()
        assert (f"{key} (row 2): made again" in shown.err, shown.out.count("with equal pixels")) == (True, 2)
        replace(fleet, run, 2, png(9), threads=77)
        code, found = again(fleet, run, 3, capsys)
    assert (code, found["faults"]) == (0, {})
    assert found["made_again"][1]["text"].endswith("threads 1, recorded 77")


def test_a_picture_that_cannot_be_made_again_is_named_with_the_reason(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet.worker():
        run = fleet.submit("prompt\none\ntwo\n").run
        fleet.finish(run)
        job = lines(fleet, run)[1]["job"] | {"prompt": "fail"}
        replace(fleet, run, 2, png(9), job=job)
        code, found = again(fleet, run, 2, capsys)
    assert (code, found["faults"]) == (1, {"not made": 1})
    assert found["shown"][0]["text"] == "could not be made again: ValueError: this prompt fails"


def test_what_cannot_be_made_again_is_refused_before_anything_is_read(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fleet.submit("prompt\none\n").run
    with pytest.raises(UsageError, match="is not over"):
        verify.verify(session(fleet), run, True, 1)
    with fleet.worker():
        fleet.finish(run)
    about = json.loads(fleet.store.get(keys.description(run)) or b"")
    about["models"]["null"] = "a" * 64
    fleet.store.replace(keys.description(run), json.dumps(about).encode(), "application/json")
    with pytest.raises(UsageError, match=r"model null: found [0-9a-f]+ in the catalog; expected aaaa"):
        verify.verify(session(fleet), run, True, 1)

    about["models"] = {}
    fleet.store.replace(keys.description(run), json.dumps(about).encode(), "application/json")
    with pytest.raises(UsageError, match=r"row 1: its job cannot be read"):
        verify.verify(session(fleet), run, True, 1)
    assert left(fleet) == []


def test_who_is_interrupted_while_pictures_are_made_again_leaves_nothing_of_them(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fleet.worker():
        run = fleet.submit("prompt\none\n").run
        fleet.finish(run)

    def interrupt(*_: object) -> None:
        assert left(fleet)
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "follow", interrupt)
    with pytest.raises(KeyboardInterrupt):
        verify.verify(session(fleet), run, True, 1)
    assert left(fleet) == []


def test_a_row_that_asks_for_a_shape_runs_alone_and_fills_its_batch() -> None:
    line = {"row": 5, "n": 2, "job": JOB, "job_id": "0" * 64, "batch_shape": [3, 64, 64]}
    row = rerender.row_of(line, 1, {"null": "a" * 64})
    assert (row.job.seed, row.job.num_images_per_prompt, row.batch_images, row.memory) == (12, 1, 3, ())
    assert rerender.row_of({**line, "memory": ["vae_tiling"]}, 1, {"null": "a" * 64}).memory == ("vae_tiling",)
    wanted = batches.items([row, row])
    assert batches.first(wanted, 8) == wanted[:1]
    assert batches.filled(wanted[:1]) == wanted[:1] * 3
    plain = batches.items([row.model_copy(update={"batch_images": None})] * 2)
    assert batches.filled(plain) == plain
    assert batches.filled(plain[:1]) == plain[:1]
    assert batches.filled([]) == []


JOB = {
    "kind": "txt2img", "model": "null", "prompt": "one", "width": 64, "height": 64, "num_inference_steps": 2,
    "guidance_scale": 4.0, "scheduler": "dpmpp_2m", "seed": 10, "num_images_per_prompt": 4,
}  # fmt: skip


def test_a_row_made_again_has_the_job_and_the_identity_of_the_row(fleet: Fleet) -> None:
    fleet.submit("prompt,seed\none,5\n", run="mine")
    row = Row.model_validate_json(fleet.store.get(keys.part("mine", 0)) or b"")
    about = json.loads(fleet.store.get(keys.description("mine")) or b"")
    line = {"row": 1, "n": 0, "job": row.job.model_dump(mode="json"), "job_id": "", "batch_shape": [2, 64, 64]}
    copy = rerender.row_of(line, 1, about["models"])
    assert (copy.job, copy.job_id) == (row.job, row.job_id)
    assert jobs.image_names(copy) == jobs.image_names(row)


BEFORE = {"model": {"identity": "a"}, "device": "cpu", "threads": 1, "batch_shape": [4, 64, 64], "job": {}}


@pytest.mark.parametrize(
    ("after", "masks", "kind", "text"),
    [
        ({}, [b"mask", b"mask"], "other pixels", "differs by at most 3 of 255 in 4,096 of 4,096 pixels, though device"),
        ({"device": "gpu"}, [b"mask", b"mask"], "", "device gpu, recorded cpu"),
        ({"batch_shape": [1, 64, 64]}, [b"mask", b"mask"], "", "batch shape [1, 64, 64], recorded [4, 64, 64]"),
        ({"memory": ["vae_tiling"]}, [b"mask", b"mask"], "", "memory ['vae_tiling'], recorded none"),
        ({"batch_shape": [0, 64, 64]}, [b"mask", b"mask"], "other pixels", "differs"),  # no model ran
        ({"model": {"identity": "b"}}, [b"mask", b"mask"], "not made", "model b; expected a"),
        ({"job": {"mask_model": "eyes"}}, [b"mask", b"mask"], "other pixels", "differs"),
        ({"job": {"mask_model": "eyes"}}, [b"mask", b"other"], "", "its mask came out otherwise"),
    ],
)
def test_a_difference_is_a_fault_unless_something_that_is_recorded_differs_too(
    after: dict[str, Any], masks: list[bytes], kind: str, text: str
) -> None:
    before = BEFORE | {name: after[name] for name in ("job",) if name in after}
    found, of_kind = rerender.judge(before, before | after, [png(5), masks[0]], [png(8), masks[1]])
    assert (of_kind, text in found) == (kind, True)


def test_pictures_are_compared_as_they_look_however_they_are_encoded() -> None:
    image = Image.new("LA", (8, 8), (7, 100))
    files = {}
    for kind, mode in (("PNG", "LA"), ("PNG", "RGBA"), ("TIFF", "RGBA")):
        file = io.BytesIO()
        image.convert(mode).save(file, kind)
        files[kind, mode] = file.getvalue()
    first, *others = files.values()
    assert [rerender.difference(first, other) for other in others] == ["", ""]
    image.putpixel((3, 3), (7, 90))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert rerender.difference(first, file.getvalue()) == "differs by at most 10 of 255 in 1 of 64 pixels"
    assert "with 64 x 64 pixels instead of 8 x 8" in rerender.difference(first, png(1))
