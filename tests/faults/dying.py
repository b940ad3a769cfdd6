"""Points at which a worker comes to grief, chosen by DYING_AT in its environment; where it dies, only the first time.

`results stored`: before the ledger learns of a shard's results. `committed`: after. `pictures stored`: before the
results are written. `no heartbeat`: leases end while shards run. `clock +600`: the worker's clock is wrong.
"""

import os
import signal
import time

from shared.runs import Ledger
from shared.store import JSON_LINES, Store
from workers.lease import Heartbeat

POINT = os.environ.get("DYING_AT", "")
_commit, _put_new, _time = Ledger.commit, Store.put_new, time.time


def die_once(point: str) -> None:
    mark = os.environ["NULL_MODEL_DRAWN"] + ".died"
    if point == POINT and not os.path.exists(mark):
        with open(mark, "w") as file:
            file.write(point)
        os.killpg(0, signal.SIGKILL)


def commit(self, claim, outcome):
    die_once("results stored")
    answer = _commit(self, claim, outcome)
    die_once("committed")
    return answer


def put_new(self, key, body, content_type, metadata=None):
    if content_type == JSON_LINES:
        die_once("pictures stored")
    return _put_new(self, key, body, content_type, metadata)


Ledger.commit, Store.put_new = commit, put_new
if POINT == "no heartbeat":
    Heartbeat._beat = lambda _: None
elif POINT.startswith("clock"):
    skew_s = float(POINT.split()[1])
    time.time = lambda: _time() + skew_s
