"""What is written down of a shard: a line for each picture or failed row, and what that means for the ledger."""

import json
from collections.abc import Sequence
from typing import Any

from shared import results, sheet
from shared.errors import LeaseLost
from shared.images import Pixels
from shared.shards import Claim, Outcome
from workers import finishing
from workers.batches import Item
from workers.uploads import Uploads

Errors = dict[tuple[int, int], tuple[str, str]]  # by an item's key, why it failed: (type, text)


def lines(
    claim: Claim, wanted: Sequence[Item], uploads: Uploads, errors: Errors, thumbs: str
) -> tuple[list[dict[str, Any]], list[Pixels]]:
    """Waits for every picture. A line for each item, and the tiles of the sheet `thumbs`.

    Raises LeaseLost.
    """
    found: list[dict[str, Any]] = []
    tiles: list[Pixels] = []
    for item in wanted:
        line, shown = _line(claim, item, uploads, errors, thumbs, len(tiles))
        found.append(line)
        tiles += shown
    return results.begun(found), tiles


def _line(
    claim: Claim, item: Item, uploads: Uploads, errors: Errors, thumbs: str, tile: int
) -> tuple[dict[str, Any], list[Pixels]]:
    attempts = claim.shard.deaths.get(item.row.row, 0) + 1
    try:
        error = errors.get(item.key)
        stored = None if error else uploads.result(item)
    except LeaseLost:
        raise
    except Exception as raised:
        error, stored = (type(raised).__name__, str(raised)), None
    if stored is None:
        error_type, text = error or ("", "")
        state = "canceled" if error_type == results.CANCELED else "failed"
        return results.failed_line(item.row, state, error_type, text, attempts, item.n), []
    tiles = stored.tiles if tile + len(stored.tiles) <= sheet.MOST_TILES else []
    thumb = {"thumb": {"key": thumbs, "tile": tile, "count": len(tiles)}} if tiles else {}
    facts = finishing.listed(item.name, stored.facts) | thumb
    return results.done_line(item.row, item.n, f"images/{item.name}", facts, attempts), tiles


def read(claim: Claim, body: bytes | None) -> Outcome | None:
    """What an earlier try, or a worker that held the lease before, has written as this shard's results."""
    if not body:
        return None
    found = [json.loads(line) for line in body.splitlines()]
    return outcome([line for line in found if claim.shard.wants(line["row"])])  # rows isolated since are other shards'


def outcome(lines: Sequence[dict[str, Any]]) -> Outcome:
    """A row is done when all its images are stored."""
    bad = {line["row"]: line["state"] for line in lines if line["state"] != "done"}
    rows = dict.fromkeys(line["row"] for line in lines)
    return Outcome(
        done=tuple(row for row in rows if row not in bad),
        failed=tuple(row for row, state in bad.items() if state == "failed"),
        dead=tuple(row for row, state in bad.items() if state == "dead"),
        images=sum(line["row"] not in bad for line in lines),
    )
