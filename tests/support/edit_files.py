"""Files of edits beside small pictures, and a catalog with a model of each family."""

import csv
import io
import json
from pathlib import Path

from PIL import Image

from producer import rows
from producer.entry import Entry
from producer.rows import ReadOptions, Rejected, Report
from shared import jobs
from shared.catalog import Catalog, Defaults, Limits, Model
from shared.settings import Settings

SAM = Defaults(points_per_side=12, pred_iou_thresh=0.8, stability_score_thresh=0.9)
MODELS = [
    Model(
        name="demo",
        family="sd15",
        path=Path("demo"),
        identity="d" * 64,
        defaults=Defaults(width=128, height=128, num_inference_steps=20, guidance_scale=4.0, scheduler="dpmpp_2m"),
        limits=Limits(min_size=64, max_size=256, multiple_of=8),
    ),
    Model(name="eyes", family="sam", path=Path("eyes"), identity="e" * 64, defaults=SAM),
    Model(name="ears", family="clipseg", path=Path("ears"), identity="f" * 64, defaults=Defaults(text_threshold=0.4)),
    Model(name="sharper eyes".replace(" ", "-"), family="sam", path=Path("eyes"), identity="1" * 64),
]
CATALOG = Catalog(
    defaults={"model": "demo", "mask_model": "eyes", "mask_text_model": "ears"},
    models={model.name: model for model in MODELS},
)
SETTINGS = Settings()


def draw(folder: Path) -> Path:
    """Small pictures into a folder, one of each format."""
    (folder / "photos").mkdir()
    Image.new("RGB", (300, 200), (200, 20, 20)).save(folder / "red.png")
    Image.new("RGB", (300, 200), (20, 20, 200)).save(folder / "photos" / "blue one.jpg")
    Image.new("RGBA", (100, 100), (20, 200, 20, 0)).save(folder / "green.webp", lossless=True)
    Image.new("RGB", (100, 100), (90, 200, 20)).save(folder / "lossy.webp", quality=80)
    Image.new("L", (64, 64), 100).save(folder / "gray.tif")
    Image.new("L", (150, 100), 255).save(folder / "mask.png")
    Image.new("L", (100, 100), 255).save(folder / "square.png")
    Image.new("L", (4, 4), 255).save(folder / "tiny.png")
    (folder / "words.png").write_text("not a picture")
    return folder


class Given:
    """Reads rows of a file that lies beside the pictures."""

    def __init__(self, folder: Path):
        self.path = folder / "edits.csv"

    def report(self, text: str, settings: Settings = SETTINGS, catalog: Catalog = CATALOG, **fills: str) -> Report:
        self.path.write_text(text)
        return rows.check(self.path, ReadOptions(fills=fills), catalog, settings)

    def rows(self, text: str, **fills: str) -> list[jobs.Row]:
        report = self.report(text, **fills)
        assert [str(fault) for fault in report.faults] == []
        entries = list(rows.read(self.path, ReadOptions(fills=fills), CATALOG, SETTINGS, report))
        return [as_row(entry) for entry in entries]

    def row(self, _text: str = "", _fills: dict[str, str] | None = None, **cells: str) -> jobs.Row:
        (row,) = self.rows(as_csv(cells), **(_fills or {}))
        return row

    def faults(self, **cells: str) -> list[str]:
        return [str(fault).removeprefix("edits.csv:2: ") for fault in self.report(as_csv(cells)).faults]


def as_csv(cells: dict[str, str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, cells)
    writer.writeheader()
    writer.writerow(cells)
    return text.getvalue()


def as_row(entry: Entry | Rejected) -> jobs.Row:
    """The row as a worker reads it, after a look at its id and at what planning is told about it."""
    assert isinstance(entry, Entry)
    row = jobs.Row.model_validate_json(entry.text)
    used = jobs.models(row.job)
    assert row.job_id == jobs.job_id(
        row.job.model_dump(), {role: CATALOG.models[n].identity for role, n in used.items()}
    )
    assert json.loads(entry.text)["job"] == json.loads(jobs.canonical_json(row.job.model_dump()))
    assert entry[:4] == (row.row, jobs.batch_key(row.job), row.job.num_images_per_prompt, "+".join(used.values()))
    assert list(entry.inputs) == jobs.inputs(row.job)
    assert entry.group == getattr(row.job, "image", "")
    return row
