"""How long a person waits for `produce --help`."""

import subprocess
import sys
import time
from pathlib import Path

from bench import table
from bench.site import BenchError, Site
from bench.table import Line, Part

TRIES = 5
GOAL_S = 0.5
SLOWEST = 12
COMMAND = Path(sys.executable).with_name("produce")


def measure(_site: Site) -> Part:
    """Whole processes; the first is not counted."""
    times = [_help() for _ in range(TRIES + 1)][1:]
    middle = sorted(times)[TRIES // 2]
    line = Line("`produce --help`", f"{middle:.2f} s", "", middle, "s", GOAL_S, False, table.spread(times))
    return Part([line], profile=[] if line.met else _imports())


def _help() -> float:
    if not COMMAND.exists():
        raise BenchError(f"there is no {COMMAND}; run `make install`")
    start = time.perf_counter()
    subprocess.run([COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _imports() -> list[str]:
    """The imports that take longest, by Python itself: microseconds alone, with what they import, name."""
    command = [sys.executable, "-X", "importtime", str(COMMAND), "--help"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.removeprefix("import time:").split("|") for line in answer.stderr.splitlines() if "|" in line]
    slowest = sorted((line for line in lines if line[1].strip().isdigit()), key=lambda line: -int(line[1]))
    shown = [f"{int(total) / 1000:6.0f}  {name.strip()}" for _, total, name in slowest[:SLOWEST]]
    return ["imports, ms with all they import:", *shown]
