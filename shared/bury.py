"""The end of a row that kills its workers: a record of it in the storage, and no further try."""

import json

from shared import keys
from shared.jobs import Row
from shared.results import failed_line
from shared.runs import Ledger
from shared.shards import Claim, Outcome, Shard
from shared.store import JSON_LINES, Store


def bury(ledger: Ledger, store: Store, claim: Claim, deaths: dict[int, int]) -> None:
    """Write down why a row died, then close it. Both writes may come twice: the first one stays."""
    (row,) = rows_of(store, claim.run, claim.shard)
    error = f"{deaths[row.row]} workers died while they ran this row alone or with others"
    line = failed_line(row, "dead", "WorkerDied", error, attempts=deaths[row.row])
    record = json.dumps(line, ensure_ascii=False).encode()
    store.put_new(keys.dead(claim.run, row.row), record, "application/json")
    store.put_new(keys.results(claim.run, claim.shard.name), record + b"\n", JSON_LINES)
    ledger.commit(claim, Outcome(dead=(row.row,)))


def rows_of(store: Store, run: str, shard: Shard) -> list[Row]:
    """The rows that are a shard's to do, read from its range of a job part."""
    text = store.get_range(keys.part(run, shard.part), shard.offset, shard.length)
    rows = (Row.model_validate_json(line) for line in text.splitlines())
    return [row for row in rows if shard.wants(row.row)]
