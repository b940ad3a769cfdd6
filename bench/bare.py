"""`python -m bench.bare FOLDER DEVICE`: the loop that a person would write with diffusers, one thread, nothing around
it; on CUDA in bfloat16 with channels last, as a worker does.

Reads a request per line, {"jobs": [...], "batch": n, "save": path}, and answers {"seconds": s}. The clock runs from the
prompts to uint8 pixels on the host; saving them for the comparison comes after.
"""

import json
import sys
import time
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from shared.schedulers import SCHEDULERS

Job = dict[str, Any]


def load(folder: str, device: str) -> Any:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, local_files_only=True, safety_checker=None, requires_safety_checker=False, dtype=dtype
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    if device == "cuda":
        for net in (pipeline.unet, pipeline.vae):
            net.to(memory_format=torch.channels_last)
    return pipeline


def run(pipeline: Any, jobs: list[Job], batch: int) -> list[np.ndarray]:
    """Pictures, NHWC uint8, one array per batch."""
    return [draw(pipeline, jobs[start : start + batch]) for start in range(0, len(jobs), batch)]


def draw(pipeline: Any, jobs: list[Job]) -> np.ndarray:
    """One call of the pipeline. The settings but prompt and seed are those of the first job."""
    first = jobs[0]
    scheduler = SCHEDULERS[first["scheduler"]]
    scheduler_class = getattr(diffusers, scheduler.class_name)
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **scheduler.config)
    images = pipeline(
        prompt=[job["prompt"] for job in jobs],
        generator=[torch.Generator().manual_seed(job["seed"]) for job in jobs],
        width=first["width"],
        height=first["height"],
        num_inference_steps=first["num_inference_steps"],
        guidance_scale=first["guidance_scale"],
        output_type="pt",
    ).images
    pictures = images.float().mul(255).round().to(torch.uint8)  # on the device, as a careful person would
    return pictures.permute(0, 2, 3, 1).cpu().numpy()


def serve(folder: str, device: str) -> None:
    torch.set_num_threads(1)
    pipeline = load(folder, device)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        pictures = run(pipeline, request["jobs"], request["batch"])
        seconds = time.perf_counter() - start
        np.save(request["save"], np.concatenate(pictures))
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
