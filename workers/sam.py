"""Segment Anything: a checkpoint becomes a model on a device that keeps what it has seen of pictures."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.amg import calculate_stability_score
from torch import nn

from shared import catalog
from shared.errors import BadInput, ModelError
from shared.images import Pixels
from workers import attention
from workers import device as device_
from workers.reading import reading, size_bytes
from workers.retry import is_out_of_memory

DECODED_BYTES = 512 << 20  # of masks at the picture's size, float32, three for each prompt
KEPT_BYTES = 512 << 20  # of embeddings; one of the large models has 4 MiB
MOST_TOGETHER = 64  # prompts
PICTURES_TOGETHER = {"cuda": 8}  # in one run of the image encoder; elsewhere one: a CPU gains nothing by more
WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # of the image encoder, and what the registry calls it
SUFFIXES = (".safetensors", ".pth", ".pt")
Scores = NDArray[np.float32]


class Prompt(NamedTuple):
    """Points (P, 2) x, y with labels (P,), a box (4,) x1, y1, x2, y2, or both; in pixels of the picture."""

    points: NDArray[np.float32]
    labels: NDArray[np.int32]
    box: NDArray[np.float32] | None


class Answer(NamedTuple):
    """masks: KxHxW bool; scores, stability: K, in [0, 1]: how good the model says they are, how firm their edges."""

    masks: NDArray[np.bool_]
    scores: Scores
    stability: Scores


class _Seen(NamedTuple):
    features: torch.Tensor
    original_size: tuple[int, ...]
    input_size: tuple[int, ...]


class _Predictor(SamPredictor):
    """The package's predictor, whose embeddings the Segmenter sets: its automatic generator asks for them by itself."""

    def set_image(self, image: Pixels, image_format: str = "RGB") -> None:
        pass


