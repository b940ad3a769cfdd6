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
        wanted = [self.encode(job.prompt, job.clip_skip) for job in jobs]
        unwanted = [
            self.encode(job.negative_prompt, empty_is_zero=True) for job in jobs
        ]  # diffusers skips nothing here
        sides = {"": wanted, "negative_": unwanted}
        embeds = {f"{side}prompt_embeds": torch.cat([text.embeds for text in texts]) for side, texts in sides.items()}
        pooled = {side: [text.pooled for text in texts if text.pooled is not None] for side, texts in sides.items()}
        return embeds | {f"{side}pooled_prompt_embeds": torch.cat(texts) for side, texts in pooled.items() if texts}

    def forget(self) -> None:
        """The text encoders have changed."""
        self.encode.cache_clear()

    @torch.inference_mode()
    def _encode(self, text: str, clip_skip: int = 0, empty_is_zero: bool = False) -> Encoded:
        """One text at a time, so that its neighbours cannot change it by rounding.

        `empty_is_zero`: where the model was trained so, a negative prompt that says nothing is no text but zeros.
        """
        if not hasattr(self.pipeline, "text_encoder_2"):
            return Encoded(self._without_last(text, clip_skip) if clip_skip else self._whole(text), None)
        skipped = clip_skip or None
        embeds, _, pooled, _ = self.pipeline.encode_prompt(text, None, self.device, 1, False, clip_skip=skipped)
        if empty_is_zero and not text and self.pipeline.config.force_zeros_for_empty_prompt:
            return Encoded(torch.zeros_like(embeds), torch.zeros_like(pooled))
        return Encoded(embeds, pooled)

    def _whole(self, text: str) -> torch.Tensor:
        embeds: torch.Tensor = self.pipeline.encode_prompt(text, self.device, 1, False)[0]
        return embeds

    def _without_last(self, text: str, layers: int) -> torch.Tensor:
        """diffusers looks for the last norm where transformers has none any more (huggingface/diffusers#14124)."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        length = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
        tokens = tokenizer(text, return_tensors="pt", **length).input_ids.to(self.device)
        hidden = encoder(tokens, output_hidden_states=True).hidden_states[-(layers + 1)]
        normed: torch.Tensor = encoder.final_layer_norm(hidden).to(encoder.dtype)
        return normed
