"""Which workers there are, as they say themselves."""

import json
from typing import Any

from shared import keys
from shared.broker import Broker, ms

LIVE_S = 30.0  # after its last announcement
FORGOTTEN_AFTER_S = 3600.0
FETCHING_S = 60


class Roster(Broker):
    """The part of Redis in which workers announce themselves."""

    def announce(self, worker: str, facts: dict[str, Any]) -> None:
        """Tell everyone that a worker lives; it counts for LIVE_S."""
        self._call("hset", keys.WORKERS, worker, json.dumps({**facts, "seen_ms": self.now_ms()}))

    def cannot_serve(self, worker: str, model: str, reason: str) -> None:
        """A worker that failed to load a model does not get its shards for a minute."""
        self._pipe([("hset", keys.problems(worker), {model: reason}), ("expire", keys.problems(worker), 60)])

    def fetching(self, worker: str, what: str) -> None:
        """What a worker fetches from the storage, said again within FETCHING_S while it does. Empty: it is over."""
        if what:
            self._call("set", keys.fetching(worker), what, ex=FETCHING_S)
        else:
            self._call("delete", keys.fetching(worker))

    def retire(self, worker: str) -> None:
        self._call("hdel", keys.WORKERS, worker)

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers that announced themselves lately; those that did long ago are forgotten."""
        now_ms = self.now_ms()
        known = {name: json.loads(facts) for name, facts in self._call("hgetall", keys.WORKERS).items()}
        if gone := [name for name, facts in known.items() if facts["seen_ms"] < now_ms - ms(FORGOTTEN_AFTER_S)]:
            self._call("hdel", keys.WORKERS, *gone)
        oldest = now_ms - ms(LIVE_S)
        live = {name: facts for name, facts in known.items() if facts["seen_ms"] >= oldest}
        for name, facts in live.items():
            facts["problems"] = self._call("hgetall", keys.problems(name))
            facts["fetching"] = self._call("get", keys.fetching(name)) or ""
        return live
