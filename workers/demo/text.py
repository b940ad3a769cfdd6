"""Stage 2: the tokenizer, and a text encoder that learns, as CLIP does, which caption belongs to which picture."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from workers.demo.config import Data, Text
from workers.demo.data import Pictures

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""  # CLIP's way of cutting a text


def train_tokenizer(texts: list[str], data: Data, folder: Path) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's end-of-word mark; folder gets vocab.json, merges.txt and the tokenizer's settings."""
    bpe = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=EOS))
    clean = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    bpe.normalizer = normalizers.Sequence(clean)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=data.vocabulary, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(sorted(set(texts)), trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *map("".join, merges), BOS, EOS]
    return _save(tokens, merges, data.max_tokens, folder)


def _save(tokens: list[str], merges: list[tuple[str, str]], max_tokens: int, folder: Path) -> CLIPTokenizer:
    """Write the files in the order that CLIP uses: bytes, bytes that end a word, merges, special tokens."""
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_tokens)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, padded: NxL int64."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def build(config: Text, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            projection_dim=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Matcher(nn.Module):
    """Text encoder and a small image encoder that map a caption and its picture to the same place."""

    def __init__(self, config: Text, text: CLIPTextModel):
        super().__init__()
        self.text = text
        self.vision = _vision(config)
        self.project = nn.Linear(config.width, config.width, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.5))  # log of the inverse temperature

    def embed_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """NxL token ids -> NxD, the mean over the end and all padding: the diffusion model reads all of them."""
        hidden = self.text(tokens).last_hidden_state
        ended = (tokens == self.text.config.eos_token_id).unsqueeze(-1)
        return functional.normalize(self.project((hidden * ended).sum(1) / ended.sum(1)), dim=-1)

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Contrastive loss of N pictures (NCHW in [-1, 1]) and their N captions (NxL)."""
        image, text = functional.normalize(self.vision(pixels), dim=-1), self.embed_text(tokens)
        scores = (self.scale.clamp(max=4.0).exp() * image @ text.T).float()
        target = torch.arange(len(scores))
        return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2


def _vision(config: Text) -> nn.Module:
    """NCHW picture -> NxD."""
    width, last = config.width, config.picture // 8
    return nn.Sequential(
        nn.Conv2d(3, width // 2, 3, 2, 1),
        nn.GELU(),
        nn.Conv2d(width // 2, width, 3, 2, 1),
        nn.GELU(),
        nn.Conv2d(width, width, 3, 2, 1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(width * last * last, 2 * width),
        nn.GELU(),
        nn.Linear(2 * width, width),
    )


@dataclass
class Task:
    """What one training step of the text encoder does."""

    config: Text
    pictures: torch.Tensor  # NCHW uint8 in [0, 255], already small
    tokens: torch.Tensor  # NxVxL int64: V captions of each picture
    model: Matcher

    def loss(self, rng: np.random.Generator, _noise: torch.Generator) -> torch.Tensor:
        picks = torch.from_numpy(rng.integers(len(self.pictures), size=self.config.batch_size))
        variant = torch.from_numpy(rng.integers(self.tokens.shape[1], size=len(picks)))
        return self.model(self.pictures[picks].float() / 127.5 - 1, self.tokens[picks, variant])


def shrink(pictures: Pictures, side: int) -> torch.Tensor:
    """Pictures averaged down to side x side: NCHW uint8 in [0, 255]."""
    parts = [pictures.images[i : i + 256] for i in range(0, len(pictures.images), 256)]
    small = [
        functional.interpolate(torch.from_numpy(part).permute(0, 3, 1, 2).float(), (side, side), mode="area")
        for part in parts
    ]
    return torch.cat([part.round().byte() for part in small])


def tokenize_all(tokenizer: CLIPTokenizer, pictures: Pictures) -> torch.Tensor:
    """NxVxL int64; pictures with fewer captions than others repeat theirs."""
    variants = max(map(len, pictures.captions))
    texts = [captions[i % len(captions)] for captions in pictures.captions for i in range(variants)]
    return tokenize(tokenizer, texts).reshape(len(pictures.captions), variants, -1)
