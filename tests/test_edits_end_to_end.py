"""Edits from a CSV to the bucket, with the demo models, a real broker, a real storage and a real worker."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fleet import Fleet, wait_for
from PIL import Image

from shared import keys
from shared import settings as settings_
from shared.settings import Settings
from workers.demo import crowds

STEPS = 4
HEADER = "image,mask_image,mask_text,points,box,auto,action,prompt,strength,expand_right,seed,steps,on_empty\n"
ROWS = {
    "img2img": "scene.png,,,,,,,a red circle on a blue background,0.8,,1",
    "inpaint": "scene.png,scene_mask.png,,,,,,a red circle on a blue background,,,2",
    "outpaint": "scene.png,,,,,,,a red circle on a blue background,,50%,3",
    "segment by a point": 'scene.png,,,"{point}",,,,,,,',
    "segment by a box": 'scene.png,,,,"{box}",,,,,,',
    "segment everything": "scene.png,,,,,yes,,,,,",
    "replace_background": "scene.png,,the {color} {shape},,,,replace_background,a red circle on a blue background,,,4",
    "replace_object": 'scene.png,,,"{point}",,,replace_object,a red circle on a blue background,,,5',
    "remove_object": 'scene.png,,,,"{box}",,remove_object,,,,6',
    "phrase that is not there": "scene.png,,the green circle,,,,remove_object,,,,7",
    "phrase that need not be there": "scene.png,,the green circle,,,,remove_object,,,,9",
    "txt2img": ",,,,,,,a red circle on a blue background,,,8",
}


@pytest.fixture
def demo_fleet(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    for name, value in {"THREADS": 1, "LEASE_S": 3, "HEARTBEAT_S": 0.5, "REDELIVER_S": 1}.items():
        monkeypatch.setenv(f"PIXELMILL_{name}", str(value))
    fleet = Fleet(settings_.load(), tmp_path)
    yield fleet
    fleet.close()


def scene(folder: Path) -> dict[str, str]:
    """A picture with one object and its mask, and what a row needs to name it."""
    crowd = crowds.draw(np.random.default_rng(5), most=1)
    Image.fromarray(crowd.image).save(folder / "scene.png")
    wanted = crowd.labels == 1
    Image.fromarray((wanted * 255).astype(np.uint8)).save(folder / "scene_mask.png")
    ys, xs = np.nonzero(wanted)
    box = f"{xs.min()},{ys.min()},{xs.max() + 1},{ys.max() + 1}"
    object_ = crowd.objects[0]
    return {"point": f"{int(xs.mean())},{int(ys.mean())}", "box": box, "color": object_.color, "shape": object_.shape}


def test_all_kinds_from_one_file_each_proved_each_with_its_masks(demo_fleet: Fleet, tmp_path: Path) -> None:
    facts = scene(tmp_path)
    steps = {name: "" if name.startswith("segment") else STEPS for name in ROWS}
    empty = {"phrase that need not be there": "keep"}
    text = HEADER + "".join(
        f"{row.format(**facts)},{steps[name]},{empty.get(name, '')}\n" for name, row in ROWS.items()
    )
    with demo_fleet.worker(app="workers.app:app"):
        run = demo_fleet.submit(text, name="edits.csv").run
        counts = demo_fleet.finish(run, timeout_s=200)
    lines = dict(zip(ROWS, map(json.loads, demo_fleet.lines(run)), strict=True))
    bad = {name: line["error"] for name, line in lines.items() if line["state"] != "done"}
    assert list(bad) == ["phrase that is not there"]
    assert "was not found" in bad["phrase that is not there"]
    assert counts["done"] == len(ROWS) - 1
    for name in ("inpaint", "replace_background", "replace_object", "remove_object"):
        assert_only_the_mask_changed(demo_fleet, run, lines[name], tmp_path / "scene.png")
    for name in ("segment by a point", "segment by a box", "segment everything", "replace_background"):
        assert_masks_are_stored(demo_fleet, run, lines[name])
    assert (lines["outpaint"]["width"], lines["outpaint"]["height"]) == (192, 128)
    assert lines["inpaint"]["thumb"]["count"] == 3
    assert (demo_fleet.store.get(keys.inside(run, "index.html")) or b"").count(b'class="strip"') == counts["images"]
    kept = picture(demo_fleet, run, lines["phrase that need not be there"]["key"])
    assert np.array_equal(kept, np.asarray(Image.open(tmp_path / "scene.png")))
    captioned = [json.loads(line)["text"] for line in demo_fleet.lines(run, "metadata.jsonl")]
    assert len(captioned) == 6
    assert all(captioned)
    stored = {entry.key for entry in demo_fleet.store.list("inputs/")}
    assert len(stored) == 2
    again = demo_fleet.submit(text, name="edits.csv")
    assert again.joined


def assert_only_the_mask_changed(fleet: Fleet, run: str, line: dict, source: Path) -> None:
    before = np.asarray(Image.open(source))
    after, mask = (picture(fleet, run, line[name]) for name in ("key", "mask"))
    assert (line["unmasked_max_abs_diff"], line["unmasked_changed_px"]) == (0, 0)
    assert np.array_equal(before[mask == 0], after[mask == 0])
    assert line["masked_px"] == int((mask > 0).sum())
    assert not np.array_equal(before, after)


def assert_masks_are_stored(fleet: Fleet, run: str, line: dict) -> None:
    listed = json.loads(
        fleet.store.get(keys.inside(run, line["key"].replace("images", "masks").replace(".png", ".json")))
    )
    assert [f"masks/{entry['file']}" for entry in listed] == line["masks"]
    for entry, key in zip(listed, line["masks"], strict=True):
        mask = picture(fleet, run, key)
        assert set(np.unique(mask)) <= {0, 255}
        assert int((mask > 0).sum()) == entry["area"]
        assert sum(entry["segmentation"]["counts"]) == mask.size


def picture(fleet: Fleet, run: str, key: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(fleet.store.get(keys.inside(run, key)) or b"")))


def test_a_failed_edit_can_be_produced_from_wherever_failed_csv_lies(demo_fleet: Fleet, tmp_path: Path) -> None:
    scene(tmp_path)
    text = "image,mask_text,action,text_threshold\nscene.png,the green circle,remove_object,1\n"
    with demo_fleet.worker(app="workers.app:app"):
        run = demo_fleet.submit(text, name="edits.csv").run
        assert demo_fleet.finish(run, timeout_s=120)["failed"] == 1
    header, row = demo_fleet.lines(run, "failed.csv")
    assert row.startswith(f"{tmp_path / 'scene.png'},the green circle,remove_object,1,")
    assert header.startswith("image,mask_text,action,text_threshold,seed,error_type")


def test_a_worker_killed_in_the_middle_of_edits_leaves_masks_that_fit_their_pictures(
    demo_fleet: Fleet, tmp_path: Path
) -> None:
    facts = scene(tmp_path)
    rows = [f'scene.png,"{facts["box"]}",remove_object,{n},{STEPS}\n' for n in range(16)]
    with demo_fleet.worker(app="workers.app:app", batch_images="2") as worker:
        run = demo_fleet.submit("image,box,action,seed,steps\n" + "".join(rows), name="edits.csv").run
        wait_for(lambda: len(list(demo_fleet.store.list(f"runs/{run}/images/"))) >= 3, "three pictures", 120)
        worker.kill()
        worker.start()
        assert demo_fleet.finish(run, timeout_s=200)["done"] == 16
    lines = [json.loads(line) for line in demo_fleet.lines(run)]
    assert len({line["key"] for line in lines}) == 16
    for line in lines:
        assert_only_the_mask_changed(demo_fleet, run, line, tmp_path / "scene.png")


def test_a_stored_mask_is_the_input_of_a_later_run(demo_fleet: Fleet, tmp_path: Path) -> None:
    facts = scene(tmp_path)
    with demo_fleet.worker(app="workers.app:app"):
        first = demo_fleet.submit(f'image,points,kind\nscene.png,"{facts["point"]}",segment\n', name="masks.csv").run
        demo_fleet.finish(first, timeout_s=120)
        (key,) = json.loads(demo_fleet.lines(first)[0])["masks"]
        address = f"s3://{demo_fleet.settings.s3_bucket}/{keys.inside(first, key)}"
        text = f"image,mask_image,prompt,steps\nscene.png,{address},a red circle on a blue background,{STEPS}\n"
        second = demo_fleet.submit(text, name="edits.csv").run
        assert demo_fleet.finish(second, timeout_s=120)["done"] == 1
    (line,) = map(json.loads, demo_fleet.lines(second))
    assert_only_the_mask_changed(demo_fleet, second, line, tmp_path / "scene.png")


def test_shuffled_edits_of_few_pictures_cost_one_embedding_each(demo_fleet: Fleet, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for i in range(4):
        Image.fromarray(crowds.draw(np.random.default_rng(i)).image).save(tmp_path / f"{i}.png")
    lines = [f'{i}.png,"{rng.integers(128)},{rng.integers(128)}",segment' for i in range(4) for _ in range(8)]
    rng.shuffle(lines)
    with demo_fleet.worker(app="workers.app:app"):
        run = demo_fleet.submit("image,points,kind\n" + "\n".join(lines) + "\n", name="points.csv").run
        demo_fleet.finish(run, timeout_s=120)
    made = [json.loads(line) for line in demo_fleet.lines(run)]
    assert len(made) == 32
    paid = [line for line in made if "embed" in line.get("seconds", {})]
    assert len(paid) == 4
    assert len({line["job"]["image"] for line in paid}) == 4
