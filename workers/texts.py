"""What a model makes of texts: encoded once each, and kept. Prompts may weigh their words and have any length."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from shared import embeddings
from shared.errors import BadInput
from workers.weights import Fragment, fragments

TEXTS_KEPT = 512  # 60 MB of a half-precision Stable Diffusion 1.5, 160 MB of an XL
COUNTS_KEPT = 4096  # of how many windows a text needs, which is asked several times
# Texts in one run of an encoder, by kind of device. A run on CUDA costs its hundreds of launches, however few texts go
# in. It has always this many: the same text in another number of neighbours would differ by rounding.
TOGETHER = {"cuda": 8}
NOTHING = Fragment("", 1.0)


class Encoded(NamedTuple):
    """One text: (1, tokens, width); of Stable Diffusion XL also the second encoder's summary, (1, width)."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None


class Wanted(NamedTuple):
    """`second`: what the second encoder reads, if it is another text. `empty_is_zero`: where the model was trained so,
    a negative prompt that says nothing is no text but zeros."""

    text: str
    clip_skip: int = 0
    empty_is_zero: bool = False
    second: str = ""


class Plain(NamedTuple):
    """What the encoders read as it is, in one run: of the first, of the second, and how many layers are skipped."""

    text: str
    second: str
    skipped: int | None


