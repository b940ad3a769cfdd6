"""Pixels to bytes and back, and what is written into every picture: its job and its model, nothing else.

Two dialects of metadata: the `parameters` text of A1111's webui, which other tools read, and our own JSON under the key
`pixelmill`. Neither holds a time, a host or a run, so that equal jobs give equal bytes.
"""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import EXTRASAMPLES, PHOTOMETRIC_INTERPRETATION, ImageFileDirectory_v2

from shared.jobs import Generation, Inpaint, Job, Masked, Outpaint, Segment, Txt2Img, canonical_json
from shared.schedulers import SCHEDULERS

Pixels = NDArray[np.uint8]
CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "tiff": "image/tiff"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FILTER_UP = 2
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by channels: gray, gray and alpha, RGB, RGB and alpha
DEFLATE, HORIZONTAL, STRAIGHT_ALPHA = 8, 2, 2  # TIFF's compression, predictor and extra sample
MOST_EXIF_BYTES = 65_000  # a JPEG segment has 65,533
NONE_ADDED: Mapping[str, str] = {}
ISAL_LEVEL = 1  # 512x512: 1.4 ms and 497 kB; zlib's default takes 41 ms for 428 kB (docs/decisions/0005)


@dataclass(frozen=True)
class Kept:
    """What an edit keeps of its input beside the pixels; `alpha` is HW, uint8, of the output's size."""

    alpha: Pixels | None = None
    gray: bool = False  # the output has one channel
    icc: bytes | None = None
    exif: bytes = b""  # with the prefix `Exif`


NOTHING = Kept()


def encode(pixels: Pixels, job: Job, texts: dict[str, str], *, kept: Kept | None = None) -> bytes:
    """A picture file of `pixels` (HWC, RGB, uint8 in [0, 255]) in the job's format, with `texts` and `kept` inside.

    JPEG has no alpha, which is dropped; WebP has no gray, which is stored as RGB.
    """
    kept = kept or NOTHING
    raster = _raster(pixels, kept)
    if job.output_format == "png":
        return _png(raster, texts, kept)
    if job.output_format == "tiff":
        return _tiff(raster, texts, kept)
    file = io.BytesIO()
    if job.output_format == "jpeg":
        colors = raster[..., 0] if kept.gray else raster[..., :3]
        more: dict[str, Any] = {"subsampling": 0 if job.quality >= 90 else -1} if not kept.gray else {}
        exif = _jpeg_exif(texts, kept.exif)
        Image.fromarray(colors).save(file, "JPEG", quality=job.quality, exif=exif, icc_profile=kept.icc, **more)
    else:
        image = Image.fromarray(raster[..., 0] if raster.shape[2] == 1 else raster)
        lossless = job.quality == 100
        more = {"exact": True} if kept.alpha is not None else {}  # else RGB under alpha 0 is made black
        icc = None if _is_for_gray(kept.icc) else kept.icc
        exif = _exif(texts, kept.exif)
        image.save(file, "WEBP", quality=job.quality, lossless=lossless, exif=exif, method=4, icc_profile=icc, **more)
    return file.getvalue()


def encode_png(pixels: Pixels, texts: dict[str, str]) -> bytes:
    """A PNG of `pixels` (HWC, RGB, uint8): filter `up`, ISA-L deflate; texts as tEXt, or iTXt beyond Latin-1."""
    return _png(pixels, texts, NOTHING)


