"""Long and weighed texts through a text encoder, by compel: it cuts between words and scales what they mean."""

from typing import Any

import torch
from compel.embeddings_provider import EmbeddingsProvider, SplitLongTextMode


class Provider(EmbeddingsProvider):
    """Of one encoder."""

    def __init__(self, tokenizer: Any, encoder: Any, skipped: int, bare: bool):
        """`skipped`: how many of its last layers are left out. `bare`: without the last norm, as Stable Diffusion XL
        takes it."""
        super().__init__(
            tokenizer,
            encoder,
            truncate=False,
            split_long_text_mode=SplitLongTextMode.WORDS,
            dtype_for_device_getter=lambda _: encoder.dtype,
        )
        self.skipped = skipped
        self.bare = bare

    def _encode_token_ids_to_embeddings(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """compel knows two depths, and looks for the last norm where transformers has none any more."""
        # All ones say nothing, and diffusers says nothing: whoever masks nothing must get what diffusers gets.
        mask = None if attention_mask is None or bool(attention_mask.all()) else attention_mask
        hidden = self.text_encoder(token_ids, mask, output_hidden_states=True).hidden_states[-(self.skipped + 1)]
        normed: torch.Tensor = hidden if self.bare else self.text_encoder.final_layer_norm(hidden)
        return normed.to(self.text_encoder.dtype)
