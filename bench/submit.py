"""A million rows, checked, hashed and submitted: against one message per row, and what it costs in memory."""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import redis

from bench import prompts
from bench.messages import Messages
from bench.site import BenchError, Site
from bench.table import Line, Part, number

ROWS, QUICK_ROWS = 1_000_000, 20_000
FEW_ROWS = 1_000
MESSAGES = 4_000
PROFILED_ROWS = 50_000
GOAL_RATE = 60_000
GOAL_RATIO = 20.0
GOAL_MIB = 16.0
GOAL_BYTES = 60.0
SETTLE_S = 1.5  # until the broker has written its log and let its buffers go


def measure(site: Site) -> Part:
    """Each submission in a process of its own; messages before and after."""
    environment = site.environment()
    count = QUICK_ROWS if site.quick else ROWS
    many, few, some = (prompts.write_full(site.folder / f"{n}.csv", n) for n in (count, FEW_ROWS, MESSAGES))
    url = environment["PIXELMILL_REDIS_URL"]
    with closing(Messages(site.environment()["PIXELMILL_REDIS_URL"])) as messages, redis.Redis.from_url(url) as broker:
        singles = [messages.send(some)]
        small = _submit(environment, few, "few")
        before = _used_bytes(broker)
        large = _submit(environment, many, "many")
        grown = _used_bytes(broker) - before
        singles.append(messages.send(some))
    part = Part(_lines(large, small, grown, singles), _notes(large, many))
    if part.missed:
        part.profile = _profile(environment, prompts.write_full(site.folder / "profiled.csv", PROFILED_ROWS))
    many.unlink()
    return part


def _lines(large: dict[str, float], small: dict[str, float], grown: int, singles: list[float]) -> list[Line]:
    rate, single = large["rows"] / (large["check_s"] + large["submit_s"]), statistics.mean(singles)
    shown = f"{number(rate)} rows/s"
    growth = large["peak_mib"] - small["peak_mib"]
    memory = f"{large['peak_mib']:.0f} MiB", f"{small['peak_mib']:.0f} MiB for {FEW_ROWS:,} rows"
    per_row = grown / large["rows"]
    return [
        Line(f"{large['rows']:,} rows checked, hashed, submitted", shown, "", rate, "rows/s", GOAL_RATE),
        Line("over one `apply_async` per row", shown, f"{number(single)} rows/s", rate / single, "x", GOAL_RATIO),
        Line("producer memory: growth of its peak", *memory, growth, "MiB", GOAL_MIB, at_least=False),
        Line("broker memory per row", f"{grown / 1e6:.1f} MB", "", per_row, "bytes", GOAL_BYTES, at_least=False),
    ]


def _notes(large: dict[str, float], path: Path) -> list[str]:
    return [
        f"{path.stat().st_size / 1e6:.0f} MB of CSV: checked in {large['check_s']:.1f} s, then read again, hashed, "
        f"cut into shards and submitted in {large['submit_s']:.1f} s"
    ]


def _submit(environment: dict[str, str], path: Path, run: str) -> dict[str, float]:
    measured: dict[str, float] = json.loads(_child(environment, path, run))
    return measured


def _profile(environment: dict[str, str], path: Path) -> list[str]:
    return [f"profile of {PROFILED_ROWS:,} rows:", *_child(environment, path, "profiled", "--profile").splitlines()]


def _child(environment: dict[str, str], path: Path, run: str, *more: str) -> str:
    command = [sys.executable, "-m", "bench.submission", str(path), run, *more]
    answer = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise BenchError(f"submitting {path.name} failed:\n{answer.stderr.strip()}")
    return answer.stdout


def _used_bytes(broker: Any) -> int:
    time.sleep(SETTLE_S)
    return int(broker.info("memory")["used_memory"])
