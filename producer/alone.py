"""One at a time submits a run, joins it or sends its rows out again: a short lease, extended while its holder lives."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import LockError, RedisError

from shared.errors import UsageError
from shared.runs import Ledger

LEASE_S = 15.0  # so long a run waits for a holder that was killed
BEAT_S = 3.0
WAIT_S = 600.0  # for a holder that lives


@contextmanager
def alone(ledger: Ledger, run: str, wait_s: float = WAIT_S) -> Iterator[Callable[[], object]]:
    """Yields what to call before a step that another holder must not meet: it ends the block with Unreachable if the
    lease was lost. Raises UsageError if somebody else holds the run for longer than `wait_s`."""
    with ledger.lock(f"submit:{run}", LEASE_S, wait_s) as lock:
        if lock is None:
            raise UsageError(f"run {run} is being submitted, rebuilt or tried again elsewhere; try again later")
        stop = threading.Event()
        beat = threading.Thread(target=_extend, args=(lock, stop), name="alone", daemon=True)
        beat.start()
        try:
            yield lock.reacquire
        finally:
            stop.set()
            beat.join()


def _extend(lock: Any, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            lock.reacquire()  # only while it holds this lease's token
        except LockError:
            return  # lost; the block learns it at its next step
        except RedisError:
            continue  # the broker is away: perhaps back before the lease ends
