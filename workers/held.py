"""What a worker process holds, in a file: whoever ends the process in the middle of it hands it back."""

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


def noted(drain: Path | None = None) -> Claim | None:
    """The claim that a worker made last, if it made one: this one, or the one of that drain file."""
    if drain is None and not os.environ.get(DRAIN):
        return None
    place = _place(drain or Path(os.environ[DRAIN]))
    if not place.exists():
        return None
    run, name, fields, token = json.loads(place.read_text(encoding="utf-8"))
    return Claim(run, shard_from(name, fields), token)


def _place(drain: Path) -> Path:
    return drain.with_suffix(".claim")
