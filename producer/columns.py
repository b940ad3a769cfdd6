"""The columns that a file may have, by all the names that users know, and what their cells may say."""

import re
from math import ceil
from typing import Literal

from producer.faults import BadCell, did_you_mean
from shared import jobs, results, schedulers
from shared import post as post_
from shared.catalog import Catalog, Limits, Model

# Canonical name (diffusers') -> what users of other tools call it. Case, spaces and dashes do not matter.
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("positive_prompt", "text"),
    "negative_prompt": ("negative",),
    "width": (),
    "height": (),
    "num_inference_steps": ("steps", "sd_steps"),
    "guidance_scale": ("cfg_scale", "cfg", "cfgs", "sd_guidance_scale"),
    "seed": ("noise_seed", "sd_seed"),
    "num_images_per_prompt": ("num_images", "batch_size", "n_iter", "iterations", "n"),
    "scheduler": ("sampler", "sampler_name", "sd_sampler"),
    "schedule_type": (),
    "model": ("sd_model_checkpoint", "ckpt_name", "checkpoint"),
    "output_format": ("image_format", "format"),
    "quality": ("jpeg_quality",),
    "post": ("post_processing",),
    "filename": ("file_name",),
    "custom_id": (),
    "kind": (),
}
NAMES = {name: column for column, aliases in ALIASES.items() for name in (column, *aliases)}
OWN = ("prompt", "negative_prompt", "seed", "filename", "custom_id")  # differ from row to row; all others are settings
SETTINGS = tuple(column for column in ALIASES if column not in OWN)
UNIQUE = ("filename", "custom_id")  # no two rows may share a value
IGNORED = results.ERROR_COLUMNS  # of failed.csv, so that it can be produced as it is

MOST_NAME_CHARS = 128
_WHOLE = re.compile(r"(-?[0-9]{1,20})(?:\.0*)?")
_DECIMAL = re.compile(r"-?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and line ends
_SURROGATE = re.compile("[\ud800-\udfff]")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_WINDOWS = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic|jxl)$", re.IGNORECASE)
_FORMATS: dict[str, jobs.OutputFormat] = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}


def plain(header: str) -> str:
    """A header in the spelling of NAMES: `CFG scale`, `cfg-scale` and `cfg_scale` are one."""
    return re.sub(r"[\s_-]+", "_", header.strip().lower())


def text(cell: str, most_chars: int) -> str:
    """Prompt text, exactly as written."""
    if cell.isprintable() and 0 < len(cell) <= most_chars and not cell.isspace():
        return cell
    if not cell.strip():
        raise BadCell("a text that says what the picture shows")
    if len(cell) > most_chars:
        raise BadCell(f"at most {most_chars:,} characters", found=f"{len(cell):,} characters")
    if bad := _CONTROL.search(cell):
        raise BadCell("text without control characters", f"remove U+{ord(bad[0]):04X} at character {bad.start() + 1}")
    if bad := _SURROGATE.search(cell):
        raise BadCell("whole Unicode characters", f"remove U+{ord(bad[0]):04X} at character {bad.start() + 1}")
    return cell


def whole(cell: str, low: int, high: int) -> int:
    expected = f"a whole number from {low} to {high}"
    if not (number := _WHOLE.fullmatch(cell)):
        raise BadCell(expected, _digits_hint(cell))
    if not low <= (value := int(number[1])) <= high:
        raise BadCell(expected)
    return value


def decimal(cell: str, low: float, high: float) -> float:
    expected = f"a number from {low} to {high}"
    if not _DECIMAL.fullmatch(cell):
        raise BadCell(expected, _digits_hint(cell))
    if not low <= (value := float(cell)) <= high:
        raise BadCell(expected)
    return value


def _digits_hint(cell: str) -> str:
    if "," in cell and re.fullmatch(r"-?[0-9,.]+", cell):
        return "write digits and a decimal point only, no comma"
    if re.fullmatch(r"[0-9.]+e[+-]?[0-9]+", cell, re.IGNORECASE):
        return "write the digits out"
    return ""


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
    step = limits.multiple_of
    low, high = ceil(limits.min_size / step) * step, limits.max_size // step * step
    expected = f"a multiple of {step} from {low} to {high} (model {model!r})"
    if not (number := _WHOLE.fullmatch(cell)):
        raise BadCell(expected, _digits_hint(cell))
    value = int(number[1])
    if low <= value <= high and value % step == 0:
        return value
    raise BadCell(expected, f"the nearest size is {min(max(round(value / step) * step, low), high)}")


def model(cell: str, catalog: Catalog) -> Model:
    if cell not in catalog.models:
        raise BadCell("one of " + ", ".join(sorted(catalog.models)), did_you_mean(cell, catalog.models))
    return catalog.models[cell]


def scheduler(cell: str) -> str:
    """The key in SCHEDULERS for a sampler's name."""
    found = schedulers.canonical(cell)
    if found is None:
        names = [*schedulers.SCHEDULERS, *schedulers.ALIASES]
        raise BadCell("one of " + ", ".join(schedulers.SCHEDULERS), did_you_mean(schedulers.plain(cell), names))
    return found


def schedule_type(cell: str, sampler: str) -> str:
    """The key in SCHEDULERS for that sampler with this schedule type."""
    found = schedulers.canonical(sampler, cell)
    if found is None:
        types = ["automatic", "karras"] if f"{sampler}_karras" in schedulers.SCHEDULERS else ["automatic"]
        raise BadCell(f"{' or '.join(types)} (scheduler {sampler!r})", did_you_mean(cell, types))
    return found


def output_format(cell: str) -> jobs.OutputFormat:
    if cell.lower() not in _FORMATS:
        raise BadCell("one of png, jpeg, webp", did_you_mean(cell, _FORMATS))
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


def kind(cell: str) -> Literal["txt2img"]:
    if cell.lower() != "txt2img":
        raise BadCell("txt2img", did_you_mean(cell, ["txt2img"]) or "pixelmill makes no other kind yet")
    return "txt2img"


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


def custom_id(cell: str) -> str | None:
    if not cell:
        return None
    if len(cell) > MOST_NAME_CHARS or not cell.isprintable():
        raise BadCell(f"at most {MOST_NAME_CHARS} printable characters")
    return cell
