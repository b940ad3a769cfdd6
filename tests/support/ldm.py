"""A pipeline's tensors under the names of the original repositories, as single files of Stable Diffusion spell them."""

import re
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def checkpoint(pipeline: Any) -> Tensors:
    """All of a pipeline's tensors, as one file of its family holds them."""
    is_xl = hasattr(pipeline, "text_encoder_2")
    found = _under("model.diffusion_model.", unet(pipeline.unet))
    found |= _under("first_stage_model.", vae(pipeline.vae))
    if is_xl and pipeline.text_encoder is None:
        found |= _under("conditioner.embedders.0.model.", open_clip(pipeline.text_encoder_2))
    elif is_xl:
        found |= _under("conditioner.embedders.0.transformer.", clip(pipeline.text_encoder))
        found |= _under("conditioner.embedders.1.model.", open_clip(pipeline.text_encoder_2))
    elif pipeline.unet.config.use_linear_projection:
        found |= _under("cond_stage_model.model.", open_clip(pipeline.text_encoder))
    else:
        found |= _under("cond_stage_model.transformer.", clip(pipeline.text_encoder))
    return {name: tensor.contiguous() for name, tensor in found.items()}


def unet(net: torch.nn.Module) -> Tensors:
    layers = net.config.layers_per_block
    return {_unet_name(name, layers): tensor for name, tensor in net.state_dict().items()}


def _unet_name(name: str, layers: int) -> str:
    for end, ldm in _UNET_ENDS.items():
        if name.startswith(f"{end}."):
            return name.replace(end, ldm, 1)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, number, rest = found.groups()
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{_resnet(kind, rest)}"
    found = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    assert found is not None, name
    side, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv.', 'op.')}"
    if side == "down":
        return f"input_blocks.{1 + block * (layers + 1) + number}.{int(kind == 'attentions')}.{_resnet(kind, rest)}"
    if kind == "upsamplers":
        return f"output_blocks.{(block + 1) * (layers + 1) - 1}.UP.{rest}"
    return f"output_blocks.{block * (layers + 1) + number}.{int(kind == 'attentions')}.{_resnet(kind, rest)}"


def _resnet(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    part, _, end = rest.partition(".")
    return f"{_RESNET[part]}.{end}"


def vae(net: torch.nn.Module) -> Tensors:
    most = len(net.config.block_out_channels) - 1
    return dict(_vae_entry(name, tensor, most) for name, tensor in net.state_dict().items())


def _vae_entry(name: str, tensor: torch.Tensor, most: int) -> tuple[str, torch.Tensor]:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{most - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{most - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, ldm in _ATTENTION.items():
            name = name.replace(f".{ours}.", f".{ldm}.")
        if tensor.ndim == 2:  # there they are convolutions of one pixel
            tensor = tensor[:, :, None, None]
    return name, tensor


def clip(net: torch.nn.Module) -> Tensors:
    """Its own names; newer transformers leave the `text_model.` out."""
    return {f"text_model.{name.removeprefix('text_model.')}": value for name, value in net.state_dict().items()}


def open_clip(net: torch.nn.Module) -> Tensors:
    state = {name.removeprefix("text_model."): value for name, value in net.state_dict().items()}
    found = {
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": state.pop("final_layer_norm.weight"),
        "ln_final.bias": state.pop("final_layer_norm.bias"),
    }
    state.pop("embeddings.position_ids", None)
    if "text_projection.weight" in state:
        found["text_projection"] = state.pop("text_projection.weight").T
    for layer in sorted({name.split(".")[2] for name in state}):
        for end in ("weight", "bias"):
            parts = [state.pop(f"encoder.layers.{layer}.self_attn.{which}_proj.{end}") for which in "qkv"]
            found[f"transformer.resblocks.{layer}.attn.in_proj_{end}"] = torch.cat(parts)
    for name, value in state.items():
        renamed = name.replace("encoder.layers.", "transformer.resblocks.")
        for ours, theirs in _OPEN_CLIP.items():
            renamed = renamed.replace(ours, theirs)
        found[renamed] = value
    return found


def _under(prefix: str, tensors: Tensors) -> Tensors:
    """With a prefix; an upsampler comes after a block's attention, or in its place where there is none."""
    found = {}
    for name, value in tensors.items():
        block, mark, rest = name.partition(".UP.")
        if mark:
            place = 2 if any(other.startswith(f"{block}.1.") for other in tensors) else 1
            name = f"{block}.{place}.{rest}"  # noqa: PLW2901  # the loop's name is what it is about
        found[prefix + name] = value
    return found
