"""The one device of a worker process."""

import gc
import os
import socket
import time
from typing import Any

import torch

from shared.settings import Settings

DEVICE = "PIXELMILL_DEVICE"  # set by the supervisor, with CUDA_VISIBLE_DEVICES beside it


def open_device(settings: Settings) -> torch.device:
    """The device that the supervisor chose; a CUDA worker sees one card, so its number is always 0."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    kind = os.environ.get(DEVICE, "cpu").partition(":")[0]
    return torch.device("cuda", 0) if kind == "cuda" else torch.device(kind)


class Moment:
    """A point in what the device was told to do. A CUDA device is told ahead: it comes there later."""

    def __init__(self, device: torch.device):
        self._s = time.perf_counter()
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    @property
    def over(self) -> bool:
        """Whether the device has come there."""
        return self._event is None or bool(self._event.query())

    def wait(self) -> None:
        """Until the device has come there. Raises what it said of anything before."""
        if self._event is not None:
            self._event.synchronize()

    def since(self, earlier: "Moment") -> float:
        """Seconds of the device between the two; waits."""
        if self._event is None or earlier._event is None:
            return self._s - earlier._s
        self.wait()
        return float(earlier._event.elapsed_time(self._event)) / 1000


def describe(device: torch.device) -> str:
    """As results name it: pixels are exact for one device kind and torch build."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}"


def memory_of(device: torch.device) -> str:
    """Whose memory it is: equal for devices of one kind; that of a CPU is its host's own."""
    if device.type != "cuda":
        return f"{describe(device)}, {socket.gethostname()}"
    return f"{describe(device)}, {torch.cuda.get_device_properties(device).total_memory >> 20} MiB"


def dtype(device: torch.device) -> torch.dtype:
    """What networks on it compute in: half of the memory where the device is as fast with it, as CPUs are not."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def place(net: Any, device: torch.device) -> Any:
    """A net of convolutions on its device: CUDA computes them faster with channels last in memory, CPUs do not."""
    return net.to(device, memory_format=torch.channels_last if device.type == "cuda" else torch.preserve_format)


def threads() -> int:
    """CPU threads of one model call; part of what makes a picture again exactly."""
    return torch.get_num_threads()


def finish(device: torch.device) -> None:
    """Wait until it has done what it was given: it works beside us, and a clock would see nothing of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    """Give cached blocks back, after the error that kept them alive is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
