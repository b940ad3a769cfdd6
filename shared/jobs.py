"""A job is a frozen value of plain JSON: everything that decides the pixels of one row, and nothing else."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
SEED_LIMIT = 2**32  # seeds are the first 32 bits of a hash, or what the row says
MOST_STEPS = 1000
MOST_GUIDANCE = 100
QUALITY = 95
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}

OutputFormat = Literal["png", "jpeg", "webp"]


class Txt2Img(BaseModel):
    """Text to image, fully resolved; the names are those of diffusers' StableDiffusionPipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["txt2img"] = "txt2img"
    model: str
    prompt: str
    negative_prompt: str = ""
    width: Annotated[int, Field(ge=8)]  # pixels
    height: Annotated[int, Field(ge=8)]  # pixels
    num_inference_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    guidance_scale: Annotated[float, Field(ge=0, le=MOST_GUIDANCE, allow_inf_nan=False)]
    scheduler: str  # a key of shared.schedulers.SCHEDULERS
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)]  # image n of the row uses seed + n
    num_images_per_prompt: Annotated[int, Field(ge=1)] = 1
    output_format: OutputFormat = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = QUALITY  # JPEG and WebP; 100 is lossless WebP
    post: tuple[str, ...] = ()  # steps of shared.post, in order


Job = Txt2Img


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


def canonical_json(value: dict[str, Any]) -> str:
    """Sorted keys, no spaces, UTF-8 as it is: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def job_id(job: dict[str, Any], model_identity: str) -> str:
    """SHA-256 (hex) over the canonical JSON of the resolved job and its model's identity."""
    text = canonical_json({**job, "model_identity": model_identity})
    return hashlib.sha256(text.encode()).hexdigest()


def derived_seed(salt: str, row: int, prompt: str) -> int:
    """The seed of a row that names none: the same file makes the same pictures, another salt a new series."""
    digest = hashlib.sha256(f"{salt}\n{row}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def batch_key(job: Job) -> tuple[Any, ...]:
    """What must be equal between the rows of a shard; prompt, seed and guidance may differ."""
    guided = job.guidance_scale > 1
    return (job.kind, job.model, job.width, job.height, job.num_inference_steps, job.scheduler, guided)


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
