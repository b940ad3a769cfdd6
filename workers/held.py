"""What a worker process holds, in a file: a supervisor that has to kill the process hands it back."""

import json
import os
from pathlib import Path

from shared.shards import Claim, shard_from
from workers.quarantine import DRAIN


def note(claim: Claim) -> None:
    """The newest claim takes the place of the last one, whose token is worth nothing any more."""
    if drain := os.environ.get(DRAIN):
        text = json.dumps([claim.run, claim.shard.name, claim.shard.fields(), claim.token])
        fresh = Path(drain).with_suffix(".fresh")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(_place(Path(drain)))


def noted(drain: Path) -> Claim | None:
    """The claim that this worker made last, if it made one."""
    place = _place(drain)
    if not place.exists():
        return None
    run, name, fields, token = json.loads(place.read_text(encoding="utf-8"))
    return Claim(run, shard_from(name, fields), token)


def _place(drain: Path) -> Path:
    return drain.with_suffix(".claim")