class Texts:
    """The texts of one model. A text of more tokens than the encoder takes goes through it in windows of that size."""

    def __init__(self, pipeline: Any, device: torch.device):
        self.pipeline = pipeline
        self.device = device
        self._count = lru_cache(COUNTS_KEPT)(self._counted)
        self.encoded = 0  # texts, so far
        self._kept: OrderedDict[Wanted, Encoded] = OrderedDict()
        self.tokens: dict[str, str] = {}  # what stands for each textual inversion that was learned
        self._expected: dict[Plain, None] = {}  # in this order
        self._ran: dict[Plain, Encoded] = {}  # on the way, and not asked for yet

    def arguments(self, jobs: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Prompts and negative prompts as a pipeline takes them, one row per job; all of equally many `windows`."""
        wanted, unwanted = [], []
        for job in jobs:
            count = self.windows(job)
            prompt, negative = self._wanted(job)
            wanted.append(self._filled(self.encode(*prompt), count, job.clip_skip))
            unwanted.append(self._filled(self.encode(*negative), count))
        sides = {"": wanted, "negative_": unwanted}
        embeds = {f"{side}prompt_embeds": torch.cat([text.embeds for text in texts]) for side, texts in sides.items()}
        pooled = {side: [text.pooled for text in texts if text.pooled is not None] for side, texts in sides.items()}
        return embeds | {f"{side}pooled_prompt_embeds": torch.cat(texts) for side, texts in pooled.items() if texts}

    def expect(self, jobs: Sequence[Any]) -> None:
        """These will be asked for soon: where several texts are encoded in one run, theirs go along."""
        self._expected, self._ran = {}, {}
        if self.pipeline is None or self._together() == 1:
            return
        new = (each for job in jobs for each in self._wanted(job) if each not in self._kept)
        for each in new:
            plain, weighed = self._parsed(self._read(each.text, each.second))
            if not weighed:
                self._expected[Plain(plain[0], plain[-1], each.clip_skip or None)] = None

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
        self._count.cache_clear()
        self.tokens[name] = " ".join(tokens)  # of the first encoder as of the second

    def _encoders(self) -> list[tuple[Any, Any]]:
        pipeline = self.pipeline
        return [(getattr(pipeline, f"tokenizer{end}"), getattr(pipeline, f"text_encoder{end}")) for end in self._ends()]

    def _ends(self) -> list[str]:
        """Of the names of its tokenizers and text encoders; the refiner has the second one of Stable Diffusion XL
        alone."""
        return [end for end in ("", "_2") if getattr(self.pipeline, f"tokenizer{end}", None) is not None]

    def _wanted(self, job: Any) -> tuple[Wanted, Wanted]:
        """Of prompt and negative prompt; diffusers skips no layers of negative prompts."""
        prompt, negative, prompt_2, negative_2 = self._said(job)
        return Wanted(prompt, job.clip_skip, second=prompt_2), Wanted(negative, empty_is_zero=True, second=negative_2)

    def _said(self, job: Any) -> list[str]:
        """The job's texts, tokens in the place of textual inversions: prompt, negative prompt, and both for the second
        encoder."""
        tokens = {name: self.tokens[name] for name in job.embeddings}
        texts = (job.prompt, job.negative_prompt, job.prompt_2, job.negative_prompt_2)
        return [embeddings.replaced(text, tokens) for text in texts]

    def forget(self) -> None:
        """The text encoders have changed."""
        self._kept.clear()
        self._ran.clear()

    def _counted(self, text: str) -> int:
        most = self._most_tokens()
        if len(text.encode()) <= most - 2:  # a token is a byte at least
            return 1
        parts = fragments(text)
        tokens, _, _ = self._provider(0, 0).get_token_ids_and_expand_weights(*_apart(parts), device="cpu")
        return int(len(tokens) // most)

    def encode(self, text: str, clip_skip: int = 0, empty_is_zero: bool = False, second: str = "") -> Encoded:
        """A text, see `Wanted`: encoded now unless it is kept. Raises BadInput."""
        wanted = Wanted(text, clip_skip, empty_is_zero, second)
        if wanted not in self._kept:
            self._kept[wanted] = self._encode(*wanted)
            self.encoded += 1
            while len(self._kept) > TEXTS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(wanted)
        return self._kept[wanted]

    @torch.inference_mode()
    def _encode(self, text: str, clip_skip: int, empty_is_zero: bool, second: str) -> Encoded:
        layers = self._encoders()[0][1].config.num_hidden_layers
        if clip_skip >= layers:
            raise BadInput(f"clip_skip is {clip_skip}; the model's text encoder has {layers} layers: give less")
        texts = self._read(text, second)
        count = max(map(self._count, texts))
        plain, weighed = self._parsed(texts)
        parts = [fragments(each) or [NOTHING] for each in texts]
        if not hasattr(self.pipeline, "text_encoder_2"):
            if weighed or clip_skip:
                return Encoded(self._embeds(0, parts[0], clip_skip), None)
            return self._run(Plain(plain[0], plain[-1], None))
        embeds, pooled = self._run(Plain(plain[0], plain[-1], clip_skip or None))
        if empty_is_zero and not text and not second and self.pipeline.config.force_zeros_for_empty_prompt:
            return Encoded(torch.zeros_like(embeds), None if pooled is None else torch.zeros_like(pooled))
        if weighed:
            embeds = torch.cat([self._windows(n, each, clip_skip + 1, count) for n, each in enumerate(parts)], dim=-1)
        return Encoded(embeds, pooled)

    def _parsed(self, texts: Sequence[str]) -> tuple[list[str], bool]:
        """The texts without weights, and whether a run that reads them as they are would miss something."""
        parts = [fragments(each) or [NOTHING] for each in texts]
        weighed = any(part.weight != 1 for each in parts for part in each) or max(map(self._count, texts)) > 1
        return ["".join(part.text for part in each) for each in parts], weighed

    def _together(self) -> int:
        return TOGETHER.get(self.device.type, 1)

    def _run(self, wanted: Plain) -> Encoded:
        """With what is expected beside it, always equally many: what they say does not matter to each other."""
        if wanted not in self._ran:
            alike = [each for each in self._expected if each.skipped == wanted.skipped and each != wanted]
            some = [wanted, *alike][: self._together()]
            filled = [*some, *[Plain("", "", wanted.skipped)] * (self._together() - len(some))]
            self._ran.update(zip(some, self._prompts(filled), strict=False))
            for each in some:
                self._expected.pop(each, None)
        return self._ran.pop(wanted)

    def _prompts(self, texts: Sequence[Plain]) -> list[Encoded]:
        """As diffusers' own pipelines encode prompts."""
        first, second = [each.text for each in texts], [each.second for each in texts]
        if not hasattr(self.pipeline, "text_encoder_2"):
            embeds = self.pipeline.encode_prompt(first, self.device, 1, False)[0]
            return [Encoded(one.clone(), None) for one in embeds.split(1)]
        skipped = texts[0].skipped
        embeds, _, pooled, _ = self.pipeline.encode_prompt(first, second, self.device, 1, False, clip_skip=skipped)
        # Each has memory of its own: a part of the run would keep all of it.
        return [Encoded(one.clone(), sum_.clone()) for one, sum_ in zip(embeds.split(1), pooled.split(1), strict=True)]

    def _read(self, text: str, second: str) -> list[str]:
        """What each of the encoders reads."""
        by_end = {"": text, "_2": second or text}
        return [by_end[end] for end in self._ends()]

    def _most_tokens(self) -> int:
        """Of one window, its beginning and end among them."""
        most: int = self._encoders()[0][0].model_max_length
        return most

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
