"""The end of a row that kills its workers: a record of it in the storage, and no further try."""

import json
from typing import Any

from shared import keys
from shared.jobs import Row
from shared.results import failed_line
from shared.runs import Ledger
from shared.shards import Claim, Outcome, Shard
from shared.store import JSON_LINES, Store


def bury(ledger: Ledger, store: Store, claim: Claim, ended: Shard) -> None:
    """Write down why a row died, then close it. Both writes may come twice: the first one stays. `ended`: its shard, of
    one row, with the last death."""
    (row,) = rows_of(store, claim.run, claim.shard)
    deaths = ended.deaths[row.row]
    error = f"{deaths} workers died while they ran this row alone or with others; the last: {ended.history[-1]}"
    line = failed_line(row, "dead", "WorkerDied", error, attempts=deaths)
    store.put_new(keys.dead(claim.run, row.row), _dump({**line, "deaths": ended.history}), "application/json")
    store.put_new(keys.results(claim.run, claim.shard.name), _dump(line), JSON_LINES)
    ledger.commit(claim, Outcome(dead=(row.row,)))


def _dump(line: dict[str, Any]) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def rows_of(store: Store, run: str, shard: Shard) -> list[Row]:
    """The rows that are a shard's to do, read from its range of a job part."""
    text = store.get_range(keys.part(run, shard.part), shard.offset, shard.length)
    rows = (Row.model_validate_json(line) for line in text.splitlines())
    return [row for row in rows if shard.wants(row.row)]
