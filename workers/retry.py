"""Pure: what an exception means for the images that ran when it came."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import BadImage

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
# What torch says of a device that fails, and of one that a new process cannot open any more.
BROKEN = ("CUDA error:", "No CUDA GPUs are available", "CUDA driver initialization failed", "cudaGetDeviceCount")


@dataclass(frozen=True)
class Halve:
    """Out of memory: the same images in two smaller batches."""


@dataclass(frozen=True)
class Save:
    """Out of memory: the same image again, with this rung of workers.memory beside those that it has."""

    rung: str


@dataclass(frozen=True)
class Isolate:
    """One image spoils its batch: run each alone."""


@dataclass(frozen=True)
class Bury:
    """The image itself is at fault: its row fails with this reason."""

    error_type: str
    error: str


Action = Halve | Save | Isolate | Bury


def delay_s(tries: int) -> float:
    """How long to wait for a broker or a storage that is away."""
    return min(FIRST_DELAY_S * 2.0**tries, LONGEST_DELAY_S)


def decide(error: BaseException, images: int, left: Sequence[str] = ()) -> Action:
    """`images`: how many ran together; `left`: with what the model can still save memory."""
    if is_out_of_memory(error):
        return _smaller(images, left)
    if images > 1 and not isinstance(error, BadImage):
        return Isolate()
    return Bury(type(error).__name__, str(error) or type(error).__doc__ or "")


def _smaller(images: int, left: Sequence[str]) -> Action:
    if images > 1:
        return Halve()
    return Save(left[0]) if left else Bury("OutOfMemory", "one image alone does not fit into the device's memory")


def is_out_of_memory(error: BaseException) -> bool:
    """By name, so that this file needs no torch: torch's error is a RuntimeError, the CPU allocator's is plain text."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or "DefaultCPUAllocator: can't allocate" in str(error)


def is_broken_device(error: BaseException) -> bool:
    """An error after which every further call on this device fails until the process ends (pytorch#31014)."""
    named = any(words in str(error) for words in BROKEN)
    failed = type(error).__name__ == "AcceleratorError" or (isinstance(error, RuntimeError) and named)
    return failed and not is_out_of_memory(error)
