"""The columns that a file may have, by all the names that users know, and what their cells may say."""

import re

from producer import edit_columns, sizes
from producer.cells import decimal, digits_hint, whole, whole_number, word
from producer.faults import BadCell, did_you_mean
from shared import embeddings as embeddings_
from shared import families, jobs, results, schedulers
from shared import post as post_
from shared.catalog import Catalog, Limits, Model
from shared.families import FAMILIES

# Canonical name (diffusers') -> what users of other tools call it. Case, spaces and dashes do not matter.
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("positive_prompt", "text"),
    "negative_prompt": ("negative",),
    "prompt_2": ("text_g", "positive_style_prompt"),
    "negative_prompt_2": ("negative_style_prompt",),
    "width": (),
    "height": (),
    "num_inference_steps": ("steps", "sd_steps"),
    "guidance_scale": ("cfg_scale", "cfg", "cfgs", "sd_guidance_scale"),
    "guidance_end": ("cfg_end",),
    "seed": ("noise_seed", "sd_seed"),
    "num_images_per_prompt": ("num_images", "batch_size", "n_iter", "iterations", "n"),
    "scheduler": ("sampler", "sampler_name", "sd_sampler"),
    "schedule_type": (),
    "model": ("sd_model_checkpoint", "ckpt_name", "checkpoint"),
    "vae": ("sd_vae", "vae_name"),
    "loras": ("lora", "lora_name"),
    "clip_skip": (),
    "hires_scale": ("hr_scale", "hires_upscale"),
    "hires_steps": ("hr_second_pass_steps",),
    "hires_strength": (),
    "refiner": ("refiner_checkpoint", "refiner_model"),
    "refiner_start": ("refiner_switch_at",),
    "safety_checker": (),
    "output_format": ("image_format", "format"),
    "quality": ("jpeg_quality",),
    "post": ("post_processing",),
    "filename": ("file_name",),
    "custom_id": (),
    "kind": (),
    **edit_columns.ALIASES,
}
NAMES = {name: column for column, aliases in ALIASES.items() for name in (column, *aliases)}
IN_TEXTS = ("embeddings",)  # said by words of the prompts, not by a column
OWN = ("prompt", "negative_prompt", "seed", "filename", "custom_id")  # differ from row to row, as do those of an edit
SETTINGS = tuple(column for column in ALIASES if column not in (*OWN, *edit_columns.OWN))
SHARED = (*SETTINGS, *IN_TEXTS)
UNIQUE = ("filename", "custom_id")  # no two rows may share a value
IGNORED = results.ERROR_COLUMNS  # of failed.csv, so that it can be produced as it is

MOST_NAME_CHARS = 128
MOST_LORAS = 8  # of a row
MOST_LORA_WEIGHT = 10
MOST_STEM_CHARS = 100  # of an input, in the name of what is made of it
_FILE_NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_WINDOWS = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
TAG = "<lora:"
_TAGS = re.compile(r"<lora:([^<>;]*)>")
_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic|jxl)$", re.IGNORECASE)
_SCHEDULES = ", ".join(f"_{name}" for name in schedulers.SCHEDULES)
_FORMATS: dict[str, jobs.OutputFormat] = {
    "png": "png",
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "webp": "webp",
    "tif": "tiff",
    "tiff": "tiff",
}


def seed(cell: str, images: int) -> int | None:
    """None: derived from the row. Image n uses seed + n, so the last one must still be a seed."""
    if cell in ("", "-1", "-1.0"):
        return None
    try:
        return whole(cell, 0, jobs.SEED_LIMIT - images)
    except BadCell as bad:
        raise BadCell(f"{bad.expected}, or -1 or an empty cell for a seed of the row's own", bad.hint) from bad


def size(cell: str, limits: Limits, model: str) -> int:
    """Width or height in pixels."""
    low, high = sizes.bounds(limits)
    expected = f"a multiple of {limits.multiple_of} from {low} to {high} (model {model!r})"
    if (value := whole_number(cell)) is None:
        raise BadCell(expected, digits_hint(cell))
    nearest = sizes.nearest(value, limits)
    if nearest != value:
        raise BadCell(expected, f"the nearest size is {nearest}")
    return value


def model(cell: str, catalog: Catalog, column: str = "model") -> Model:
    fitting, other = catalog.of(column), catalog.models.get(cell)
    if cell not in fitting:
        hint = f"{cell!r} is {FAMILIES[other.family].title}" if other else did_you_mean(cell, fitting)
        raise BadCell("one of " + (", ".join(sorted(fitting)) or "none"), hint)
    return fitting[cell]


def added(cell: str, catalog: Catalog, column: str, to: Model) -> Model:
    """What goes with a model: an autoencoder or a LoRA of its base."""
    found = model(cell, catalog, column)
    base = families.base_of(to.family)
    if found.base not in (None, base):
        raise BadCell(f"one that goes with {base}, as model {to.name!r} does", f"{cell!r} goes with {found.base}")
    return found


def loras(cell: str, catalog: Catalog, to: Model) -> tuple[jobs.Lora, ...]:
    """`name:weight;name`; without a weight, 1."""
    found: dict[str, float] = {}
    for part in filter(None, map(str.strip, cell.split(";"))):
        name, colon, weight = (each.strip() for each in part.partition(":"))
        name = added(name, catalog, "loras", to).name
        if name in found:
            raise BadCell("each LoRA once", found=f"{name} twice")
        found[name] = decimal(weight, -MOST_LORA_WEIGHT, MOST_LORA_WEIGHT) if colon else 1.0
    if len(found) > MOST_LORAS:
        raise BadCell(f"at most {MOST_LORAS} LoRAs", found=f"{len(found)} LoRAs")
    return tuple(found.items())


