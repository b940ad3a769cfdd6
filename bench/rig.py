"""What is measured on one device, and how long there is for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench import giants
from shared.catalog import Model
from workers import device as device_

GEMM = 8192, 10  # side of the matrices, and how often
QUICK_GEMM = 256, 2


@dataclass
class Rig:
    """`limit_s`: for all of it."""

    device: torch.device
    quick: bool
    folder: Path
    limit_s: float
    began_s: float = field(default_factory=time.monotonic)
    _models: dict[str, Model] = field(default_factory=dict)

    def model(self, family: str) -> Model:
        """One of the family's real size, made when it is first asked for; narrow in a quick bench."""
        if family not in self._models:
            self._models[family] = giants.make(family, self.folder / family, self.device, self.quick)
            self.tidy()
        return self._models[family]

    @property
    def left_s(self) -> float:
        return self.limit_s - (time.monotonic() - self.began_s)

    def seconds(self, work: Callable[[], object]) -> float:
        """Of the device, from the first call to its last kernel."""
        device_.finish(self.device)
        start = time.perf_counter()
        work()
        device_.finish(self.device)
        return time.perf_counter() - start

    def tidy(self) -> None:
        """Give back what is no longer used: others share the device."""
        torch._dynamo.reset()
        device_.free_memory(self.device)

    def share(self, what: str, rate: float, tflop: float, tflops: float) -> str:
        """How much of what products of matrices reach is used; of narrow models nothing is known."""
        used = rate * tflop
        if self.quick:
            return f"{what}: narrow"
        return f"{what}: {used:.0f} TFLOP/s, {100 * used / tflops:.0f} % of what products of matrices reach here"

    def tflops(self) -> float:
        """What large products of matrices in bf16 reach in this very session: the measure of all else."""
        side, times = QUICK_GEMM if self.quick else GEMM
        one = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        for _ in range(2):
            one @ one
        return times * 2 * side**3 / self.seconds(lambda: [one @ one for _ in range(times)]) / 1e12
