"""A folder of pictures is produced as if the user had written a row for each."""

import csv
import json
from pathlib import Path

import pytest
from fleet import Fleet
from PIL import Image

from producer import cli, folder
from shared import jobs, keys
from shared.errors import UsageError
from shared.settings import Settings
from shared.store import Store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return drawn(tmp_path / "photos", "b.jpg", "a.PNG", "c.tif")


def drawn(place: Path, *names: str) -> Path:
    place.mkdir(exist_ok=True)
    for shade, name in enumerate(names):
        Image.new("L", (60, 40), shade).save(place / name)
    return place


def table(place: Path, images: Path, masks: Path | None = None, prompt: str | None = None) -> list[dict[str, str]]:
    with folder.write_csv(place, images, masks, {} if prompt is None else {"prompt": prompt}).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_picture_is_a_row_in_order_and_nothing_else_is(photos, tmp_path):
    (photos / "notes.txt").write_text("no picture")
    drawn(photos / "deeper.png", "d.png")
    assert table(tmp_path, photos, prompt="a star, red") == [
        {"image": str(photos / name), "prompt": "a star, red"} for name in ("a.PNG", "b.jpg", "c.tif")
    ]


def test_masks_are_found_by_stem_or_stem_and_mask_or_are_one_file_for_all(photos, tmp_path):
    masks = drawn(tmp_path / "masks", "a.png", "b_mask.webp", "c.png", "c_mask.png", "z.png")
    found = [Path(row["mask_image"]).name for row in table(tmp_path, photos, masks)]
    assert found == ["a.png", "b_mask.webp", "c.png"]
    found = [row["mask_image"] for row in table(tmp_path, photos, masks / "z.png")]
    assert found == [str(masks / "z.png")] * 3


def test_masks_may_lie_beside_their_pictures_and_are_then_no_pictures(tmp_path):
    photos = drawn(
        tmp_path / "p", "a.png", "a_mask.png", "b.png", "b_mask.jpg", "party_mask.png", "party_mask_mask.png"
    )
    rows = table(tmp_path, photos, photos)
    assert [(Path(row["image"]).name, Path(row["mask_image"]).name) for row in rows] == [
        ("a.png", "a_mask.png"),
        ("b.png", "b_mask.jpg"),
        ("party_mask.png", "party_mask_mask.png"),
    ]


