"""What a model makes of texts: encoded once each, and kept. Prompts may weigh their words and have any length."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from shared.errors import BadInput
from workers.weights import Fragment, fragments

TEXTS_KEPT = 512  # 60 MB of a half-precision Stable Diffusion 1.5, 160 MB of an XL


class Encoded(NamedTuple):
    """One text: (1, tokens, width); of Stable Diffusion XL also the second encoder's summary, (1, width)."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None


class Texts:
    """The texts of one model. A text of more tokens than the encoder takes goes through it in windows of that size."""

    def __init__(self, pipeline: Any, device: torch.device):
        self.pipeline = pipeline
        self.device = device
        self.encode = lru_cache(TEXTS_KEPT)(self._encode)

    def arguments(self, jobs: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Prompts and negative prompts as a pipeline takes them, one row per job; all of equally many `windows`."""
        wanted, unwanted = [], []
        for job in jobs:
            count = self.windows(job)
            wanted.append(self._filled(self.encode(job.prompt, job.clip_skip), count, job.clip_skip))
            unwanted.append(self._filled(self.encode(job.negative_prompt, empty_is_zero=True), count))
        sides = {"": wanted, "negative_": unwanted}  # diffusers skips no layers of negative prompts
        embeds = {f"{side}prompt_embeds": torch.cat([text.embeds for text in texts]) for side, texts in sides.items()}
        pooled = {side: [text.pooled for text in texts if text.pooled is not None] for side, texts in sides.items()}
        return embeds | {f"{side}pooled_prompt_embeds": torch.cat(texts) for side, texts in pooled.items() if texts}

    def windows(self, job: Any) -> int:
        """How many times the encoder's length the job's longer text needs."""
        return max(self._count(job.prompt), self._count(job.negative_prompt)) if self.pipeline is not None else 1

    def forget(self) -> None:
        """The text encoders have changed."""
        self.encode.cache_clear()

    def _count(self, text: str) -> int:
        tokenizer = self.pipeline.tokenizer
        most = tokenizer.model_max_length
        if len(text.encode()) <= most - 2:  # a token is a byte at least
            return 1
        parts = fragments(text)
        tokens, _, _ = self._provider(0, 0).get_token_ids_and_expand_weights(*_apart(parts), device="cpu")
        return int(len(tokens) // most)

    @torch.inference_mode()
    def _encode(self, text: str, clip_skip: int = 0, empty_is_zero: bool = False) -> Encoded:
        """One text at a time, so that its neighbours cannot change it by rounding.

        `empty_is_zero`: where the model was trained so, a negative prompt that says nothing is no text but zeros.
        """
        layers = self.pipeline.text_encoder.config.num_hidden_layers
        if clip_skip >= layers:
            raise BadInput(f"clip_skip is {clip_skip}; the model's text encoder has {layers} layers: give less")
        parts = fragments(text)
        plain = "".join(part.text for part in parts)
        weighed = any(part.weight != 1 for part in parts) or self._count(text) > 1
        if not hasattr(self.pipeline, "text_encoder_2"):
            return Encoded(self._embeds(0, parts, clip_skip) if weighed or clip_skip else self._whole(plain), None)
        skipped = clip_skip or None
        embeds, _, pooled, _ = self.pipeline.encode_prompt(plain, None, self.device, 1, False, clip_skip=skipped)
        if empty_is_zero and not text and self.pipeline.config.force_zeros_for_empty_prompt:
            return Encoded(torch.zeros_like(embeds), torch.zeros_like(pooled))
        if weighed:
            embeds = torch.cat([self._embeds(number, parts, clip_skip + 1) for number in range(2)], dim=-1)
        return Encoded(embeds, pooled)

    def _whole(self, text: str) -> torch.Tensor:
        embeds: torch.Tensor = self.pipeline.encode_prompt(text, self.device, 1, False)[0]
        return embeds

    def _embeds(self, number: int, parts: Sequence[Fragment], skipped: int) -> torch.Tensor:
        """Of one encoder, window by window."""
        provider = self._provider(number, skipped)
        texts, weights = _apart(parts)
        embeds: torch.Tensor = provider.get_embeddings_for_weighted_prompt_fragments(
            [texts], [weights], device=self.device
        )
        return embeds

    def _provider(self, number: int, skipped: int) -> Any:
        from workers import windows  # noqa: PLC0415  # it imports transformers, which takes seconds

        return windows.provider(self.pipeline, number, skipped)

    def _filled(self, text: Encoded, count: int, clip_skip: int = 0) -> Encoded:
        """With as many windows of nothing behind it as the row's other text has more."""
        most = self.pipeline.tokenizer.model_max_length
        lacking = count - text.embeds.shape[1] // most
        if not lacking:
            return text
        nothing = self.encode("", clip_skip).embeds
        return Encoded(torch.cat([text.embeds, *[nothing] * lacking], dim=1), text.pooled)


def _apart(parts: Sequence[Fragment]) -> tuple[list[str], list[float]]:
    return [part.text for part in parts], [part.weight for part in parts]
