"""A small Segment Anything model, of the modules of the package, and how it learns from crowds of shapes."""

from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch.nn import functional

from workers.demo.config import Prompts
from workers.demo.pictures import Pictures
from workers.sam import sized

POINT_NONE, POINT_OUT, POINT_IN = -1, 0, 1  # labels, as the package knows them
GROUND_SHARE = 0.12  # of the prompts ask for the background
BOX_JITTER = 0.02  # how far a corner is off, as a share of the side
WAYS, SHARES = ("point", "box", "points"), (0.45, 0.35, 0.2)


def build(config: Prompts, size: int) -> Sam:
    return sized({"size": size, **config.model_dump(include={"patch", "width", "layers", "heads", "decoder"})})


def predict(model: Sam, pixels: torch.Tensor, prompts: "Asked") -> tuple[torch.Tensor, torch.Tensor]:
    """Mask logits (N, 4, H, W) and predicted overlaps (N, 4) of N prompts over B pictures (B, 3, H, W in [0, 255]).

    The package's decoder takes one picture at a time; this is its `predict_masks` over a batch of them.
    """
    features = model.image_encoder((pixels - model.pixel_mean) / model.pixel_std)
    points = None if prompts.points is None else (prompts.points, prompts.labels)
    sparse, dense = model.prompt_encoder(points, prompts.boxes, None)
    decoder, count = model.mask_decoder, len(sparse)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(count, -1, -1)
    source = features.repeat_interleave(count // len(pixels), 0) + dense
    places = model.prompt_encoder.get_dense_pe().expand(count, -1, -1, -1)
    tokens, source = decoder.transformer(source, places, torch.cat([own, sparse], 1))
    upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(dense.shape))
    weights = torch.stack([net(tokens[:, 1 + i]) for i, net in enumerate(decoder.output_hypernetworks_mlps)], 1)
    masks = torch.einsum("nkc,nchw->nkhw", weights, upscaled).float()
    masks = functional.interpolate(masks, pixels.shape[-2:], mode="bilinear", align_corners=False)
    return masks, decoder.iou_prediction_head(tokens[:, 0]).float()


@dataclass
class Asked:
    """N prompts of one kind: points (N, P, 2) x, y with labels (N, P), or boxes (N, 4) x1, y1, x2, y2."""

    points: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    boxes: torch.Tensor | None = None


@dataclass
class Task:
    """What one training step of the model does."""

    config: Prompts
    pictures: Pictures
    model: Sam

    def loss(self, rng: np.random.Generator, _noise: torch.Generator) -> torch.Tensor:
        picks = rng.integers(len(self.pictures.images), size=self.config.batch_size)
        images = torch.from_numpy(self.pictures.varied(rng, picks)).permute(0, 3, 1, 2)
        labels = np.repeat(self.pictures.labels[picks], self.config.prompts_per_picture, 0)
        wanted = np.stack([label == _choose(rng, label) for label in labels])
        asked = ask(rng, wanted, str(rng.choice(WAYS, p=SHARES)))
        masks, overlaps = predict(self.model, images.float(), asked)
        return masks_loss(masks, overlaps, torch.from_numpy(wanted).float())


def _choose(rng: np.random.Generator, labels: np.ndarray) -> int:
    """An object's number, or now and then 0, the background."""
    return 0 if rng.random() < GROUND_SHARE else int(rng.integers(1, labels.max() + 1))


def masks_loss(masks: torch.Tensor, overlaps: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The single mask and the best of the other three learn; every mask learns to say how good it is."""
    target = wanted[:, None].expand_as(masks)
    cross = functional.binary_cross_entropy_with_logits(masks, target, reduction="none").mean((2, 3))
    covered = masks.sigmoid()
    dice = 1 - (2 * (covered * target).sum((2, 3)) + 1) / (covered.sum((2, 3)) + target.sum((2, 3)) + 1)
    each = 4 * cross + dice
    found = masks.detach() > 0
    truth = (found & (target > 0)).sum((2, 3)) / (found | (target > 0)).sum((2, 3)).clamp(min=1)
    return (each[:, 0] + each[:, 1:].min(1).values).mean() + functional.mse_loss(overlaps, truth)


def ask(rng: np.random.Generator, wanted: np.ndarray, way: str) -> Asked:
    """Prompts of one kind for each mask of (N, H, W) bool."""
    if way == "box":
        return Asked(boxes=torch.from_numpy(np.stack([_box(rng, mask) for mask in wanted])))
    if way == "point":
        points = np.stack([_points(rng, mask, 1) for mask in wanted])
        return Asked(torch.from_numpy(points), torch.ones(points.shape[:2], dtype=torch.int))
    inside = np.stack([_points(rng, mask, 2) for mask in wanted])
    outside = np.stack([_points(rng, ~mask, 1) for mask in wanted])
    labels = torch.tensor([[POINT_IN, POINT_IN, POINT_OUT]]).repeat(len(wanted), 1)
    drop = torch.from_numpy(rng.random((len(wanted), 2)) < 0.4)
    labels[:, 1:][drop] = POINT_NONE
    return Asked(torch.from_numpy(np.concatenate([inside, outside], 1)), labels)


def _points(rng: np.random.Generator, mask: np.ndarray, count: int) -> np.ndarray:
    """(count, 2) float32 x, y of random pixels of the mask."""
    ys, xs = np.nonzero(mask)
    picks = rng.integers(len(ys), size=count)
    return np.stack([xs[picks], ys[picks]], 1).astype(np.float32)


def _box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 around the mask, a little off: (4,) float32."""
    ys, xs = np.nonzero(mask)
    corners = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
    off = rng.normal(0, BOX_JITTER * mask.shape[1] / 2, 4).astype(np.float32)
    return np.clip(corners + off, 0, mask.shape[1])
