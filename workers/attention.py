"""The attention of Segment Anything's image encoder in one fused kernel, which never writes out its weights.

The package holds three matrices of (heads, tokens, tokens) at once: scores, scores with positions, weights. Here one is
left, the positions, which the kernel adds. As pytorch-labs/segment-anything-fast does it; the decomposed positions are
those of MViTv2 (arXiv 2112.01526). Equal but for rounding.
"""

from types import MethodType

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch.nn.functional import scaled_dot_product_attention


def fuse(encoder: ImageEncoderViT) -> None:
    """Every block of an encoder whose weights are loaded; the names of its weights stay the package's."""
    for block in encoder.blocks:
        attention = block.attn
        if attention.use_rel_pos:  # looked up once: for each call, a device would wait for the index
            attention.register_buffer("rows", _table(attention.rel_pos_h), persistent=False)
            attention.register_buffer("columns", _table(attention.rel_pos_w), persistent=False)
        attention.forward = MethodType(_forward, attention)


def _table(positions: torch.Tensor) -> torch.Tensor:
    """(n, n, C): of each place along a side, the weights of each other one; from (2n - 1, C), by their distance."""
    side = (len(positions) + 1) // 2
    return get_rel_pos(side, side, positions.detach())


def _forward(self: Attention, x: torch.Tensor) -> torch.Tensor:
    """(batch, height, width, heads * C) of any float, to the same; one window or one picture is one of the batch."""
    batch, height, width, _ = x.shape
    split = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1)
    query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
    bias = _bias(query, self.rows, self.columns) if self.use_rel_pos else None
    mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return self.proj(mixed.transpose(1, 2).reshape(x.shape))


def _bias(query: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(batch, heads, tokens, tokens): a query at (y, x) adds q . rows[y, v] + q . columns[x, u] for the key at (v, u).

    query: (batch, heads, tokens, C), tokens row by row.
    """
    batch, heads, tokens, _ = query.shape
    grid = query.reshape(batch, heads, len(rows), len(columns), -1)
    # einsum leaves its axes in an order of its own; the sum would inherit it, and be copied as a whole.
    down = torch.einsum("bnyxc,yvc->bnyxv", grid, rows).contiguous()
    across = torch.einsum("bnyxc,xuc->bnyxu", grid, columns).contiguous()
    return (down[..., :, None] + across[..., None, :]).view(batch, heads, tokens, tokens)