def embeddings(cell: str, catalog: Catalog, to: Model) -> tuple[str, ...]:
    """Names in the row's texts, as shared.embeddings finds them: those that go with the model stand for a textual
    inversion, the others stay words, unless their prefix insists."""
    known, base = catalog.of("embeddings"), families.base_of(to.family)
    found = set()
    for said in cell.split(";"):
        name = said.removeprefix(embeddings_.PREFIX)
        if name not in known:
            raise BadCell("one of " + (", ".join(sorted(known)) or "none"), did_you_mean(name, known), found=repr(said))
        if known[name].base in (None, base):
            found.add(name)
        elif name != said:
            raise BadCell(f"one that goes with {base}", f"{name!r} goes with {known[name].base}", found=repr(said))
    return tuple(sorted(found))


def without_tags(prompt: str) -> tuple[str, str]:
    """A prompt without its LoRAs as A1111 writes them, and those as the column `loras` does."""
    tags = ";".join(found[1] for found in _TAGS.finditer(prompt))
    return " ".join(part for piece in _TAGS.split(prompt)[::2] if (part := piece.strip())), tags


def scheduler(cell: str) -> str:
    """The key in SCHEDULERS for a sampler's name."""
    found = schedulers.canonical(cell)
    if found is None:
        expected = f"one of {', '.join(schedulers.SAMPLERS)}, with or without one of {_SCHEDULES}"
        raise BadCell(expected, _scheduler_hint(schedulers.plain(cell)))
    return found


def _scheduler_hint(name: str) -> str:
    if name in schedulers.WITHOUT_COUNTERPART:
        return "diffusers has none like it; dpmpp_2m_karras is a good choice of few steps"
    return did_you_mean(name, [*schedulers.SCHEDULERS, *schedulers.SPELLINGS])


def schedule_type(cell: str, sampler: str) -> str:
    """The key in SCHEDULERS for that sampler with this schedule type."""
    found = schedulers.canonical(sampler, cell)
    if found is None:
        types = schedulers.schedule_types(sampler)
        raise BadCell(f"one of {', '.join(types)} (scheduler {sampler!r})", did_you_mean(schedulers.plain(cell), types))
    return found


def output_format(cell: str) -> jobs.OutputFormat:
    if cell.lower() not in _FORMATS:
        raise BadCell("one of png, jpeg, webp, tiff", did_you_mean(cell, _FORMATS))
    return _FORMATS[cell.lower()]


def post(cell: str) -> tuple[str, ...]:
    """Steps separated by semicolons, in their shortest spelling: `Brightness: 1.10` is `brightness:1.1`."""
    steps = tuple(_post_step(step) for step in cell.lower().split(";") if step.strip())
    if len(steps) > post_.MOST_STEPS:
        raise BadCell(f"at most {post_.MOST_STEPS} steps", found=f"{len(steps)} steps")
    if sum(step.startswith("upscale") for step in steps) > 1:
        raise BadCell("one upscale at most", "upscale:4 is the most")
    return steps


def _post_step(step: str) -> str:
    name, colon, amount = (part.strip() for part in step.partition(":"))
    if name not in post_.STEPS:
        raise BadCell(
            "steps such as 'autocontrast;sharpen:0.5' of " + ", ".join(post_.STEPS), did_you_mean(name, post_.STEPS)
        )
    limits = post_.STEPS[name]
    if limits is None:
        if colon:
            raise BadCell(f"{name} without a number")
        return name
    low, high = limits
    try:
        value = whole(amount, int(low), int(high)) if name in post_.WHOLE else decimal(amount, low, high)
    except BadCell as bad:
        raise BadCell(f"{name}: and {bad.expected}", bad.hint) from bad
    return f"{name}:{value:g}"


def kind(cell: str) -> str:
    return word(cell, {name: name for name in jobs.KINDS})


def filename(cell: str, made_format: str) -> str | None:
    """A name for the picture, without suffix; None: pixelmill names it."""
    if not cell:
        return None
    suffix = _IMAGE_SUFFIX.search(cell)
    if suffix and _FORMATS.get(suffix[1].lower()) != made_format:
        raise BadCell(f"no suffix or {jobs.SUFFIXES[made_format]!r}", f"the row's output_format is {made_format}")
    stem = cell[: suffix.start()] if suffix else cell
    if not _FILE_NAME.fullmatch(stem) or ".." in stem:
        raise BadCell("letters, digits, '.', '_' and '-' only", _name_hint(stem))
    if len(stem) > MOST_NAME_CHARS:
        raise BadCell(f"at most {MOST_NAME_CHARS} characters")
    if _WINDOWS.match(stem):
        raise BadCell("a name that every system can store", "Windows reserves this name for a device")
    return stem


def _name_hint(stem: str) -> str:
    if "/" in stem or "\\" in stem or re.match(r"[A-Za-z]:", stem):
        return "give a name without folders"
    if stem.startswith(".") or stem.endswith(".") or ".." in stem:
        return "no dot at the beginning or the end, and no two dots in a row"
    return ""


def name_after(stem: str, row: int) -> str:
    """The name of what is made of an input: its own, made safe, and the row's number. No safe stem ends like a number
    that is added to a name, so that numbered images and masks of two rows never share one."""
    safe = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)).strip("-.")[:MOST_STEM_CHARS] or "image"
    safe = re.sub(r"-([0-9]+)$", r"_\1", safe)
    return f"{'_' if _WINDOWS.match(safe) else ''}{safe}-{row}"


def custom_id(cell: str) -> str | None:
    if not cell:
        return None
    if len(cell) > MOST_NAME_CHARS or not cell.isprintable():
        raise BadCell(f"at most {MOST_NAME_CHARS} printable characters")
    return cell
