"""Many edits of few pictures: one embedding per picture, against one per row. On a random model of ViT-B's size."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from segment_anything import SamPredictor, sam_model_registry

from bench.photos import photo
from bench.site import Site
from bench.table import Line, Part, number
from producer import order, plan, rows
from producer.rows import ReadOptions
from shared import catalog, settings
from shared.jobs import Row
from workers import batches, originals
from workers.batches import Item
from workers.models import Models
from workers.originals import Original
from workers.prepare import Preparation

PICTURES, EDITS = 8, 16
QUICK_PICTURES, QUICK_EDITS = 2, 4
BASELINE_ROWS = 4  # each with an embedding of its own; the others would take as long
BATCH = 8
GOAL = 10.0
CATALOG = """
default_mask_model = "random-vit-b"
[models.random-vit-b]
family = "sam"
path = "{path}"
identity = "{identity}"
"""


class Folder:
    """Pictures by the names that rows give them, in the place of a storage."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files

    def picture(self, name: str, /) -> Original:
        return originals.decode(self.files[name], 1 << 28, 1 << 27, name)

    def mask(self, name: str, /) -> np.ndarray:
        raise KeyError(name)


def measure(site: Site) -> Part:
    """Segment rows in a shuffled file, planned as `produce` plans them and prepared as a worker does."""
    pictures, edits = (QUICK_PICTURES, QUICK_EDITS) if site.quick else (PICTURES, EDITS)
    with tempfile.TemporaryDirectory(prefix="pixelmill-bench-") as name:
        folder = Path(name)
        models = random_model(folder)
        file = write_rows(folder, pictures, edits)
        shards = list(planned(file, models))
        known = Models(models, torch.device("cpu"), 8 << 30)
        segmenter = known.get("random-vit-b")
        shared_s = prepare(shards, known, folder)
        own = package_model(folder)
        alone_s = [baseline(own, item, folder) for item in shards[0][:BASELINE_ROWS]]
    total = pictures * edits
    per_row, own_row = shared_s / total, float(np.median(alone_s))
    runs = segmenter.encoded
    lines = [
        Line("SAM encoder runs / pictures", f"{runs}", f"{pictures}", runs / pictures, "x", 1, at_least=False),
        Line(
            f"{edits} edits a picture / an embedding per row",
            f"{number(per_row)} s a row",
            f"{number(own_row)} s a row",
            own_row / per_row,
            "x",
            GOAL if not site.quick else 1,
        ),
    ]
    notes = [f"the baseline is the package's predictor on {len(alone_s)} rows: {', '.join(map(number, alone_s))} s"]
    notes.append(f"the bound: {edits}x, if prompts cost nothing")
    profile = [f"{total} rows took {number(shared_s)} s, of them {runs} embeddings of about {number(own_row)} s each"]
    return Part(lines, notes, profile)


def random_model(folder: Path) -> catalog.Catalog:
    """ViT-B with random weights: it costs what the trained one costs."""
    torch.manual_seed(0)
    path = folder / "model"
    path.mkdir()
    save_file(
        {k: v.contiguous() for k, v in sam_model_registry["vit_b"]().state_dict().items()}, path / "sam.safetensors"
    )
    overlay = folder / "models.toml"
    overlay.write_text(CATALOG.format(path=path, identity=catalog.identity(path)))
    return catalog.load(overlay)


def package_model(folder: Path) -> torch.nn.Module:
    """The same model as the package makes it, with its own attention."""
    own = sam_model_registry["vit_b"]()
    own.load_state_dict(load_file(folder / "model" / "sam.safetensors"))
    return own.eval()


def write_rows(folder: Path, pictures: int, edits: int) -> Path:
    """A shuffled CSV: `edits` points in each of `pictures` photographs."""
    rng, lines = np.random.default_rng(5), []
    for i in range(pictures):
        pixels = photo(i)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=1)
        height, width = pixels.shape[:2]
        lines += [f'{i}.png,"{rng.integers(width)},{rng.integers(height)}"' for _ in range(edits)]
    rng.shuffle(lines)
    path = folder / "points.csv"
    path.write_text("image,points\n" + "\n".join(lines) + "\n")
    return path


def planned(path: Path, models: catalog.Catalog) -> Iterator[list[Item]]:
    """The shards' items, as a worker reads them."""
    known, options = settings.load(), ReadOptions()
    report = rows.check(path, options, models, known)
    if report.fault_count:
        raise SystemExit(f"{path}: {report.faults[0]}")
    good = [row for row in rows.read(path, options, models, known, report) if not isinstance(row, rows.Rejected)]
    rows_per_shard = plan.shard_rows(report.rows, known.shard_rows, known.batch_images)
    for shard in plan.shards(order.by_image(good), rows_per_shard, most_of_a_group=known.shard_rows):
        yield batches.items(Row.model_validate(json.loads(row.text)) for row in shard.rows)


def prepare(shards: Sequence[list[Item]], models: Models, folder: Path) -> float:
    """Seconds for all masks of all shards."""
    preparation = Preparation(Folder(_by_name(shards, folder)), models)
    start = time.perf_counter()
    for shard in shards:
        for i in range(0, len(shard), BATCH):
            preparation.prepare(shard[i : i + BATCH])
    return time.perf_counter() - start


def _by_name(shards: Sequence[list[Item]], folder: Path) -> dict[str, bytes]:
    items = (item for shard in shards for item in shard)
    return {item.job.image: (folder / item.row.cells["image"]).read_bytes() for item in items}


def baseline(sam: torch.nn.Module, item: Item, folder: Path) -> float:
    """Seconds for one row alone with the package's own predictor."""
    pixels = np.asarray(Image.open(folder / item.row.cells["image"]))
    predictor, start = SamPredictor(sam), time.perf_counter()
    predictor.set_image(pixels)
    predictor.predict(np.array(item.job.points, np.float32), np.array(item.job.point_labels), multimask_output=True)
    return time.perf_counter() - start
