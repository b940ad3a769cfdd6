"""CLIPSeg: where in a picture a phrase is."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from shared import catalog
from shared.images import Pixels
from workers.reading import lacking, reading, refuse, size_bytes

ANSWERS_KEPT = 64  # in the model's own small size


@dataclass
class Finder:
    """A text-to-region model on a device."""

    name: str
    identity: str
    device: torch.device
    model: Any
    processor: Any
    size_bytes: int
    _answers: OrderedDict[tuple[str, str], torch.Tensor] = field(default_factory=OrderedDict)

    def find(self, name: str, pixels: Pixels, phrase: str) -> NDArray[np.float32]:
        """How sure the model is of each pixel: HxW in [0, 1]. `name` stands for the picture's content."""
        if (name, phrase) not in self._answers:
            self._answers[name, phrase] = self._answer(pixels, phrase)
            if len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
        size = pixels.shape[:2]
        return interpolate(self._answers[name, phrase], size, mode="bilinear").sigmoid()[0, 0].cpu().numpy()

    @torch.inference_mode()
    def _answer(self, pixels: Pixels, phrase: str) -> torch.Tensor:
        """(1, 1, h, w) logits in the model's own small size."""
        words = self.processor(
            text=[phrase], images=[pixels], padding="max_length", truncation=True, return_tensors="pt"
        )
        logits = self.model(**{name: value.to(self.device) for name, value in words.items()}).logits.float()
        return logits.view(1, 1, *logits.shape[-2:])


def load(entry: catalog.Model, device: torch.device) -> Finder:
    """A folder as transformers saves CLIPSegForImageSegmentation and its processor; safetensors only."""
    with reading(entry):
        model = CLIPSegForImageSegmentation.from_pretrained(
            entry.path, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        refuse(entry, "clipseg", lacking(entry.path, model))
        processor = CLIPSegProcessor.from_pretrained(entry.path, local_files_only=True)
    size = size_bytes(model.parameters())
    return Finder(entry.name, entry.identity, device, model.eval().to(device), processor, size)
