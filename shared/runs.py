"""The ledger: what is known of every run's shards and rows. A cache in Redis; the storage is the truth."""

import json
from collections.abc import Collection, Iterable
from typing import Any

from shared import keys, scripts
from shared.broker import ms
from shared.errors import Canceled, LeaseLost, Paused
from shared.roster import Roster
from shared.shards import Claim, Outcome, Shard, shard_from

COUNTERS = ("rows", "open", "running", "done", "failed", "dead", "canceled", "skipped", "images")


class Ledger(Roster):
    """All there is in Redis about runs. Raises Unreachable when the broker does not answer."""

    # --- runs ---

    def create(
        self, run: str, lane: str, facts: dict[str, int], done: bytes, shards: Iterable[Shard], failed: bytes = b""
    ) -> None:
        """Open a run. Its state is `opening` until every shard is in, so that nobody starts a half-made run.

        `facts` are counters; `done` and `failed` are the bitmaps of rows that are closed already.
        """
        self.forget(run)
        self._pipe(
            [
                # A run that was made anew under the same name never has the number of ends that the old one had.
                ("hset", keys.run(run), {"state": "opening", "lane": lane, "ends": self.now_ms(), **facts}),
                ("set", keys.done(run), done),
                ("set", keys.failed(run), failed),
            ]
        )
        models: dict[str, None] = {}
        batch: list[tuple[Any, ...]] = []
        for shard in shards:
            models[shard.model] = None
            batch += [
                ("hset", keys.shard(run, shard.name), shard.fields()),
                ("rpush", keys.pending(run, shard.model), shard.name),
            ]
            if len(batch) >= 1000:
                self._pipe(batch)
                batch = []
        self._pipe([*batch, ("hset", keys.run(run), {"models": json.dumps(list(models))})])
        self.open_lane(run, lane)

    def open_lane(self, run: str, lane: str) -> None:
        """From here on dispatch sends the run's shards; a run with nothing open goes straight to its end."""
        if int(self._call("hget", keys.run(run), "open") or 0) == 0:
            self._pipe([("hset", keys.run(run), {"state": "finishing"}), ("sadd", keys.FINISHING, run)])
        else:
            self._pipe([("hset", keys.run(run), {"state": "running"}), ("zadd", keys.lane(lane), {run: 0})])

    def forget(self, run: str) -> None:
        """Remove every trace of a run from the ledger; a worker that is at it loses its lease."""
        lane = self._call("hget", keys.run(run), "lane")
        if lane:
            self._call("zrem", keys.lane(lane), run)
        self._call("srem", keys.FINISHING, run)
        for pattern in (keys.run(run), keys.run(run) + ":*", keys.shard(run, "*")):
            self._unlink(pattern)

    def facts(self, run: str) -> dict[str, str]:
        """The run's hash: state, lane and counters; empty if the ledger does not know the run."""
        facts: dict[str, str] = self._call("hgetall", keys.run(run))
        return facts

    def counts(self, run: str) -> dict[str, int]:
        """The run's counters; `pending` is what is neither running nor closed."""
        facts = self.facts(run)
        counts = {name: int(facts.get(name, 0)) for name in COUNTERS}
        counts["pending"] = counts["open"] - counts["running"]
        return counts

    def failed_rows(self, run: str) -> list[int]:
        """Rows that failed or died, in order."""
        bits = self._call("execute_command", "GET", keys.failed(run), NEVER_DECODE=True) or b""
        return [i * 8 + bit for i, byte in enumerate(bits) if byte for bit in range(8) if byte & (0x80 >> bit)]

    def failures(self, run: str) -> tuple[list[int], int]:
        """Rows that failed or died, in order, and how many of them died."""
        while True:
            dead, rows = self.counts(run)["dead"], self.failed_rows(run)
            if self.counts(run)["dead"] == dead:
                return rows, dead

    def next_try(self, run: str) -> int:
        """How often failed rows of this run went out again, this time included."""
        return int(self._call("hincrby", keys.run(run), "tries", 1))

    def reopen(self, run: str, shards: Iterable[Shard], failed: int, dead: int) -> None:
        """Send rows out again, `failed` and `dead` of these kinds, with nothing charged to them."""
        lane, added = self._call("hget", keys.run(run), "lane"), list(shards)
        rows = [row for shard in added for row in shard.only]
        pipe: list[tuple[Any, ...]] = [("setbit", keys.failed(run), row, 0) for row in rows]
        for shard in added:
            pipe.append(("hset", keys.shard(run, shard.name), shard.fields()))
            pipe.append(("rpush", keys.pending(run, shard.model), shard.name))
        pipe.append(("hincrby", keys.run(run), "open", len(rows)))
        pipe.append(("hincrby", keys.run(run), "failed", -failed))
        pipe.append(("hincrby", keys.run(run), "dead", -dead))
        pipe.append(("eval", scripts.REOPEN, 3, keys.run(run), keys.FINISHING, keys.lane(lane or ""), run))
        self._pipe(pipe, transaction=True)

    def end(self, run: str, ends: str) -> bool:
        """Mark a run as over: its summary stands in the storage. `ends` is its fact of that name from before that
        was begun. False: the run was reopened meanwhile and goes on."""
        return bool(self._script("END", [keys.run(run), keys.FINISHING], [run, ends]))

    # --- what a person says of a run; each returns the state that it found ---

    def pause(self, run: str) -> str:
        """Batches that run are finished; nothing else begins."""
        return str(self._script("SWITCH", [keys.run(run)], ["paused", "running"]))

    def resume(self, run: str) -> str:
        return str(self._script("SWITCH", [keys.run(run)], ["running", "paused"]))

    def cancel(self, run: str) -> str:
        """Batches that run stop at their next step; pictures that are finished stay."""
        lane = self._call("hget", keys.run(run), "lane") or ""
        return str(self._script("CANCEL", [keys.run(run), keys.FINISHING, keys.lane(lane)], [run]))

    def settle(self, run: str) -> bool:
        """Whether a run can end now: no row of it is open, and of a canceled one nothing is running any more."""
        state = self._script("SETTLE", [keys.run(run)], [])
        if state == "settled":
            self._clear(run)
        return state in ("settled", "finishing", "gone")

    def move(self, run: str, lane: str) -> None:
        """Put a run into another lane; what was sent already stays where it is."""
        before = self._call("hget", keys.run(run), "lane")
        self._pipe([("hset", keys.run(run), {"lane": lane})])
        if before and before != lane and self._call("zrem", keys.lane(before), run):
            self._pipe([("zadd", keys.lane(lane), {run: 0})])

    def _clear(self, run: str) -> None:
        """Shards that nobody will run."""
        if members := [keys.member(run, name) for name in self._shard_names(run)]:
            self._call("zrem", keys.DUE, *members)
        self._unlink(keys.shard(run, "*"))
        self._unlink(keys.pending(run, "*"))

    def _shard_names(self, run: str) -> list[str]:
        return [name.removeprefix(keys.shard(run, "")) for name in self._scan(keys.shard(run, "*"))]

    def _unlink(self, pattern: str) -> None:
        found = self._scan(pattern)
        for start in range(0, len(found), 1000):
            self._call("unlink", *found[start : start + 1000])

    # --- dispatch ---

    def lane_runs(self, lane: str) -> list[str]:
        """The lane's runs, the one that waited longest first."""
        runs: list[str] = self._call("zrange", keys.lane(lane), 0, -1)
        return runs

    def take(self, run: str, model: str) -> str | None:
        """Move the next pending shard of a model to `queued`; returns its name."""
        name: str | None = self._script(
            "TAKE",
            [keys.pending(run, model), keys.DUE],
            [keys.shard(run, ""), keys.member(run, ""), ms(self.settings.redeliver_s)],
        )
        return name

    def pending(self, run: str, model: str) -> int:
        """How many shards of a model wait to be sent."""
        return int(self._call("llen", keys.pending(run, model)))

    def sent(self, lane: str, run: str, model: str) -> None:
        """Put a run at the end of its lane's line, and remember the model that went out last."""
        self._call("zadd", keys.lane(lane), {run: self.now_ms()}, xx=True)
        self._call("set", keys.last_model(lane), model)

    def last_model(self, lane: str) -> str:
        return self._call("get", keys.last_model(lane)) or ""

    def queued(self, lane: str) -> int:
        """Messages that wait in a lane."""
        return int(self._call("llen", lane))

    def messages(self, lane: str) -> list[bytes]:
        """The messages themselves: few, as dispatch keeps it."""
        found: list[bytes] = self._call("execute_command", "LRANGE", lane, 0, 9_999, NEVER_DECODE=True)
        return found

    def finishing(self) -> list[str]:
        """Runs that wait for their end files."""
        return sorted(self._call("smembers", keys.FINISHING))

    def expired(self) -> list[tuple[str, str]]:
        """(run, shard) of what was sent and not claimed in time, or lost its lease."""
        members = self._call("zrangebyscore", keys.DUE, "-inf", self.now_ms(), start=0, num=1000)
        return [tuple(member.split("/", 1)) for member in members]

    def shard(self, run: str, name: str) -> Shard | None:
        """The shard as it stands, or None once it is committed."""
        fields = self._call("hgetall", keys.shard(run, name))
        return shard_from(name, fields) if fields else None

    def gap_s(self) -> float:
        """Since dispatch asked this last, by the broker's clock; 0 if it never did."""
        now_ms = self.now_ms()
        before = self._call("set", keys.LOOKED, now_ms, get=True)
        return (now_ms - int(before)) / 1000 if before else 0.0

    def drop_due(self, run: str, name: str) -> None:
        self._call("zrem", keys.DUE, keys.member(run, name))

    def replace(self, run: str, old: Shard, rest: Shard, isolated: Iterable[Shard]) -> bool:
        """Put an expired shard back as `rest` and `isolated`, unless it changed since `old` was read."""
        others = {shard.name: shard.fields() for shard in isolated}
        arguments = [json.dumps(rest.fields()), json.dumps(others), keys.shard(run, "")]
        expired = [*self._expired(run, old), old.name]
        pending = keys.pending(run, old.model)
        return bool(self._script("REPLACE", [*self._shard_keys(run, old.name), pending], expired + arguments))

    def seize(self, run: str, old: Shard) -> Claim | None:
        """Take over the lease of a worker that died, to bury what it died on."""
        lease = ms(self.settings.lease_s)
        token = self._script("SEIZE", self._shard_keys(run, old.name), [*self._expired(run, old), lease])
        return Claim(run, old, int(token)) if token else None

    def delay(self, run: str, name: str, delay_s: float) -> None:
        """Send a shard out again only after a while: this worker does not understand its message."""
        self._call("zadd", keys.DUE, {keys.member(run, name): self.now_ms() + ms(delay_s)}, xx=True)

    def postpone(self, run: str, old: Shard, delay_s: float) -> None:
        """Look at an expired shard again later."""
        self._script("POSTPONE", self._shard_keys(run, old.name), [*self._expired(run, old), ms(delay_s)])

    # --- a worker's way through a shard ---

    def claim(self, run: str, name: str, worker: str, message: str = "") -> Claim | str:
        """The right to run a shard, or the reason why not: done, running, or the state of its run. `message` is the id
        of what the worker was sent."""
        arguments = [keys.member(run, name), ms(self.settings.lease_s), worker, message]
        status, *answer = self._script("CLAIM", self._shard_keys(run, name), arguments)
        if status != "ok":
            return str(status)
        token, *flat = answer
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        return Claim(run, shard_from(name, fields), int(token))

    def note_exit(self, run: str, name: str, message: str, text: str) -> None:
        """The process that this message had come to has ended so: the shard goes out again at once."""
        self._script("NOTE_EXIT", self._shard_keys(run, name), [keys.member(run, name), message, text])

    def extend(self, claim: Claim) -> None:
        """Heartbeat. Raises LeaseLost when another token is out or the run is gone, Canceled when it is canceled."""
        arguments = [claim.token, keys.member(claim.run, claim.shard.name), ms(self.settings.lease_s)]
        _check(claim, self._script("EXTEND", self._shard_keys(claim.run, claim.shard.name), arguments), ("paused",))

    def mark_rows(self, claim: Claim, rows: Collection[int]) -> None:
        """Write down which rows the next model call works on: if the worker dies, only they are charged.

        Raises LeaseLost, and unless there are no rows, Paused or Canceled.
        """
        arguments = [claim.token, json.dumps(sorted(set(rows)))]
        answer = self._script("MARK_ROWS", self._shard_keys(claim.run, claim.shard.name)[:2], arguments)
        _check(claim, answer, () if rows else ("paused", "canceled"))

    def release(self, claim: Claim) -> None:
        """Hand a shard back, uncharged."""
        arguments = [claim.token, keys.member(claim.run, claim.shard.name), claim.shard.name]
        pending = keys.pending(claim.run, claim.shard.model)
        self._script("RELEASE", [*self._shard_keys(claim.run, claim.shard.name), pending], arguments)

    def commit(self, claim: Claim, outcome: Outcome) -> bool:
        """Close a shard's rows, each once; True when no row of the run is open any more. Raises LeaseLost."""
        run, name = claim.run, claim.shard.name
        lane = self._call("hget", keys.run(run), "lane") or ""
        names = [*self._shard_keys(run, name), keys.done(run), keys.failed(run), keys.FINISHING, keys.lane(lane)]
        rows = [json.dumps(part) for part in (outcome.done, outcome.failed, outcome.dead)]
        answer = self._script("COMMIT", names, [claim.token, keys.member(run, name), run, *rows, outcome.images])
        _check(claim, answer, ("ok", "last"))
        return bool(answer == "last")

    def _shard_keys(self, run: str, name: str) -> list[str]:
        return [keys.run(run), keys.shard(run, name), keys.DUE]

    def _expired(self, run: str, old: Shard) -> list[Any]:
        return [keys.member(run, old.name), old.state, old.token]


def _check(claim: Claim, answer: str, further: tuple[str, ...]) -> None:
    """Raises unless the run is running, or in a `further` state that does not matter here."""
    if answer != "running" and answer not in further:
        reason = "another worker holds it now" if answer == "lost" else f"the run is {answer}"
        raised = {"paused": Paused, "canceled": Canceled}.get(answer, LeaseLost)
        raise raised(f"run {claim.run}, shard {claim.shard.name}: {reason}")
