"""Which family a model's files belong to, by their names and shapes alone: nothing is loaded, no code is run."""

import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

from producer.stored import Place
from shared.errors import PixelmillError, UsageError
from shared.families import FAMILIES

Shapes = Mapping[str, tuple[int, ...]]
MOST_HEADER_BYTES = 100_000_000  # as safetensors itself allows
MOST_PICKLE_BYTES = 16_000_000  # names and shapes; the values lie beside them
PLAIN, MASKED = 4, 9  # channels that go into a UNet: latents; latents, mask, latents of the masked picture
CHANNELS = "model.diffusion_model.input_blocks.0.0.weight"
# The text encoder tells the families apart whatever their size.
ENCODERS = {
    "conditioner.embedders.1.": "sdxl",
    "conditioner.embedders.0.model.": "sdxl-refiner",
    "cond_stage_model.model.": "sd2",
    "cond_stage_model.transformer.": "sd15",
}
OTHERS = {
    "emb_params": "a textual inversion of no such model",
    "control_model.": "a ControlNet",
    "double_blocks.": "a model of the family Flux",
    "joint_blocks.": "a model of the family Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "a model of the family Flux",
    "model.diffusion_model.joint_blocks.": "a model of the family Stable Diffusion 3",
    "model.diffusion_model.": "a UNet without a text encoder",
}
LORA_MARKS = (".lora_", ".lora.", "lora_unet_", "lora_te")
BASES = {768: "sd15", 1024: "sd2", 2048: "sdxl"}  # by the width of their texts
ENCODED = {768: "sd15", 1024: "sd2"}  # by the width of a word
PIPELINES = {"StableDiffusion": "sd15", "StableDiffusionXL": "sdxl"}


class Found(NamedTuple):
    """`base`: of what is added to a model, which models it goes with, where its files say so."""

    family: str
    base: str | None = None


def look(path: Place) -> Found:
    """What a folder or a single file is. Raises UsageError that says what was found instead."""
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder")
    return of_tensors(path, shapes(path))


def of_tensors(path: Place, found: Shapes) -> Found:
    """What a single file of these tensors is."""
    if any("hada_" in name or "lokr_" in name for name in found):
        raise UsageError(f"{path}: found a LoHa or LoKr; expected a LoRA")
    if any(mark in name for name in found for mark in LORA_MARKS):
        if path.suffix != ".safetensors":
            raise UsageError(f"{path}: found a LoRA; expected it as .safetensors")
        return Found("lora", next((BASES.get(shape[-1]) for name, shape in found.items() if _reads_text(name)), None))
    if found.keys() == {"clip_l", "clip_g"}:
        return Found("embedding", "sdxl")
    if len(found) == 1 and (words := next(iter(found.values()))) and words[-1] in ENCODED and len(words) <= 2:
        return Found("embedding", ENCODED[words[-1]])
    if all(_any(found, prefix) for prefix in ("encoder.conv_in.", "decoder.conv_in.")):
        return Found("vae")
    name = next((name for prefix, name in ENCODERS.items() if _any(found, prefix)), None)
    if name is None or CHANNELS not in found:
        what = next((what for prefix, what in OTHERS.items() if _any(found, prefix)), "tensors of no known model")
        raise UsageError(
            f"{path}: found {what}; expected a whole Stable Diffusion 1.x, 2.x or XL, the refiner of XL, an "
            "autoencoder, a LoRA, or a textual inversion"
        )
    if not _any(found, "first_stage_model."):
        raise UsageError(f"{path}: found no autoencoder (first_stage_model...); expected a whole Stable Diffusion")
    return Found(_with_channels(path, name, found[CHANNELS][1]))


def _reads_text(name: str) -> bool:
    """Whether a LoRA's tensor takes what the text encoder gives: its width is that of the base's texts."""
    return bool(re.search(r"attn2[._]to_k\.(?:lora_down|lora_A|lora\.down)\.(?:\w+\.)?weight$", name))


def shapes(path: Place) -> Shapes:
    """Every tensor's shape by name. Raises UsageError for what is no such file, or was cut off."""
    readers = {".safetensors": _safetensors, ".ckpt": _checkpoint, ".pt": _checkpoint, ".bin": _checkpoint}
    if path.suffix not in readers:
        raise UsageError(f"{path}: expected a folder, or a file that ends with {' or '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except PixelmillError:
        raise
    except Exception as error:  # hostile files find ways that nobody thinks of
        raise UsageError(f"{path}: cannot be read as {path.suffix}: {type(error).__name__}: {error}") from error


def _safetensors(path: Place) -> Shapes:
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER_BYTES, size):
            raise UsageError(f"{path}: it does not begin as a safetensors file does")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            found = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise UsageError(f"{path}: its header is no safetensors header: {error}") from error
    expected = 8 + length + end
    if size != expected:
        raise UsageError(f"{path}: found {size:,} bytes, its header speaks of {expected:,}; get the file again")
    return found


