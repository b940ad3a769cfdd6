"""What a model makes of texts: encoded once each, and kept."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

TEXTS_KEPT = 512  # 60 MB of a half-precision Stable Diffusion 1.5, 160 MB of an XL


class Encoded(NamedTuple):
    """One text: (1, tokens, width); of Stable Diffusion XL also the second encoder's summary, (1, width)."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None


class Texts:
    """The texts of one model."""

    def __init__(self, pipeline: Any, device: torch.device):
        self.pipeline = pipeline
        self.device = device
        self.encode = lru_cache(TEXTS_KEPT)(self._encode)

    def arguments(self, jobs: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Prompts and negative prompts as a pipeline takes them, one row per job."""
        wanted = [self.encode(job.prompt) for job in jobs]
        unwanted = [self.encode(job.negative_prompt, empty_is_zero=True) for job in jobs]
        sides = {"": wanted, "negative_": unwanted}
        embeds = {f"{side}prompt_embeds": torch.cat([text.embeds for text in texts]) for side, texts in sides.items()}
        pooled = {side: [text.pooled for text in texts if text.pooled is not None] for side, texts in sides.items()}
        return embeds | {f"{side}pooled_prompt_embeds": torch.cat(texts) for side, texts in pooled.items() if texts}

    @torch.inference_mode()
    def _encode(self, text: str, empty_is_zero: bool = False) -> Encoded:
        """One text at a time, so that its neighbours cannot change it by rounding.

        `empty_is_zero`: where the model was trained so, a negative prompt that says nothing is no text but zeros.
        """
        if not hasattr(self.pipeline, "text_encoder_2"):
            embeds, _ = self.pipeline.encode_prompt(text, self.device, 1, False)
            return Encoded(embeds, None)
        embeds, _, pooled, _ = self.pipeline.encode_prompt(text, None, self.device, 1, False)
        if empty_is_zero and not text and self.pipeline.config.force_zeros_for_empty_prompt:
            return Encoded(torch.zeros_like(embeds), torch.zeros_like(pooled))
        return Encoded(embeds, pooled)