def decode(data: bytes) -> Pixels:
    """The picture's pixels: HWC, RGB, uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def texts(job: Job, n: int, model: str, identity: str, added: Mapping[str, str] = NONE_ADDED) -> dict[str, str]:
    """What image `n` of a job carries, by PNG key; masks have no `parameters`, for nothing was prompted.

    `added`: by their names, the identities of what the job names beside its model.
    """
    own = {"job": job.model_dump(), "n": n, "model": {"name": model, "identity": identity}}
    parameters = {} if isinstance(job, Segment) else {"parameters": infotext(job, n, model, identity, added)}
    return {**parameters, "pixelmill": canonical_json(own)}


def infotext(job: Generation, n: int, model: str, identity: str, added: Mapping[str, str] = NONE_ADDED) -> str:
    """A1111's `parameters` text; order and spelling as its `create_infotext` writes them."""
    scheduler = SCHEDULERS[job.scheduler]
    fields = {
        "Steps": job.num_inference_steps,
        "Sampler": scheduler.sampler,
        "Schedule type": scheduler.schedule_type,
        "CFG scale": f"{job.guidance_scale:g}",
        "Seed": job.seed + n,
        "Size": f"{job.width}x{job.height}",
        "Model hash": identity[:10],
        "Model": model,
        **({"VAE hash": added[job.vae][:10], "VAE": job.vae} if job.vae else {}),
        **({} if isinstance(job, Txt2Img) else {"Denoising strength": f"{job.strength:g}"}),
        **({"Clip skip": job.clip_skip + 1} if job.clip_skip else {}),  # there, 1 is none
        "RNG": "CPU",
        **(_hires_fields(job) if isinstance(job, Txt2Img) and job.hires_steps else {}),
        **(_refiner_fields(job, added) if isinstance(job, Txt2Img) and job.refiner else {}),
        **(_mask_fields(job) if isinstance(job, Masked) else {}),
        **_hashes("Lora", [name for name, _ in job.loras], added),
        **_hashes("TI", job.embeddings, added),
    }
    tags = "".join(f" <lora:{name}:{weight:g}>" for name, weight in job.loras)
    negative = f"\nNegative prompt: {job.negative_prompt}" if job.negative_prompt else ""
    return f"{job.prompt}{tags}{negative}\n" + ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items())


def _hashes(what: str, names: Sequence[str], added: Mapping[str, str]) -> dict[str, str]:
    return {f"{what} hashes": ", ".join(f"{name}: {added[name][:12]}" for name in names)} if names else {}


def _hires_fields(job: Txt2Img) -> dict[str, Any]:
    return {
        "Denoising strength": f"{job.hires_strength:g}",
        "Hires upscale": f"{job.hires_scale:g}",
        "Hires steps": job.hires_steps,
        "Hires upscaler": "Lanczos",
    }


def _refiner_fields(job: Txt2Img, added: Mapping[str, str]) -> dict[str, Any]:
    return {
        "Refiner": f"{job.refiner} [{added[job.refiner][:10]}]",
        "Refiner switch at": f"{job.refiner_start:g}",
    }


def _mask_fields(job: Masked) -> dict[str, Any]:
    """In the order in which A1111's img2img adds them; what it reads as default when absent is left out, as there."""
    fields: dict[str, Any] = {}
    if isinstance(job, Inpaint) and job.mask_invert:
        fields["Mask mode"] = "Inpaint not masked"
    if job.mask_blur:
        fields["Mask blur"] = job.mask_blur
    if not isinstance(job, Outpaint) and job.padding_mask_crop is not None:
        fields |= {"Inpaint area": "Only masked", "Masked area padding": job.padding_mask_crop}
    if job.masked_content != "original":
        fields["Masked content"] = job.masked_content.replace("_", " ")
    return fields


def read_texts(data: bytes) -> dict[str, str]:
    """The texts of a picture that `encode` made; empty if it has none."""
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG":
        return {key: str(value) for key, value in image.info.items() if key in ("parameters", "pixelmill")}
    exif = image.getexif()
    comment = exif.get_ifd(IFD.Exif).get(Base.UserComment, b"")
    own = exif.get(Base.ImageDescription)
    found = {"parameters": comment.removeprefix(b"UNICODE\0").decode("utf-16-be")} if comment else {}
    return {**found, **({"pixelmill": str(own)} if own else {})}


