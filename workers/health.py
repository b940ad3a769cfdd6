"""Whether this host's workers live and can take work: the supervisor writes it, `python -m workers health` reads it.

A file, not the broker: workers that wait for a broker live.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

BEAT_S = 2.0
SILENT_S = 30.0
RUNS = "runs"


@dataclass(frozen=True)
class State:
    """What a supervisor last wrote; times by the host's monotonic clock. `workers`: name -> RUNS, or what is wrong."""

    beat_s: float
    announced_s: float | None
    workers: Mapping[str, str]


def judge(state: State | None, now_s: float, live: bool) -> tuple[bool, list[str]]:
    """Whether all is well enough, and a line for each thing that a person should know. `live`: ask for a sign of life
    only, not whether work can be taken."""
    if state is None:
        return False, ["no supervisor of this user runs here: start one with `python -m workers`"]
    silent_s = now_s - state.beat_s
    if not 0 <= silent_s <= SILENT_S:
        return False, [
            f"the supervisor was last heard of {silent_s:.0f} s ago, expected every {BEAT_S:g} s: restart it"
        ]
    lines = [f"{name}: {what}" for name, what in state.workers.items()]
    known = state.announced_s is not None and now_s - state.announced_s <= SILENT_S
    if not known:
        lines.append("the broker has not heard of these workers lately: see the supervisor's log")
    return live or (known and RUNS in state.workers.values()), lines


def place() -> Path:
    """One for each user; a second supervisor of the same user needs a TMPDIR of its own."""
    return Path(tempfile.gettempdir(), f"pixelmill-workers-{os.getuid()}.json")


def write(state: State, private: Path) -> None:
    """`private`: a folder that nobody else may write, on the same disk as the place."""
    fresh = private / "health.json"
    fresh.write_text(json.dumps(asdict(state)), encoding="utf-8")
    fresh.replace(place())


def read() -> State | None:
    """What this user's supervisor wrote last; None if it has ended or none ever ran."""
    with suppress(FileNotFoundError):
        if place().stat().st_uid == os.getuid():  # the folder is everybody's
            return State(**json.loads(place().read_text(encoding="utf-8")))
    return None


def main(options: list[str]) -> int:
    """`python -m workers health [--live]`: the exit code."""
    if options not in ([], ["--live"]):
        print(f"workers: found {' '.join(options)!r}; expected `python -m workers health`, or with `--live`")
        return 2
    good, lines = judge(read(), time.monotonic(), live=bool(options))
    print("\n".join(lines))
    return 0 if good else 1