# --- checkpoints of torch: a pickle inside a zip, read with nothing but names and shapes ---


class _Names(pickle.Unpickler):
    """Knows tensors, storages and ordered dicts, and refuses all else, as torch's `weights_only` does."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: _shape(*parts),  # noqa: PLW0108  # new: a file may change it
            ("torch._utils", "_rebuild_parameter"): lambda *parts: _data(*parts),  # noqa: PLW0108
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is code; use a .safetensors file")

    def persistent_load(self, _pid: Any) -> None:
        return None


def _shape(_storage: Any, _offset: int, size: tuple[int, ...], *_more: Any) -> tuple[int, ...]:
    return tuple(size)


def _data(data: Any, *_more: Any) -> Any:
    return data


def _checkpoint(path: Place) -> Shapes:
    try:
        with path.open("rb") as whole, zipfile.ZipFile(whole) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if archive.getinfo(name).file_size > MOST_PICKLE_BYTES:
                raise pickle.UnpicklingError("its list of tensors is too long")
            with archive.open(name) as file:
                found = _unpickled(file)
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, EOFError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{path}: it does not read as a checkpoint of torch: {error}") from error
    return {name: shape for name, shape in found.items() if isinstance(shape, tuple)}


def _unpickled(file: IO[bytes]) -> Mapping[str, Any]:
    found = _Names(file).load()
    for name in ("state_dict", "string_to_param"):
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict):
        raise pickle.UnpicklingError("it holds no table of tensors")
    return found


# --- folders ---


def _of_folder(folder: Place) -> Found:
    """By `model_index.json` or `config.json` (diffusers, transformers), or the one checkpoint (Segment Anything)."""
    index, config = _json(folder / "model_index.json"), _json(folder / "config.json") or {}
    if index is not None:
        return Found(_of_pipeline(folder, index))
    if config.get("model_type") == "clipseg":
        return Found("clipseg")
    if "StableDiffusionSafetyChecker" in config.get("architectures", ()):
        return Found("safety")
    if config.get("_class_name") == "AutoencoderKL":
        return Found("vae")
    checkpoints = [path for path in folder.iterdir() if path.suffix in (".pth", ".safetensors")]
    if len(checkpoints) == 1:
        readers: dict[str, Callable[[Place], Shapes]] = {".pth": _checkpoint, ".safetensors": _safetensors}
        if _any(readers[checkpoints[0].suffix](checkpoints[0]), "image_encoder."):
            return Found("sam")
    raise UsageError(
        f"{folder}: expected model_index.json (a folder of diffusers), an autoencoder of diffusers, a CLIPSeg of "
        "transformers, or one checkpoint of Segment Anything"
    )


def _of_pipeline(folder: Place, index: dict[str, Any]) -> str:
    class_name = str(index.get("_class_name", ""))
    stem = class_name.removesuffix("Pipeline").removesuffix("Img2Img").removesuffix("Inpaint")
    unet = _json(folder / "unet" / "config.json")
    if stem not in PIPELINES or unet is None:
        raise UsageError(
            f"{folder}: found {class_name or 'no pipeline'}; expected one of Stable Diffusion 1.x, 2.x or XL"
        )
    name = PIPELINES[stem]
    if name == "sd15" and unet.get("use_linear_projection"):
        name = "sd2"
    if name == "sdxl" and index.get("text_encoder") in (None, [None, None]):  # it has the second one alone
        name = "sdxl-refiner"
    return _with_channels(folder, name, unet.get("in_channels", PLAIN))


def _with_channels(path: Place, name: str, channels: int) -> str:
    families = {PLAIN: name, MASKED: f"{name}-inpaint"}
    if families.get(channels) not in FAMILIES:
        expected = f"{PLAIN}, or {MASKED} for inpainting" if families[MASKED] in FAMILIES else str(PLAIN)
        raise UsageError(f"{path}: its UNet takes {channels} channels; expected {expected}")
    return families[channels]


def _json(path: Place) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error
    return value if isinstance(value, dict) else None


def _any(found: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in found)
