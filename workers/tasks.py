"""The one task there is: take a shard that dispatch sent, if the ledger says that it may run.

The process that receives tasks imports this file and stays small; only its pool process, which runs them, knows torch.
"""

import logging
import time
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import Task
from celery.signals import task_failure, worker_process_init, worker_shutting_down

from shared import queue, settings
from shared.errors import PixelmillError
from shared.runs import Ledger
from workers import held
from workers.app import app

log = logging.getLogger(__name__)
TELL_EVERY_S = 1.0


@app.task(name=queue.RUN_SHARD, bind=True, Strategy="workers.guard:drops_unreadable")
def run_shard(self: Task, run: str, shard: str, version: int) -> str:
    """Run one shard of a run; returns, for the monitor, what came of it."""
    from workers import work  # noqa: PLC0415

    return work.work(app, run, shard, version, Progress(self), self.request.id)


@worker_process_init.connect
def get_ready(**_: Any) -> None:
    """Import torch when the pool process starts, not when its first task waits."""
    from workers import work  # noqa: F401, PLC0415


@task_failure.connect
def note_exit(task_id: str = "", exception: BaseException | None = None, kwargs: Any = None, **_: Any) -> None:
    """The pool process died in the middle of a shard: say how, so that the shard need not wait for its lease's end."""
    if not isinstance(exception, WorkerLostError) or not kwargs:
        return
    try:
        ledger = Ledger(settings.load())
        ledger.note_exit(kwargs["run"], kwargs["shard"], task_id, str(exception))
    except (PixelmillError, KeyError) as error:
        log.warning("shard %s waits for the end of its lease: %s", kwargs.get("shard"), error)


@worker_shutting_down.connect
def hand_back(how: str = "", **_: Any) -> None:
    """This worker was told to end at once: what its pool process is in the middle of goes back, uncharged."""
    claim = held.noted() if how == "Cold" else None
    if claim:
        try:
            Ledger(settings.load()).release(claim)
        except PixelmillError as error:
            log.warning("shard %s waits for the end of its lease: %s", claim.shard.name, error)


class Progress:
    """Tells the monitor, at most once a second; a monitor that is away disturbs nobody."""

    def __init__(self, task: Task):
        self.task = task
        self.next = 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + TELL_EVERY_S
        try:
            self.task.send_event("task-progress", result=text, retry=False)
        except Exception as error:
            log.debug("no progress shown: %s", error)