def test_a_picture_without_its_mask_is_a_fault_that_names_the_file_which_is_missing(photos, tmp_path, capsys):
    masks = drawn(tmp_path / "masks", "a.png", "b.png")
    assert cli.main(["--images", str(photos), "--masks", str(masks), "--prompt", "a star", "--dry-run"]) == 2
    (fault, ending) = capsys.readouterr().err.splitlines()
    assert fault.startswith("photos.csv:4: column 'mask_image': found '")
    assert "/masks/c.png'; expected a picture file that exists" in fault
    assert "1 fault in the file" in ending
    arguments = ["--images", str(photos), "--masks", str(masks), "--prompt", "a star", "--dry-run", "--skip-bad"]
    assert cli.main([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["kinds"] == {"inpaint": 2}


@pytest.mark.parametrize(
    ("names", "masks", "words"),
    [
        ((), None, "found no pictures; expected files that end with .png, .jpg"),
        (("a.png",), ("a.png", "a.webp"), "found a.png and a.webp for a.png; expected one mask"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, names, masks, words):
    photos = drawn(tmp_path / "p", *names)
    with pytest.raises(UsageError) as error:
        folder.write_csv(tmp_path, photos, masks and drawn(tmp_path / "m", *masks), {})
    assert words in str(error.value)


def test_a_folder_that_is_none_is_refused(photos, tmp_path):
    for images, masks in ((tmp_path / "x", None), (photos / "b.jpg", None), (photos, tmp_path / "x")):
        with pytest.raises(UsageError, match="expected a folder with pictures"):
            folder.write_csv(tmp_path, images, masks, {})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--images", "p", "--csv", "a.csv"],
        ["--csv", "a.csv", "--masks", "m"],
        ["--csv", "a.csv", "--prompt", "a"],
        ["--images", "p", "runs"],
    ],
)
def test_options_that_exclude_each_other_are_refused(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "give one of the two" in (printed := capsys.readouterr().err) or "goes with --images" in printed


def test_set_says_what_becomes_of_the_pictures(photos, capsys, monkeypatch):
    monkeypatch.chdir(photos)
    for fills, kind in ((["auto=yes"], "segment"), (["expand_left=10%"], "outpaint"), (["prompt=a star"], "img2img")):
        options = [option for fill in fills for option in ("--set", fill)]
        assert cli.main(["--images", ".", "--dry-run", "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["kinds"] == {kind: 3}


def test_a_run_of_a_folder_is_stored_and_joined_and_can_be_produced_by_hand(
    fleet: Fleet, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--images", "photos", "--prompt", "a star", "--no-wait", "--json"]
    assert cli.main(arguments) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert run.startswith("photos-")
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"run": run, "joined": True}
    stored = [json.loads(line) for line in fleet.store.lines(keys.part(run, 0))]
    with (tmp_path / "failed.csv").open("w", newline="") as file:  # as the end of a run writes it
        writer = csv.DictWriter(file, ["image", "prompt", "seed", "error"])
        writer.writeheader()
        writer.writerows({**row["cells"], "seed": row["job"]["seed"], "error": "x"} for row in stored)
    assert cli.main(["--csv", "failed.csv", "--run", "again", "--no-wait"]) == 0
    again = [json.loads(line) for line in fleet.store.lines(keys.part("again", 0))]
    assert [row["job_id"] for row in again] == [row["job_id"] for row in stored]


# --- what a submission of edits leaves behind ---


def test_a_run_of_edits_holds_its_inputs_once_and_rows_on_one_picture_in_one_shard(
    fleet: Fleet, photos: Path, tmp_path: Path
) -> None:
    text = "image,prompt\n" + "".join(f"photos/{name},star {n}\n" for n in range(10) for name in ("a.PNG", "b.jpg"))
    run = fleet.submit(text + ",a star\n", run="edits").run
    inputs = [entry.key for entry in fleet.store.list("inputs/")]
    assert len(inputs) == 2
    rows = [jobs.Row.model_validate_json(line) for line in fleet.store.lines(keys.part(run, 0))]
    assert len(rows) == 21
    assert {name for row in rows for name in jobs.inputs(row.job)} == set(inputs)
    shards = [json.loads(line) for line in fleet.store.lines(keys.shards(run))]
    assert sorted(shard["count"] for shard in shards) == [1, 10, 10]
    about = json.loads(fleet.store.get(keys.description(run)) or b"")
    assert (about["schema"], about["rows"]) == (jobs.SCHEMA_VERSION, 21)


def test_a_changed_picture_under_the_same_name_is_another_run_and_an_input_that_vanished_comes_back(
    fleet: Fleet, photos: Path
) -> None:
    run = fleet.submit("image,prompt\nphotos/a.PNG,star\n", run="edits").run
    (first,) = [entry.key for entry in fleet.store.list("inputs/")]
    fleet.store.delete(first)
    fleet.ledger.redis.setbit(keys.failed(run), 1, 1)  # its row failed
    assert fleet.submit("image,prompt\nphotos/a.PNG,star\n", run="edits").again == 1
    assert [entry.key for entry in fleet.store.list("inputs/")] == [first]
    Image.new("L", (60, 40), 99).save(photos / "a.PNG")
    with pytest.raises(UsageError, match="run edits exists and was made from another file"):
        fleet.submit("image,prompt\nphotos/a.PNG,star\n", run="edits")


def test_a_dry_run_asks_for_a_storage_only_where_a_row_names_an_object(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(settings)
    store.ensure_bucket()
    drawn(tmp_path, "a.png")
    store.replace("in/a.png", (tmp_path / "a.png").read_bytes(), "image/png")
    (tmp_path / "near.csv").write_text("image,auto\na.png,yes\n")
    (tmp_path / "far.csv").write_text(f"image,auto\ns3://{settings.s3_bucket}/in/a.png,yes\n")
    assert cli.main(["--csv", str(tmp_path / "far.csv"), "--dry-run"]) == 0
    assert "1 of 1 rows (1 segment) would make 1 images with demo-sam" in capsys.readouterr().out
    monkeypatch.setenv("PIXELMILL_S3_ENDPOINT", "http://127.0.0.1:9")
    assert cli.main(["--csv", str(tmp_path / "far.csv"), "--dry-run"]) == 3
    assert cli.main(["--csv", str(tmp_path / "near.csv"), "--dry-run"]) == 0


def test_what_set_says_is_written_into_every_row_and_other_files_are_named(tmp_path, capsys):
    photos = drawn(tmp_path / "photos", "a.png")
    (photos / "b.heic").write_bytes(b"x")
    assert cli.main(["--images", str(photos), "--prompt", "p", "--set", "mask_text=the mug", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "mask_text and prompt without action" in said
    assert "left out" in said and "b.heic" in said
