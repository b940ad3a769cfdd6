"""A job is a frozen value of plain JSON: everything that decides the pixels of one row, and nothing else."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 5
SEED_LIMIT = 2**32  # seeds are the first 32 bits of a hash, or what the row says
MOST_STEPS = 1000
MOST_GUIDANCE = 100
MOST_HIRES = 4  # times the size
LATENT = 8  # pixels on each side of a latent's place
MOST_CLIP_SKIP = 11  # the first text encoder has 12 layers
QUALITY = 95
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}

OutputFormat = Literal["png", "jpeg", "webp", "tiff"]
MaskedContent = Literal["original", "fill", "latent_noise", "latent_nothing"]
Action = Literal["replace_background", "replace_object", "remove_object"]
Pixels = Annotated[int, Field(ge=0, le=1 << 16)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Lora = tuple[str, float]  # a model of the catalog, and its weight
Point = tuple[float, float]  # x, y in pixels of the upright input
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the upright input
MOST_AREA = 1 << 30  # pixels
ALPHA = "alpha"  # as mask_image: the input's own transparency, repainted where it is transparent


class _Output(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    output_format: OutputFormat = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = QUALITY  # JPEG and WebP; 100 is lossless WebP
    width: Annotated[int, Field(ge=8)]  # pixels
    height: Annotated[int, Field(ge=8)]  # pixels


class _Diffusion(_Output):
    """What every call of Stable Diffusion needs; width and height are those that the model works at."""

    model: str
    prompt: str = ""
    negative_prompt: str = ""
    prompt_2: str = ""  # of the second text encoder of Stable Diffusion XL; empty: the prompt
    negative_prompt_2: str = ""
    num_inference_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    guidance_scale: Annotated[float, Field(ge=0, le=MOST_GUIDANCE, allow_inf_nan=False)]
    guidance_end: Annotated[float, Field(gt=0, le=1)] = 1.0  # the share of the steps that are guided
    scheduler: str  # a key of shared.schedulers.SCHEDULERS
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)]  # image n of the row uses seed + n
    num_images_per_prompt: Annotated[int, Field(ge=1)] = 1
    post: tuple[str, ...] = ()  # steps of shared.post, in order; in edits inside the mask
    vae: str = ""  # an autoencoder in the place of the model's own
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[str, ...] = ()  # textual inversions that its texts name
    safety_checker: str = ""  # a model that holds pictures back; empty: none does
    clip_skip: Annotated[int, Field(ge=0, le=MOST_CLIP_SKIP)] = 0  # last layers of the text encoder that are left out


class Txt2Img(_Diffusion):
    """Text to image, fully resolved; the names are those of diffusers' StableDiffusionPipeline."""

    kind: Literal["txt2img"] = "txt2img"
    hires_scale: Annotated[float, Field(ge=1, le=MOST_HIRES, allow_inf_nan=False)] = 1.0  # above 1: drawn on, larger
    hires_steps: Annotated[int, Field(ge=0, le=MOST_STEPS)] = 0  # 0: no second pass
    hires_strength: Share = 0.7
    refiner: str = ""  # a model that ends what the job's model begins; empty: none does
    refiner_start: Annotated[float, Field(gt=0, lt=1)] = 0.8  # how much of the noise is gone then, by training steps


class Img2Img(_Diffusion):
    """The whole input drawn anew; the picture has the size that the model works at."""

    kind: Literal["img2img"] = "img2img"
    image: str  # `inputs/<sha256>.<suffix>`, or `s3://bucket/key#etag`: the name stands for the content
    strength: Share = 0.8


class _Masked(_Diffusion):
    """Only what the mask covers is drawn anew; the picture has the input's size."""

    image: str
    strength: Share = 1.0
    mask_blur: Pixels = 4  # width of the soft edge
    masked_content: MaskedContent = "original"


class _Grown(_Masked):
    mask_grow: Annotated[int, Field(ge=-4096, le=4096)] = 0  # pixels; negative: shrink
    on_empty: Literal["fail", "keep"] = "fail"  # an empty mask: the row fails, or its input is stored unchanged
    padding_mask_crop: Pixels | None = None  # work on the mask's surroundings only, this much wider


class Inpaint(_Grown):
    kind: Literal["inpaint"] = "inpaint"
    mask_image: str  # a stored input's name, or ALPHA; white is drawn anew
    mask_invert: bool = False


class Outpaint(_Masked):
    kind: Literal["outpaint"] = "outpaint"
    expand_left: Pixels = 0
    expand_right: Pixels = 0
    expand_top: Pixels = 0
    expand_bottom: Pixels = 0
    overlap: Pixels = 8  # how far the new part reaches into the input, to hide the seam
    masked_content: MaskedContent = "fill"


class _Selector(BaseModel):
    """What Segment Anything is asked for: points with labels, a box, or a phrase."""

    mask_model: str
    mask_text_model: str = ""  # where there is a phrase
    points: tuple[Point, ...] = ()
    point_labels: tuple[Literal[0, 1], ...] = ()  # 1: in the object, 0: outside
    box: Box | None = None
    mask_text: str = ""
    text_threshold: Share = 0.5  # how sure the phrase's model must be of a pixel
    mask_regions: Literal["union", "best"] = "union"  # of several places that the phrase names
    multimask: Literal["best", "largest", "all"] = "best"  # of the masks that Segment Anything offers
    # Smaller holes are filled, smaller islands dropped; pixels.
    min_mask_region_area: Annotated[int, Field(ge=0, le=MOST_AREA)] = 32


