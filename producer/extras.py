"""What a row asks for beside its model's own: other parts, other texts, a second pass, a refiner."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from producer import columns
from producer.cells import decimal, text, whole
from producer.faults import BadCell
from producer.template import Cells
from shared import embeddings, families, jobs
from shared.catalog import Catalog, Limits, Model
from shared.settings import Settings

STEPS = "num_inference_steps"
NO_LORAS: tuple[jobs.Lora, ...] = ()
LEAST_GUIDED = 0.01  # of the steps; a row without guidance says guidance_scale 1
SECOND = ("prompt_2", "negative_prompt_2")
HIRES_STRENGTH = jobs.Txt2Img.model_fields["hires_strength"].default
REFINER_START = jobs.Txt2Img.model_fields["refiner_start"].default


def beside(reading: Cells, catalog: Catalog, model: Model, settings: Settings) -> dict[str, Any]:
    """Fields of the job: what is put onto the model, what its second encoder reads, who looks at the picture."""
    vae = reading.get("vae", None, columns.added, catalog, "vae", model)
    checker = reading.get("safety_checker", None, columns.model, catalog, "safety_checker")
    second = {column: _second(reading, column, model, settings.max_prompt_chars) for column in SECOND}
    return {
        "vae": vae.name if vae else "",
        "loras": reading.get("loras", NO_LORAS, columns.loras, catalog, model),
        **second,
        "embeddings": _embeddings(reading, catalog, model, second.values()),
        "guidance_end": reading.get("guidance_end", 1.0, decimal, LEAST_GUIDED, 1),
        "clip_skip": reading.get("clip_skip", 0, whole, 0, jobs.MOST_CLIP_SKIP),
        "safety_checker": checker.name if checker else "",
    }


def _second(reading: Cells, column: str, model: Model, most_chars: int) -> str:
    """A text for the second text encoder, where there is one."""
    cell = reading.cells.get(column, "")
    if cell and families.base_of(model.family) != "sdxl":
        reading.useless(column, cell, f"because model {model.name!r} has one text encoder")
    return reading.get(column, "", text, most_chars)


def _embeddings(reading: Cells, catalog: Catalog, model: Model, texts: Iterable[str]) -> tuple[str, ...]:
    """What the row's texts name: those of its own are in a cell, those that rows share are looked through here."""
    named = embeddings.finder(catalog.of("embeddings").keys())("\n".join(texts))
    cell = ";".join(filter(None, (reading.cells.get("embeddings", ""), *named)))
    return reading.read("embeddings", (), columns.embeddings, cell, catalog, model) if cell else ()


def hires(reading: Cells, values: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Fields of a second pass, where the row asks for one. `values`: of the first."""
    scale = reading.get("hires_scale", 1.0, decimal, 1, jobs.MOST_HIRES)
    if scale == 1:
        return {}
    steps = reading.get("hires_steps", values[STEPS], whole, 1, jobs.MOST_STEPS)
    strength = reading.get("hires_strength", HIRES_STRENGTH, decimal, 0, 1)
    if int(steps * strength) < 1:
        reading.refuse("hires_strength", reading.cells.get("hires_strength", ""), too_weak(steps))
    beyond = limits.model_copy(update={"max_size": 2 * limits.max_size})  # what it is for
    for side in {jobs.scaled(values[name], scale) for name in ("width", "height")}:
        reading.read("hires_scale", 0, columns.size, str(side), beyond, values["model"])
    return {"hires_scale": scale, "hires_steps": steps, "hires_strength": strength}


def refined(reading: Cells, values: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Fields of a refiner, where the row names one. `values`: of the job without it."""
    refiner = reading.get("refiner", None, columns.model, catalog, "refiner")
    if refiner is None:
        return {}
    if families.base_of(catalog.models[values["model"]].family) != "sdxl":
        why = f"because model {values['model']!r} is none of Stable Diffusion XL"
        reading.useless("refiner", reading.cells["refiner"], why)
    if values["guidance_end"] < 1:
        reading.useless("guidance_end", reading.cells["guidance_end"], "because with a refiner all steps are guided")
    start, steps = reading.get("refiner_start", REFINER_START, decimal, 0.01, 0.99), values[STEPS]
    if steps < 2:
        reading.refuse(STEPS, reading.cells.get(STEPS, ""), BadCell("2 steps at least, because of the refiner"))
    elif int(steps * start) < 1:
        least = math.ceil(100 / steps) / 100
        bad = BadCell(f"a share of which {steps} steps leave the model itself one at least: from {least}")
        reading.refuse("refiner_start", reading.cells.get("refiner_start", ""), bad)
    return {"refiner": refiner.name, "refiner_start": start}


def too_weak(steps: int) -> BadCell:
    """A strength that changes a picture in no step does not change it at all."""
    return BadCell(f"a strength of which {steps} steps leave one at least: from {1 / steps:.3g}")
