"""Which shard goes out next: backpressure, fair turns, model affinity and repair of what got lost, in one place."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from celery import Celery

from shared import bury, queue
from shared.jobs import split_models
from shared.runs import Ledger
from shared.settings import Settings
from shared.shards import Shard
from shared.store import Store

LOCK_LEASE_S = 10.0
QUEUED_PER_WORKER = 2
QUEUED_AT_LEAST = 8
DEATHS_TO_BURY = 3


@dataclass(frozen=True)
class Turn:
    """A run that may send, with its pending shards per model (or models together), in the order in which they came."""

    run: str
    pending: dict[str, int]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a shard whose worker died."""

    rest: Shard
    isolated: tuple[Shard, ...] = ()
    bury: tuple[int, ...] = ()


def room(queued: int, workers: int) -> int:
    """How many more messages a lane takes: enough that no worker waits, few enough that a new run need not."""
    return max(0, max(QUEUED_AT_LEAST, QUEUED_PER_WORKER * workers) - queued)


def choose(turns: Sequence[Turn], last_model: str, served: frozenset[str]) -> tuple[str, str] | None:
    """(run, model) to send from: the first run in turn that has something, the model last sent before others."""
    for turn in turns:
        models = [model for model, count in turn.pending.items() if count and model in served]
        if models:
            return turn.run, last_model if last_model in models else models[0]
    return None


def judge(shard: Shard) -> Verdict:
    """Only the rows of the model call that ran are charged; they go out again alone, the others together.

    A third death buries a row: it has by then died twice on its own.
    """
    deaths = {row: shard.deaths.get(row, 0) + 1 for row in shard.running_rows}
    end = (f"{shard.worker}: {shard.exit or 'fell silent'}",) if deaths else ()
    shard = replace(shard, worker="", exit="")
    if shard.count == 1:
        row_deaths = shard.deaths | deaths
        bury_rows = tuple(row for row, n in row_deaths.items() if n >= DEATHS_TO_BURY)
        again = replace(shard, state="pending", deaths=row_deaths, running_rows=(), history=(*shard.history, *end))
        return Verdict(again, bury=bury_rows)
    isolated = tuple(
        replace(
            shard,
            name=f"{shard.name}-r{row}",
            state="pending",
            count=1,
            only=(row,),
            but=(),
            deaths={row: n},
            history=end,
            running_rows=(),
            token=0,
        )
        for row, n in deaths.items()
    )
    rest = replace(shard, state="pending", count=shard.count - len(isolated), but=(*shard.but, *deaths))
    return Verdict(replace(rest, running_rows=()), isolated)


def is_outage(gap_s: float, settings: Settings) -> bool:
    """Whether nobody reached the broker for so long that workers which are well may have lost their leases: they get
    another one, to say so. Someone looks every `tick_s` while it answers."""
    return gap_s > max(settings.lease_s / 2, 2 * settings.tick_s)


def tick(ledger: Ledger, store: Store, app: Celery) -> int:
    """One round, by whoever gets the lock; the others do nothing. Returns how many messages went out."""
    with ledger.lock("dispatch", LOCK_LEASE_S) as lock:
        if lock is None:
            return 0
        expired = ledger.expired()
        was_away = is_outage(ledger.gap_s(), ledger.settings)  # asked last: the broker may have been away just now
        if expired:
            waiting = {queue.named(message) for lane in queue.LANES for message in ledger.messages(lane)}
            for run, name in expired:
                _look_again(ledger, store, run, name, waits=(run, name) in waiting, was_away=was_away)
        return sum(_fill(ledger, app, lane) for lane in queue.LANES)


def _fill(ledger: Ledger, app: Celery, lane: str) -> int:
    workers = ledger.workers()
    able = sum(bool(facts["models"]) for facts in workers.values())  # not a device that is quarantined
    free, sent = room(ledger.queued(lane), able), 0
    turns = [_turn(ledger, run) for run in ledger.lane_runs(lane)]
    served = frozenset(m for turn in turns for m in turn.pending if can_serve(workers.values(), m))
    last_model = ledger.last_model(lane)
    while sent < free and (choice := choose(turns, last_model, served)):
        run, model = choice
        name = ledger.take(run, model)
        if name is not None:
            queue.send(app, lane, run, name)
            sent, last_model = sent + 1, model
        turns = _after(turns, run, model, empty=name is None)
        ledger.sent(lane, run, model)
    return sent


def can_serve(workers: Iterable[dict[str, Any]], models: str) -> bool:
    """Whether one live worker can load all the models that a shard needs, and they fit each other."""
    wanted = set(split_models(models))
    able = (worker for worker in workers if models not in worker["problems"])
    return any(wanted <= set(worker["models"]) - set(worker["problems"]) for worker in able)


def _turn(ledger: Ledger, run: str) -> Turn:
    facts = ledger.facts(run)
    models = json.loads(facts.get("models", "[]")) if facts.get("state") == "running" else []
    return Turn(run, {model: ledger.pending(run, model) for model in models})


def _after(turns: Sequence[Turn], run: str, model: str, empty: bool) -> list[Turn]:
    """The turns after one shard was sent: the run goes to the end of the line."""
    this = next(turn for turn in turns if turn.run == run)
    left = 0 if empty else this.pending[model] - 1
    return [*(turn for turn in turns if turn.run != run), Turn(run, {**this.pending, model: left})]


def _look_again(ledger: Ledger, store: Store, run: str, name: str, waits: bool, was_away: bool) -> None:
    """A shard whose time is over: sent and never claimed, or claimed by a worker that fell silent. `waits`: its message
    still lies in a lane. `was_away`: so did everybody, because the broker was."""
    shard, facts = ledger.shard(run, name), ledger.facts(run)
    if shard is None or not facts:
        ledger.drop_due(run, name)
    elif shard.state == "running" and was_away and not shard.exit:
        ledger.postpone(run, shard, ledger.settings.lease_s)
    elif shard.state == "running":
        _recover(ledger, store, run, shard)
    elif waits:
        ledger.postpone(run, shard, ledger.settings.redeliver_s)
    else:
        ledger.replace(run, shard, replace(shard, state="pending"), ())


def _recover(ledger: Ledger, store: Store, run: str, shard: Shard) -> None:
    verdict = judge(shard)
    if not verdict.bury:
        ledger.replace(run, shard, verdict.rest, verdict.isolated)
    elif claim := ledger.seize(run, shard):
        bury.bury(ledger, store, claim, verdict.rest)
