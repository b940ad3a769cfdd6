"""A real pipeline of diffusers on a device that is short of memory: what fits is decided by what its parts are given.

Pictures of 64 pixels need nothing; wider ones one image per call and tiles; of 192 also slices of attention, of 256
also parts on the CPU; of 320 nothing helps, nor does anything help a prompt of two windows. At 64 pixels three images
are too many. Every call of the UNet is a line of $NULL_MODEL_DRAWN: width in pixels, images, and what was switched on.
"""

import json
import os

import torch
from diffusers.models.attention_processor import SlicedAttnProcessor

from workers import diffusion, memory, models

memory.APART = ("cpu",)  # so that the last rung is offered


def load(entry, device):
    model = diffusion.load(entry, device)
    parts = model.pipeline.components

    def switched_on():
        sliced = any(isinstance(each, SlicedAttnProcessor) for each in parts["unet"].attn_processors.values())
        on = (parts["vae"].use_tiling and parts["vae"].use_slicing, sliced, hasattr(parts["unet"], "_hf_hook"))
        return [rung for rung, is_on in zip(memory.LADDER, on, strict=True) if is_on]

    def before_unet(_, arguments, named):
        side, images = arguments[0].shape[-1], arguments[0].shape[0] // 2  # each twice, guided and not
        with open(os.environ["NULL_MODEL_DRAWN"], "a") as calls:
            calls.write(json.dumps([side * 8, images, switched_on()]) + "\n")
        long = named["encoder_hidden_states"].shape[1] > model.pipeline.tokenizer.model_max_length
        needed = {8: 0, 16: 0, 24: 2, 32: 3}.get(side, 9)
        if long or images > (2 if side == 8 else 1) or len(switched_on()) < needed:
            raise torch.OutOfMemoryError("the UNet is out of memory")

    def before_decoder(_, arguments):
        if arguments[0].shape[-1] > parts["vae"].tile_latent_min_size:
            raise torch.OutOfMemoryError("the autoencoder is out of memory")

    parts["unet"].register_forward_pre_hook(before_unet, with_kwargs=True)
    parts["vae"].decoder.register_forward_pre_hook(before_decoder)
    return model


models.LOADERS["sd15"] = load
