"""How often a text encoder runs: once for each distinct text, however many rows have it."""

import itertools
import random
from pathlib import Path

import torch

from bench import demo, prompts
from bench.site import Site
from bench.table import Line, Part
from producer import rows
from producer.rows import ReadOptions
from shared import catalog, jobs
from shared.settings import Settings
from workers import batches
from workers.loaded import Loaded
from workers.models import Models

ROWS = 512
PROMPTS = 48


def measure(site: Site) -> Part:
    """Rows as `produce` reads them, through the texts of the demo model as a worker asks for them, batch by batch."""
    entry = demo.model()
    known = catalog.Catalog(defaults={"model": entry.name}, models={entry.name: entry})
    model: Loaded = Models(known, torch.device("cpu"), 1 << 40).get(entry.name)
    wanted = batches.items(_rows(site.folder / "texts.csv", known))
    for start in range(0, len(wanted), demo.BATCH):
        model.texts.arguments([item.job for item in wanted[start : start + demo.BATCH]])
    ran = model.texts.encoded
    distinct = len({item.job.prompt for item in wanted}) + 1  # and the negative prompt, which says nothing
    line = Line("text encoder runs / distinct texts", str(ran), str(distinct), ran / distinct, "x", 1.0, at_least=False)
    return Part([line], [f"{ROWS} rows of {PROMPTS} prompts and one negative prompt"])


def _rows(path: Path, known: catalog.Catalog) -> list[jobs.Row]:
    texts = list(itertools.islice(prompts.texts(random.Random(5)), PROMPTS))
    path.write_text("prompt\n" + "".join(f"{random.Random(n).choice(texts)}\n" for n in range(ROWS)))
    options, settings = ReadOptions(), Settings()
    report = rows.check(path, options, known, settings)
    found = rows.read(path, options, known, settings, report)
    return [jobs.Row.model_validate_json(entry.text) for entry in found]
