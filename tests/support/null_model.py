"""A model that costs nothing: it draws a gradient from the seed. For tests of everything around a model.

What a prompt may ask for, to stage faults: `kill` ends the process, `fail` raises, `nan` and `black` spoil the picture,
`memory` fails in any batch above one image, `slow` takes a second; `segfault`, `leave` and `sys-exit` end the process
in other ways, `shortage` is Python's own MemoryError, `hang` and `grip` never return, `broken` is a device that answers
no more, until the process ends. Where NULL_MODEL_FAULTY names a file, the device
breaks at its first model call, and from then on whenever a model is loaded.
"""

import ctypes
import json
import os
import signal
import time

import numpy as np
import torch

from workers import models
from workers.loaded import Loaded
from workers.pipelines import runners


class TestOutOfMemoryError(RuntimeError):
    pass


TestOutOfMemoryError.__name__ = "OutOfMemoryError"


def load(entry, device):
    if os.path.exists(os.environ.get("NULL_MODEL_FAULTY", "")):
        raise RuntimeError("CUDA error: unspecified launch failure\nCompile with more words")
    return Loaded(entry.name, entry.identity, torch.device("cpu"), None, 1)


def leave_by_exit():
    raise SystemExit(1)


def run_short():
    raise MemoryError("no memory is left")


def hang():
    while True:
        time.sleep(1)


def grip():
    """As `hang`, with Python's lock held: no other thread of the process runs."""
    ctypes.PyDLL(None).sleep(100_000)


def break_device():
    """Once per test; then a new process finds the device usable."""
    mark = os.environ["NULL_MODEL_DRAWN"] + ".broken"
    if not os.path.exists(mark):
        with open(mark, "w"):
            raise RuntimeError("CUDA error: device-side assert triggered")


ENDS = {
    "segfault": lambda: ctypes.string_at(0),
    "leave": lambda: os._exit(3),
    "sys-exit": leave_by_exit,
    "shortage": run_short,
    "hang": hang,
    "grip": grip,
    "broken": break_device,
}


def draw(items, model, on_step):
    prompts = [item.row.job.prompt for item in items]
    if faulty := os.environ.get("NULL_MODEL_FAULTY"):
        open(faulty, "w").close()
        raise RuntimeError("CUDA error: unspecified launch failure\nCompile with more words")
    for word, end in ENDS.items():
        if any(word in prompt for prompt in prompts):
            end()
    if any("kill" in prompt for prompt in prompts):
        os.kill(os.getpid(), signal.SIGKILL)
    if any("fail" in prompt for prompt in prompts):
        raise ValueError("this prompt fails")
    if any("memory" in prompt for prompt in prompts) and len(items) > 1:
        raise TestOutOfMemoryError("out of memory")
    for step in range(items[0].row.job.num_inference_steps):
        if any("slow" in prompt for prompt in prompts):
            time.sleep(0.05)
        on_step(step)
    with open(os.environ["NULL_MODEL_DRAWN"], "a") as drawn:
        drawn.writelines(f"{prompt}\n" for prompt in prompts)
    with open(os.environ["NULL_MODEL_DRAWN"] + ".calls", "a") as calls:
        calls.write(json.dumps(prompts) + "\n")
    return [picture(item) for item in items]


def picture(item):
    job = item.row.job
    if "nan" in job.prompt:
        return None
    if "black" in job.prompt:
        return np.zeros((job.height, job.width, 3), np.uint8)
    rng = np.random.default_rng(item.seed)
    ramp = np.linspace(0, 200, job.width)[None, :, None] + rng.integers(0, 55, 3)
    return np.broadcast_to(ramp, (job.height, job.width, 3)).astype(np.uint8)


models.LOADERS["sd15"] = load
runners.RUNNERS["txt2img"] = draw
