"""When a device that breaks again and again gets no more work: worker processes note it, the supervisor decides.

Neither torch nor a broker is needed for it. Whoever starts the supervisor anew lets the device begin anew.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DRAIN = "PIXELMILL_DRAIN"  # a file: while it exists, shards are handed back
MOST_EXITS = 3
WINDOW_S = 600.0


@dataclass(frozen=True)
class Exit:
    """A process that ended because its device broke. `at_s` by the host's monotonic clock."""

    at_s: float
    shard: str
    error: str


def is_due(exits: Sequence[tuple[float, str]]) -> bool:
    """Whether (time in s, shard), oldest first, hold three different shards within 10 minutes of the last.

    One shard that breaks every device says nothing about this one.
    """
    latest = exits[-1][0] if exits else 0.0
    return len({shard for at_s, shard in exits if latest - at_s <= WINDOW_S}) >= MOST_EXITS


def reason(exits: Sequence[Exit]) -> str:
    """Why the device is quarantined; empty if it is not."""
    if not is_due([(one.at_s, one.shard) for one in exits]):
        return ""
    return f"it broke on {MOST_EXITS} shards within {WINDOW_S / 60:.0f} minutes, the last time with: {exits[-1].error}"


def note(shard: str, error: str) -> None:
    """This process ends, because its device broke on this shard."""
    if drain := os.environ.get(DRAIN):
        line = json.dumps(asdict(Exit(time.monotonic(), shard, error.partition("\n")[0])))
        with _notes(Path(drain)).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def noted(drain: Path) -> list[Exit]:
    """What the processes of one worker noted, oldest first."""
    notes = _notes(drain)
    lines = notes.read_text(encoding="utf-8").splitlines(keepends=True) if notes.exists() else []
    return [Exit(**json.loads(line)) for line in lines if line.endswith("\n")]  # the last one may be half written


def _notes(drain: Path) -> Path:
    return drain.with_suffix(".exits")