@dataclass
class Segmenter:
    """`encoded` counts the pictures that went through the image encoder."""

    name: str
    identity: str
    device: torch.device
    sam: Sam
    size_bytes: int
    encoded: int = 0
    _seen: OrderedDict[str, _Seen] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._predictor = _Predictor(self.sam)
        self.together = PICTURES_TOGETHER.get(self.device.type, 1)  # fewer, once memory did not hold them

    # --- pictures ---

    def check(self, pixels: Pixels) -> None:
        """Raises BadInput of a picture (HWC) that nothing would be left of in the encoder's size."""
        short, long = sorted(pixels.shape[:2])
        if short * self.sam.image_encoder.img_size < long:
            raise BadInput(f"found {pixels.shape[1]} x {pixels.shape[0]} pixels; too narrow for Segment Anything")

    def look(self, name: str, pixels: Pixels) -> bool:
        """Turn to a picture (HWC, RGB, uint8); True if its embedding had to be made.

        `name` stands for the picture's content: pictures of equal names share one embedding. Raises BadInput.
        """
        self.check(pixels)
        made = self.study({name: pixels})
        self._show(self._seen[name])
        return bool(made)

    @torch.inference_mode()
    def study(self, pictures: Mapping[str, Pixels]) -> dict[str, float]:
        """Have the embeddings of a few checked pictures at hand; all of them stay until others have to be made.

        The new ones share one run of the encoder; returned are the seconds of each.
        """
        start = time.perf_counter()
        new = {name: pixels for name, pixels in pictures.items() if name not in self._seen}
        self._encode(new)
        for name in pictures:
            self._seen.move_to_end(name)
        if not new:
            return {}
        self._forget(len(pictures))
        device_.finish(self.device)
        return dict.fromkeys(new, (time.perf_counter() - start) / len(new))

    def _encode(self, pictures: Mapping[str, Pixels]) -> None:
        """As many at once as memory holds, which is remembered."""
        rest = [*pictures]
        while some := rest[: self.together]:
            try:
                self._seen.update(zip(some, self._run([pictures[name] for name in some]), strict=True))
                rest = rest[len(some) :]
                continue
            except Exception as error:
                if len(some) == 1 or not is_out_of_memory(error):
                    raise
            self.together = (len(some) + 1) // 2
            device_.free_memory(self.device)  # now that the error is gone: it kept tensors alive

    def _run(self, pictures: Sequence[Pixels]) -> list[_Seen]:
        """Resized beside the device, as the package does it; there they go as bytes, and become numbers there."""
        with ThreadPoolExecutor(device_.threads()) as pool:  # the device would wait for one after the other
            small = [torch.as_tensor(one) for one in pool.map(self._predictor.transform.apply_image, pictures)]
        ready = [self.sam.preprocess(one.to(self.device).permute(2, 0, 1)) for one in small]
        features = self.sam.image_encoder(torch.stack(ready).to(device_.dtype(self.device)))
        self.encoded += len(pictures)
        # Each has memory of its own: a part of the batch would keep all of it.
        own = [one.to(torch.float32, copy=True) for one in features.split(1)]
        sizes = [(pixels.shape[:2], tuple(one.shape[:2])) for pixels, one in zip(pictures, small, strict=True)]
        return [_Seen(one, *size) for one, size in zip(own, sizes, strict=True)]

    def _forget(self, keep: int) -> None:
        """The pictures that were not asked about for the longest, but for the last `keep`."""
        size = sum(seen.features.nbytes for seen in self._seen.values())
        while size > KEPT_BYTES and len(self._seen) > keep:
            size -= self._seen.popitem(last=False)[1].features.nbytes

    def _show(self, seen: _Seen) -> None:
        predictor = self._predictor
        predictor.features, predictor.original_size, predictor.input_size = seen
        predictor.is_image_set = True

    # --- prompts ---

    def ask(self, prompts: list[Prompt]) -> list[Answer]:
        """Three candidates for each prompt about the picture looked at last.

        The prompts have one shape; they are decoded together as far as memory goes.
        """
        most = self._together()
        return [answer for i in range(0, len(prompts), most) for answer in self._decode(prompts[i : i + most])]

    def _together(self) -> int:
        """How many prompts are decoded at once: the masks of each stand in memory at the picture's own size."""
        height, width = self._predictor.original_size
        return max(1, min(MOST_TOGETHER, DECODED_BYTES // (3 * 4 * height * width)))

    @torch.inference_mode()
    def _decode(self, prompts: list[Prompt]) -> list[Answer]:
        predictor, size = self._predictor, self._predictor.original_size
        points, boxes = None, None
        if len(prompts[0].points):
            coords = np.stack([predictor.transform.apply_coords(prompt.points, size) for prompt in prompts])
            labels = np.stack([prompt.labels for prompt in prompts])
            points = torch.as_tensor(coords, dtype=torch.float32, device=self.device), torch.as_tensor(labels)
        if prompts[0].box is not None:
            corners = predictor.transform.apply_boxes(
                np.stack([prompt.box for prompt in prompts if prompt.box is not None]), size
            )
            boxes = torch.as_tensor(corners, dtype=torch.float32, device=self.device)
        coords_, labels_ = points if points else (None, None)
        logits, scores, _ = predictor.predict_torch(coords_, labels_, boxes, None, True, return_logits=True)
        return [self._answer(*one) for one in zip(logits, scores, strict=True)]

    def everything(self, pixels: Pixels, points_per_side: int, iou: float, stability: float) -> Answer:
        """All masks that a grid of points finds on the picture looked at last."""
        generator = SamAutomaticMaskGenerator(
            self.sam,
            points_per_side=points_per_side,
            points_per_batch=self._together(),
            pred_iou_thresh=iou,
            stability_score_thresh=stability,
        )
        generator.predictor = self._predictor
        seen = next(reversed(self._seen.values()))
        with torch.inference_mode():
            found = generator.generate(pixels)
        self._show(seen)  # the generator forgets it when it is done
        if not found:
            return Answer(np.zeros((0, *pixels.shape[:2]), np.bool_), np.zeros(0, np.float32), np.zeros(0, np.float32))
        scores = np.array([(mask["predicted_iou"], mask["stability_score"]) for mask in found], np.float32)
        return Answer(np.stack([mask["segmentation"] for mask in found]), scores[:, 0], scores[:, 1])

    def _answer(self, logits: torch.Tensor, scores: torch.Tensor) -> Answer:
        threshold = self.sam.mask_threshold
        stability = calculate_stability_score(logits, threshold, 1.0).nan_to_num()
        masks = (logits > threshold).cpu().numpy()
        return Answer(masks, scores.float().clamp(0, 1).cpu().numpy(), stability.float().cpu().numpy())


def load(entry: catalog.Model, device: torch.device) -> Segmenter:
    """A folder with one checkpoint under the package's names, .pth or .safetensors; config.json for other sizes."""
    files = [path for path in sorted(entry.path.iterdir()) if path.suffix in SUFFIXES]
    if len(files) != 1:
        raise ModelError(
            f"model {entry.name}: found {len(files)} checkpoints in {entry.path}; expected one of {', '.join(SUFFIXES)}"
        )
    with reading(entry):
        tensors = load_file(files[0]) if files[0].suffix == ".safetensors" else torch.load(files[0], weights_only=True)
        sam = _builder(entry.path, tensors)()
        sam.load_state_dict({name: value.float() for name, value in tensors.items()})
    return placed(entry.name, entry.identity, sam, device)


def placed(name: str, identity: str, sam: Sam, device: torch.device) -> Segmenter:
    """The package's model made fit for the device; it is changed itself."""
    attention.fuse(sam.image_encoder)
    sam.image_encoder.to(device_.dtype(device))  # the decoder is small: it stays as exact as it was
    return Segmenter(name, identity, device, sam.eval().to(device), size_bytes(sam.parameters()))


def _builder(folder: Path, tensors: dict[str, Any]) -> Callable[[], Sam]:
    """By the width of the image encoder, which tells the three sizes apart, else by the folder's config.json."""
    width = tensors["image_encoder.pos_embed"].shape[-1]
    if width in WIDTHS:
        return sam_model_registry[WIDTHS[width]]
    if (folder / "config.json").exists():
        return lambda: sized(json.loads((folder / "config.json").read_text()))
    raise ModelError(f"found an image encoder of width {width}; expected one of {', '.join(map(str, WIDTHS))}")


def sized(sizes: Mapping[str, int]) -> Sam:
    """The package's modules in other sizes than its three: `size`, `patch`, `width`, `layers`, `heads`, `decoder`."""
    side, patch, width, heads, decoder = (sizes[name] for name in ("size", "patch", "width", "heads", "decoder"))
    cells = side // patch
    return Sam(
        ImageEncoderViT(
            img_size=side,
            patch_size=patch,
            embed_dim=width,
            depth=sizes["layers"],
            num_heads=heads,
            out_chans=decoder,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            global_attn_indexes=tuple(range(sizes["layers"])),
        ),
        PromptEncoder(decoder, (cells, cells), (side, side), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=decoder,
            transformer=TwoWayTransformer(2, decoder, heads, 4 * decoder),
            iou_head_hidden_dim=decoder,
        ),
    )