def sprite(tiles: list[Pixels], tile: int, per_line: int) -> bytes:
    """One WebP of small copies of pictures (each HWC, RGB, uint8), row by row, each fitted into tile x tile pixels."""
    lines = -(-len(tiles) // per_line)
    sheet = Image.new("RGB", (per_line * tile, lines * tile), (127, 127, 127))
    for index, pixels in enumerate(tiles):
        image = Image.fromarray(pixels)
        image.thumbnail((tile, tile), Image.Resampling.LANCZOS)
        corner = (index % per_line * tile, index // per_line * tile)
        sheet.paste(image, (corner[0] + (tile - image.width) // 2, corner[1] + (tile - image.height) // 2))
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=80, method=0)  # 0.4 % larger than with method 2, in half the time
    return file.getvalue()


def _raster(pixels: Pixels, kept: Kept) -> Pixels:
    """HWC, uint8: gray or RGB, then alpha if there is one. Equal channels give their own value as gray, exactly."""
    colors = np.asarray(Image.fromarray(pixels).convert("L"))[..., None] if kept.gray else pixels
    return colors if kept.alpha is None else np.dstack((colors, kept.alpha))


def _is_for_gray(icc: bytes | None) -> bool:
    return icc is not None and icc[16:20] == b"GRAY"  # the profile's data color space; not valid beside RGB


def _png(raster: Pixels, texts: dict[str, str], kept: Kept) -> bytes:
    height, width, channels = raster.shape
    lines = raster.reshape(height, width * channels)
    filtered = np.empty((height, 1 + width * channels), np.uint8)
    filtered[:, 0] = FILTER_UP
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0)  # 8 bits
    chunks = [_chunk(b"IHDR", header)]
    if kept.icc is not None:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + isal_zlib.compress(kept.icc, ISAL_LEVEL)))
    if kept.exif:
        own = _exif({}, kept.exif, description=True)  # without the comment: A1111 would read it before our text
        chunks.append(_chunk(b"eXIf", own.tobytes().removeprefix(b"Exif\0\0")))
    chunks += [_text_chunk(key, text) for key, text in texts.items()]
    chunks += [_chunk(b"IDAT", isal_zlib.compress(filtered.data, ISAL_LEVEL)), _chunk(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(chunks)


def _tiff(raster: Pixels, texts: dict[str, str], kept: Kept) -> bytes:
    """One strip, deflated. Not by PIL's `save`, which writes no EXIF directory into compressed TIFFs."""
    height, width, channels = raster.shape
    steps = raster.copy()
    steps[:, 1:] -= raster[:, :-1]
    strip = isal_zlib.compress(np.ascontiguousarray(steps).data, ISAL_LEVEL)
    exif = _exif(texts, kept.exif)
    tags: dict[int, Any] = {tag: value for tag, value in exif.items() if tag not in (IFD.Exif, IFD.GPSInfo)}
    tags |= {group: ifd for group in (IFD.Exif, IFD.GPSInfo) if (ifd := exif.get_ifd(group))}
    tags |= {
        Base.ImageWidth: width, Base.ImageLength: height, Base.BitsPerSample: (8,) * channels,
        Base.Compression: DEFLATE, PHOTOMETRIC_INTERPRETATION: 1 if channels < 3 else 2, Base.SamplesPerPixel: channels,
        Base.RowsPerStrip: height, Base.PlanarConfiguration: 1, Base.Predictor: HORIZONTAL,
        Base.StripOffsets: 0, Base.StripByteCounts: len(strip),
    }  # fmt: skip
    tags |= {EXTRASAMPLES: STRAIGHT_ALPHA} if kept.alpha is not None else {}
    tags |= {Base.InterColorProfile: kept.icc} if kept.icc is not None else {}
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    file = io.BytesIO()
    directory.save(file)  # moves the strip's offset behind itself
    return file.getvalue() + strip


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text


def _text_chunk(key: str, text: str) -> bytes:
    try:
        return _chunk(b"tEXt", key.encode("latin-1") + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + text.encode())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))


def _jpeg_exif(texts: dict[str, str], kept: bytes) -> Image.Exif:
    """As much as a JPEG's one segment holds: all, else without our own JSON, else without A1111's text, else less."""
    less = {key: text for key, text in texts.items() if key != "pixelmill"}
    tried = (_exif(some, of) for of, some in product((kept, b""), (texts, less, {})))
    return next((exif for exif in tried if len(exif.tobytes()) <= MOST_EXIF_BYTES), Image.Exif())


def _exif(texts: dict[str, str], kept: bytes, description: bool = False) -> Image.Exif:
    """The input's EXIF with `texts` in the two tags for them, which never speak of another picture than this."""
    exif = Image.Exif()
    exif.load(kept)
    if not description:
        exif.pop(Base.ImageDescription, None)
    if IFD.Exif in exif:
        exif.get_ifd(IFD.Exif).pop(Base.UserComment, None)
    if "pixelmill" in texts:
        exif[Base.ImageDescription] = json.dumps(json.loads(texts["pixelmill"]))  # ASCII, as the field demands
    if "parameters" in texts:
        exif.get_ifd(IFD.Exif)[Base.UserComment] = b"UNICODE\0" + texts["parameters"].encode("utf-16-be")
    return exif
