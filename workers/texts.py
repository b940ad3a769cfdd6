"""What a model makes of texts: encoded once each, and kept. Prompts may weigh their words and have any length."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from shared import embeddings
from shared.errors import BadInput
from workers.weights import Fragment, fragments

TEXTS_KEPT = 512  # 60 MB of a half-precision Stable Diffusion 1.5, 160 MB of an XL
# Texts in one run of an encoder, by kind of device. A run on CUDA costs its hundreds of launches, however few texts go
# in. It has always this many: the same text in another number of neighbours would differ by rounding.
TOGETHER = {"cuda": 8}
NOTHING = Fragment("", 1.0)


class Encoded(NamedTuple):
    """One text: (1, tokens, width); of Stable Diffusion XL also the second encoder's summary, (1, width)."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None


class Wanted(NamedTuple):
    """What is asked of the encoders. `second`: what the second one reads, if it is another text. `empty_is_zero`: where
    the model was trained so, a negative prompt that says nothing is no text but zeros."""

    text: str
    clip_skip: int = 0
    empty_is_zero: bool = False
    second: str = ""


class Texts:
    """The texts of one model. A text of more tokens than the encoder takes goes through it in windows of that size."""

    def __init__(self, pipeline: Any, device: torch.device):
        self.pipeline = pipeline
        self.device = device
        self.encode = lru_cache(TEXTS_KEPT)(self._encode)
        self.tokens: dict[str, str] = {}  # what stands for each textual inversion that was learned

    def arguments(self, jobs: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Prompts and negative prompts as a pipeline takes them, one row per job; all of equally many `windows`."""
        wanted, unwanted = [], []
        for job in jobs:
            count = self.windows(job)
            prompt, negative, prompt_2, negative_2 = self._said(job)
            wanted.append(self._filled(self.encode(prompt, job.clip_skip, second=prompt_2), count, job.clip_skip))
            unwanted.append(self._filled(self.encode(negative, empty_is_zero=True, second=negative_2), count))
        sides = {"": wanted, "negative_": unwanted}  # diffusers skips no layers of negative prompts
        embeds = {f"{side}prompt_embeds": torch.cat([text.embeds for text in texts]) for side, texts in sides.items()}
        pooled = {side: [text.pooled for text in texts if text.pooled is not None] for side, texts in sides.items()}
        return embeds | {f"{side}pooled_prompt_embeds": torch.cat(texts) for side, texts in pooled.items() if texts}

    def windows(self, job: Any) -> int:
        """How many times the encoder's length the job's longer text needs."""
        return max(map(self._count, self._said(job))) if self.pipeline is not None else 1

    def widths(self) -> list[int]:
        """Of a word, in each of the text encoders."""
        return [encoder.get_input_embeddings().weight.shape[1] for _, encoder in self._encoders()]

    def learn(self, name: str, vectors: Sequence[torch.Tensor]) -> None:
        """A textual inversion: (words, width) for each encoder. Its tokens are none that texts hold."""
        for (tokenizer, encoder), rows in zip(self._encoders(), vectors, strict=True):
            tokens = [f"<{name}|{i}>" for i in range(len(rows))]
            tokenizer.add_tokens(tokens)
            ids = tokenizer.convert_tokens_to_ids(tokens)
            if (most := max(ids) + 1) > encoder.get_input_embeddings().weight.shape[0]:
                encoder.resize_token_embeddings(most, mean_resizing=False)
            weight = encoder.get_input_embeddings().weight
            weight.data[ids] = rows.to(weight)
            _end_at(encoder, tokenizer.eos_token_id)
        self.tokens[name] = " ".join(tokens)  # of the first encoder as of the second

    def _encoders(self) -> list[tuple[Any, Any]]:
        pipeline = self.pipeline
        return [(getattr(pipeline, f"tokenizer{end}"), getattr(pipeline, f"text_encoder{end}")) for end in self._ends()]

    def _ends(self) -> list[str]:
        """Of the names of its tokenizers and text encoders; the refiner has the second one of Stable Diffusion XL
        alone."""
        return [end for end in ("", "_2") if getattr(self.pipeline, f"tokenizer{end}", None) is not None]

    def _said(self, job: Any) -> list[str]:
        """The job's texts, tokens in the place of textual inversions: prompt, negative prompt, and both for the second
        encoder."""
        tokens = {name: self.tokens[name] for name in job.embeddings}
        texts = (job.prompt, job.negative_prompt, job.prompt_2, job.negative_prompt_2)
        return [embeddings.replaced(text, tokens) for text in texts]

    def forget(self) -> None:
        """The text encoders have changed."""
        self.encode.cache_clear()

    def _count(self, text: str) -> int:
        most = self._most_tokens()
        if len(text.encode()) <= most - 2:  # a token is a byte at least
            return 1
        parts = fragments(text)
        tokens, _, _ = self._provider(0, 0).get_token_ids_and_expand_weights(*_apart(parts), device="cpu")
        return int(len(tokens) // most)

    @torch.inference_mode()
    def _encode(self, text: str, clip_skip: int = 0, empty_is_zero: bool = False, second: str = "") -> Encoded:
        """One text at a time, so that its neighbours cannot change it by rounding.

        `second`: what the second encoder reads, if it is another text. `empty_is_zero`: where the model was trained
        so, a negative prompt that says nothing is no text but zeros.
        """
        layers = self._encoders()[0][1].config.num_hidden_layers
        if clip_skip >= layers:
            raise BadInput(f"clip_skip is {clip_skip}; the model's text encoder has {layers} layers: give less")
        texts = self._read(text, second)
        count = max(map(self._count, texts))
        read = [fragments(each) or [NOTHING] for each in texts]
        plain = ["".join(part.text for part in parts) for parts in read]
        weighed = count > 1 or any(part.weight != 1 for parts in read for part in parts)
        if not hasattr(self.pipeline, "text_encoder_2"):
            return Encoded(self._embeds(0, read[0], clip_skip) if weighed or clip_skip else self._whole(plain[0]), None)
        skipped = clip_skip or None
        encoded = self.pipeline.encode_prompt(plain[0], plain[-1], self.device, 1, False, clip_skip=skipped)
        embeds, _, pooled, _ = encoded
        if empty_is_zero and not text and not second and self.pipeline.config.force_zeros_for_empty_prompt:
            return Encoded(torch.zeros_like(embeds), torch.zeros_like(pooled))
        if weighed:
            embeds = torch.cat([self._windows(n, parts, clip_skip + 1, count) for n, parts in enumerate(read)], dim=-1)
        return Encoded(embeds, pooled)

    def _read(self, text: str, second: str) -> list[str]:
        """What each of the encoders reads."""
        by_end = {"": text, "_2": second or text}
        return [by_end[end] for end in self._ends()]

    def _most_tokens(self) -> int:
        """Of one window, its beginning and end among them."""
        most: int = self._encoders()[0][0].model_max_length
        return most

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

    def _windows(self, number: int, parts: Sequence[Fragment], skipped: int, count: int) -> torch.Tensor:
        """The same, with windows of nothing behind it up to that many."""
        embeds = self._embeds(number, parts, skipped)
        lacking = count - embeds.shape[1] // self._most_tokens()
        nothing = [self._embeds(number, [NOTHING], skipped)] if lacking else []
        return torch.cat([embeds, *nothing * lacking], dim=1)

    def _provider(self, number: int, skipped: int) -> Any:
        from workers import windows  # noqa: PLC0415  # it imports transformers, which takes seconds

        tokenizer, encoder = self._encoders()[number]
        return windows.Provider(tokenizer, encoder, skipped, hasattr(self.pipeline, "text_encoder_2"))

    def _filled(self, text: Encoded, count: int, clip_skip: int = 0) -> Encoded:
        """With as many windows of nothing behind it as the row's other text has more."""
        lacking = count - text.embeds.shape[1] // self._most_tokens()
        if not lacking:
            return text
        nothing = self.encode("", clip_skip).embeds
        return Encoded(torch.cat([text.embeds, *[nothing] * lacking], dim=1), text.pooled)


def _apart(parts: Sequence[Fragment]) -> tuple[list[str], list[float]]:
    return [part.text for part in parts], [part.weight for part in parts]


def _end_at(encoder: Any, end: int) -> None:
    """Old configurations name a token that is none, and transformers then takes the highest for the end of the text:
    that would be a learned word."""
    for module in encoder.modules():
        if getattr(module, "eos_token_id", None) == 2:
            module.eos_token_id = end
