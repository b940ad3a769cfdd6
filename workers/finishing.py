"""From what the model drew to what is stored: back into its input, proved, encoded. Pure; runs beside the model."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared import images
from shared.errors import BadInput
from shared.images import Kept, Pixels
from workers import gate, masks, post, window
from workers.batches import Item
from workers.ready import Found, Ready

JSON = "application/json"
KEPT = "the mask is empty: the input as it was"


@dataclass(frozen=True)
class Side:
    """A further object of a row, in the run's masks/."""

    name: str
    body: bytes
    content_type: str


@dataclass(frozen=True)
class Finished:
    """A picture file with its facts, the objects beside it, and what the contact sheet shows: HWC RGB uint8 each."""

    data: bytes
    pixels: Pixels
    facts: dict[str, Any]
    sides: tuple[Side, ...] = ()
    shown: tuple[Pixels, ...] = ()


def finish(item: Item, pixels: Pixels | None, texts: dict[str, str]) -> Finished:
    """Raises BadImage and BadInput: this picture must not count as done."""
    job, ready = item.job, item.ready
    if ready is None or (ready.region is None and not ready.found and not ready.keep):
        good = post.apply(gate.check(pixels), job.post)
        before = () if ready is None else (ready.canvas,)
        return Finished(images.encode(good, job, texts), good, {}, shown=(*before, good))
    if job.kind == "segment":
        return _masks_only(item, gate.check(pixels), texts)
    return _edited(item, ready, pixels, texts)


def _masks_only(item: Item, overlay: Pixels, texts: dict[str, str]) -> Finished:
    ready = item.ready
    sides = (*_mask_files(item.name, ready.found), _mask_list(item.name, ready.found))
    facts = {"masks": len(ready.found)}
    data = images.encode(overlay, item.job, texts)
    return Finished(data, overlay, facts, sides, (ready.canvas, overlay))


def _edited(item: Item, ready: Ready, pixels: Pixels | None, texts: dict[str, str]) -> Finished:
    job, original = item.job, ready.original
    if job.output_format == "jpeg" and ready.canvas_alpha is not None:
        raise BadInput("the picture has transparency, which JPEG cannot keep; choose png or webp as output_format")
    kept = Kept(ready.canvas_alpha, original.gray, original.icc, original.exif)
    if ready.keep or ready.region is None:
        data = images.encode(ready.canvas, job, texts, kept=kept)
        nothing = np.zeros(ready.canvas.shape[:2], np.uint8)
        facts = prove(data, ready, ready.canvas, nothing, lossless=_is_lossless(job))
        return Finished(data, ready.canvas, facts | {"note": KEPT}, (), (ready.canvas,))
    alpha = ready.region.alpha
    made = post.apply(gate.check(pixels), job.post)
    result = window.paste(ready.canvas, _gray(made) if original.gray else made, ready.region.window, alpha)
    _refuse_unchanged(ready.canvas, result)
    data = images.encode(result, job, texts, kept=kept)
    facts = prove(data, ready, result, alpha, lossless=_is_lossless(job))
    sides = [Side(f"{_stem(item.name)}.png", _mask_png(alpha), "image/png"), *_mask_files(item.name, ready.found[:1])]
    if ready.found:
        sides.append(_mask_list(item.name, ready.found[:1]))
    overlay = masks.overlay(ready.canvas, [alpha > 0])
    facts["masks"] = len(ready.found[:1])
    return Finished(data, result, facts, tuple(sides), (ready.canvas, overlay, result))


def prove(data: bytes, ready: Ready, result: Pixels, alpha: NDArray[np.uint8], lossless: bool) -> dict[str, Any]:
    """That nothing outside the mask `alpha` changed, in figures taken from the stored file. Raises BadInput if it did.

    A lossy file differs everywhere a little: there the figures are those before encoding, and the file's own is added.
    """
    stored = decoded(data)
    checked = stored[..., :3] if lossless else result
    worst, changed = window.proof(ready.canvas, checked, alpha)
    if lossless and ready.canvas_alpha is not None:
        changed += int((stored[..., 3] != ready.canvas_alpha).sum())
    facts = {"unmasked_max_abs_diff": worst, "unmasked_changed_px": changed, "masked_px": int((alpha > 0).sum())}
    if worst or changed:
        raise BadInput(f"the edit changed {changed} pixels outside its mask (by up to {worst}); nothing was stored")
    if not lossless:
        facts["stored_max_abs_diff"] = window.proof(ready.canvas, stored[..., :3], alpha)[0]
    return facts


def decoded(data: bytes) -> Pixels:
    """A stored file's pixels: HWC uint8, RGBA; opaque where the file has no transparency."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def _is_lossless(job: Any) -> bool:
    return job.output_format in ("png", "tiff") or (job.output_format == "webp" and job.quality == 100)


def _refuse_unchanged(before: Pixels, after: Pixels) -> None:
    if np.array_equal(before, after):
        raise BadInput("the edit changed nothing, each pixel is as it was; raise strength, or try another seed or mask")


def _gray(pixels: Pixels) -> Pixels:
    luminance = np.asarray(Image.fromarray(pixels).convert("L"))
    return np.repeat(luminance[..., None], 3, axis=2)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def mask_names(name: str, count: int) -> list[str]:
    """File names, in masks/, of the selections of a picture. No file name of a row can hold the tilde."""
    return [f"{_stem(name)}~{k}.png" for k in range(count)]


def listed(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """A picture's facts for the manifest: the masks beside it by their keys, relative to the run."""
    found = {"masks": [f"masks/{own}" for own in mask_names(name, facts["masks"])]} if facts.get("masks") else {}
    own = {"mask": f"masks/{_stem(name)}.png"} if facts.get("masked_px") else {}
    return {key: value for key, value in facts.items() if key != "masks"} | own | found


def _mask_files(name: str, found: tuple[Found, ...]) -> list[Side]:
    names = mask_names(name, len(found))
    return [
        Side(own, _mask_png(one.mask.astype(np.uint8) * 255), "image/png")
        for own, one in zip(names, found, strict=True)
    ]


def _mask_png(gray: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _mask_list(name: str, found: tuple[Found, ...]) -> Side:
    """Scores, areas and run lengths (COCO) of all masks."""
    entries = [
        {
            "file": own,
            "score": round(one.score, 4),
            "stability": round(one.stability, 4),
            "area": int(one.mask.sum()),
            "box": list(masks.box_of(one.mask) or ()),
            "segmentation": masks.rle(one.mask),
        }
        for own, one in zip(mask_names(name, len(found)), found, strict=True)
    ]
    return Side(f"{_stem(name)}.json", json.dumps(entries).encode(), JSON)
