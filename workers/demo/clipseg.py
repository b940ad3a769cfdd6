"""A small CLIPSeg model, as transformers builds it, and how it learns which part of a picture a phrase names."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer

from workers.demo import phrases, text
from workers.demo.config import Phrases
from workers.demo.pictures import Pictures

MEAN = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)


def build(config: Phrases, size: int, tokenizer: CLIPTokenizer) -> CLIPSegForImageSegmentation:
    common = {"attention_dropout": 0.0}
    texts = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.text_width,
        "intermediate_size": 4 * config.text_width,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "image_size": size,
        "patch_size": config.patch,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
    }
    last = config.layers - 1
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config=texts | common,
            vision_config=vision | common,
            projection_dim=config.decoder,
            reduce_dim=config.decoder,
            extract_layers=[last - 2, last - 1, last],
            decoder_num_attention_heads=config.heads,
            decoder_intermediate_size=4 * config.decoder,
            use_complex_transposed_convolution=True,
        )
    )
    decoder = model.decoder
    for layer in (decoder.film_mul, decoder.film_add, *decoder.reduces, *decoder.transposed_convolution):
        if not isinstance(layer, nn.ReLU):
            layer.reset_parameters()  # transformers starts these with a deviation of 1: logits in the hundreds
    return model


def predict(model: CLIPSegForImageSegmentation, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (N, h, w) of N phrases (N, L) over B pictures (B, 3, H, W, normalized), N / B phrases each.

    The model's own `forward` lets only the decoder learn; here everything does.
    """
    seen = model.clip.vision_model(pixels, output_hidden_states=True).hidden_states
    times = len(tokens) // len(pixels)
    levels = tuple(seen[layer + 1].repeat_interleave(times, 0) for layer in model.extract_layers)
    return model.decoder(levels, model.clip.get_text_features(tokens).pooler_output).logits


def normalized(images: np.ndarray) -> torch.Tensor:
    """NHWC uint8 in [0, 255] -> NCHW float32."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None]


@dataclass
class Task:
    """What one training step of the model does."""

    config: Phrases
    pictures: Pictures
    tokenizer: CLIPTokenizer
    model: CLIPSegForImageSegmentation

    def loss(self, rng: np.random.Generator, _noise: torch.Generator) -> torch.Tensor:
        picks = rng.integers(len(self.pictures.images), size=self.config.batch_size)
        asked = [
            (phrases.draw(rng, self.pictures.objects[i]), i)
            for i in picks.tolist()
            for _ in range(self.config.phrases_per_picture)
        ]
        wanted = np.stack([phrases.mask(p, self.pictures.objects[i], self.pictures.labels[i]) for p, i in asked])
        tokens = text.tokenize(self.tokenizer, [phrase.text for phrase, _ in asked])
        logits = predict(self.model, normalized(self.pictures.varied(rng, picks)), tokens).float()
        target = functional.adaptive_avg_pool2d(
            torch.from_numpy(wanted).float()[:, None], (logits.shape[1], logits.shape[2])
        )[:, 0]
        return masks_loss(logits, target)


def masks_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    cross = functional.binary_cross_entropy_with_logits(logits, target)
    covered = logits.sigmoid()
    dice = 1 - (2 * (covered * target).sum((1, 2)) + 1) / (covered.sum((1, 2)) + target.sum((1, 2)) + 1)
    return 4 * cross + dice.mean()