class Segment(_Output, _Selector):
    """Masks only; width and height are those of the upright input."""

    kind: Literal["segment"] = "segment"
    image: str
    auto: bool = False  # everything, instead of a selection
    points_per_side: Annotated[int, Field(ge=1, le=256)] = 32
    pred_iou_thresh: Share = 0.88
    stability_score_thresh: Share = 0.95
    num_images_per_prompt: Literal[1] = 1


class MaskEdit(_Grown, _Selector):
    """A selection, and what becomes of it."""

    kind: Literal["mask_edit"] = "mask_edit"
    action: Action


# What an empty cell means where the action says more than the fields' own defaults; the strength of remove_object is
# the model's `remove_strength`.
ACTION_DEFAULTS: dict[str, dict[str, Any]] = {
    "replace_background": {"mask_grow": -2, "mask_blur": 2},  # the soft edge ends where the object begins
    "replace_object": {"mask_grow": 4},
    "remove_object": {"mask_grow": 4, "masked_content": "fill"},
}
Generation = Txt2Img | Img2Img | Inpaint | Outpaint | MaskEdit
Masked = Inpaint | Outpaint | MaskEdit
Selection = Segment | MaskEdit
Job = Annotated[Txt2Img | Img2Img | Inpaint | Outpaint | Segment | MaskEdit, Field(discriminator="kind")]
KINDS: dict[str, type[BaseModel]] = {
    kind.model_fields["kind"].default: kind for kind in (Txt2Img, Img2Img, Inpaint, Outpaint, Segment, MaskEdit)
}


class Row(BaseModel):
    """One line of a job part: a row of the user's file beside the job it resolved to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: int  # 1 = the first data row
    line: int  # physical line in the file, where the row begins
    cells: dict[str, str]  # as the user wrote them
    job: Job
    job_id: str
    filename: str | None = None  # without suffix
    custom_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)  # columns that pixelmill does not know
    # Of a picture that is made again: it runs alone, repeated until the model call has so many images.
    batch_images: Annotated[int, Field(ge=1)] | None = None
    memory: tuple[str, ...] = ()  # with it, what that call saved memory with


def canonical_json(value: dict[str, Any]) -> str:
    """Sorted keys, no spaces, UTF-8 as it is: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def job_id(job: dict[str, Any], identities: Mapping[str, str]) -> str:
    """SHA-256 (hex) over the canonical JSON of the resolved job and its models' identities, by the job's field."""
    text = canonical_json({**job, **identity_fields(identities)})
    return hashlib.sha256(text.encode()).hexdigest()


def identity_fields(identities: Mapping[str, str]) -> dict[str, str]:
    """Sorted, they stand before a row's own values, from `negative_prompt` on: what comes after those is no part of
    them (producer.template relies on it)."""
    return {f"identity_{role}": identity for role, identity in identities.items()}


def models(job: Job) -> dict[str, str]:
    """The models that a job needs, by the field that names them; the first one makes the picture."""
    roles = ("model", "vae", "mask_model", "mask_text_model", "safety_checker", "refiner")
    named = {role: name for role in roles if (name := getattr(job, role, ""))}
    named |= {f"lora_{i}": name for i, (name, _) in enumerate(getattr(job, "loras", ()))}
    return named | {f"embedding_{i}": name for i, name in enumerate(getattr(job, "embeddings", ()))}


def models_text(names: Iterable[str]) -> str:
    """Several models in one word, as shards and the ledger name what a job needs; `split_models` undoes it."""
    return "+".join(names)  # no model's name can hold a plus


def split_models(text: str) -> list[str]:
    return text.split("+")


def inputs(job: Job) -> list[str]:
    """The stored pictures that a job reads."""
    names = (getattr(job, "image", ""), getattr(job, "mask_image", ""))
    return [name for name in names if name not in ("", ALPHA)]


def derived_seed(salt: str, row: int, prompt: str) -> int:
    """The seed of a row that names none: the same file makes the same pictures, another salt a new series."""
    digest = hashlib.sha256(f"{salt}\n{row}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def batch_key(job: Job) -> tuple[Any, ...]:
    """What must be equal between the rows of a shard; prompt, seed and guidance may differ."""
    if isinstance(job, Segment):
        return (job.kind, *models(job).values(), job.auto)
    guided = job.guidance_scale > 1
    common: tuple[Any, ...] = (
        job.kind,
        job.model,
        job.width,
        job.height,
        job.num_inference_steps,
        job.scheduler,
        guided,
    )
    common += (job.guidance_end, job.vae, job.loras, job.embeddings, job.clip_skip, job.safety_checker)
    if isinstance(job, Txt2Img):
        return (*common, job.hires_scale, job.hires_steps, job.hires_strength, job.refiner, job.refiner_start)
    if isinstance(job, Img2Img):
        return (*common, job.strength)
    return (*common, job.strength, job.masked_content, *models(job).values())


def scaled(side: int, scale: float) -> int:
    """Width or height of a second pass, as near as latents allow; pixels."""
    return round(side * scale / LATENT) * LATENT


def image_names(row: Row) -> list[str]:
    """File names of a row's images, in order: the row's own name, else row, number and identity."""
    job = row.job
    if row.filename is not None:
        return own_names(row.filename, job.output_format, job.num_images_per_prompt)
    suffix = SUFFIXES[job.output_format]
    return [f"{row.row:07d}-{n}-{row.job_id[:12]}{suffix}" for n in range(job.num_images_per_prompt)]


def own_names(filename: str, output_format: OutputFormat, images: int) -> list[str]:
    """File names of a row that gives its own: with a number where there is more than one image."""
    suffix = SUFFIXES[output_format]
    return [filename + suffix] if images == 1 else [f"{filename}-{n}{suffix}" for n in range(images)]
