"""What a worker does with a message: claim the shard, run it, hand it back if it must, and send what comes next."""

import logging
import os
from collections.abc import Callable
from functools import partial

from celery import Celery

from shared import dispatch, keys
from shared.errors import LeaseLost, ModelError, Paused, Unreachable
from shared.jobs import SCHEMA_VERSION, split_models
from shared.shards import Claim
from workers import held, quarantine, retry
from workers.host import Draining, Host, host
from workers.lease import Heartbeat
from workers.patience import patiently
from workers.shard import ShardRun

log = logging.getLogger(__name__)
UNKNOWN_VERSION_DELAY_S = 60.0
BROKEN_DEVICE_EXIT = 70  # sysexits.h: an internal error


def work(app: Celery, run: str, shard: str, version: int, tell: Callable[[str], None], message: str = "") -> str:
    """Returns what came of the message, for the monitor. `message` is its id."""
    here = host()
    if version != SCHEMA_VERSION:
        patiently(lambda: here.ledger.delay(run, shard, UNKNOWN_VERSION_DELAY_S))
        return f"not claimed: message version {version}, this worker speaks {SCHEMA_VERSION}"
    claim = patiently(lambda: here.ledger.claim(run, shard, here.name, message))
    if isinstance(claim, str):
        return f"not claimed: {claim}"
    held.note(claim)
    return _run(here, app, claim, tell)


def _run(here: Host, app: Celery, claim: Claim, tell: Callable[[str], None]) -> str:
    try:
        with Heartbeat(here.ledger, claim) as beat:
            shard_run = ShardRun(here, claim, beat, tell)
            patiently(shard_run.run, shard_run.still_ours)
    except Draining:
        patiently(lambda: here.ledger.release(claim))
        return "handed back: this worker is asked to stop"
    except Paused:
        patiently(lambda: here.ledger.release(claim))
        return "handed back: the run is paused"
    except LeaseLost as error:
        return f"stopped: {error}"
    except ModelError as error:
        reason = str(error)
        model = error.model or split_models(claim.shard.model)[0]
        log.warning("model %s: %s", model, reason)
        patiently(lambda: here.ledger.cannot_serve(here.name, model, reason))
        patiently(lambda: here.ledger.release(claim))
        return f"handed back: {reason}"
    except Exception as error:
        if retry.is_broken_device(error):
            patiently(partial(_leave, here, claim, str(error)))
        log.exception("shard %s of run %s stops; it goes out again later", claim.shard.name, claim.run)
        patiently(lambda: _set_aside(here, claim))
        return f"set aside: {type(error).__name__}: {error}"
    _dispatch(here, app)
    return "done"


def _leave(here: Host, claim: Claim, error: str) -> None:
    """A new process may find the device usable again; the rows are not to blame."""
    log.error("the device does not answer any more; this process ends: %s", error)
    quarantine.note(keys.member(claim.run, claim.shard.name), error)
    reason = "its device failed; a new process tries again in a minute"
    here.ledger.cannot_serve(here.name, split_models(claim.shard.model)[0], reason)
    here.ledger.release(claim)
    os._exit(BROKEN_DEVICE_EXIT)


def _set_aside(here: Host, claim: Claim) -> None:
    """What failed is neither row nor model: a storage that refuses, a bug. The lease runs out, and the shard goes out
    again with nothing charged; other shards go first. A run whose description is gone was deleted."""
    if here.store.head(keys.description(claim.run)) is None:
        here.ledger.forget(claim.run)
    else:
        here.ledger.mark_rows(claim, ())


def _dispatch(here: Host, app: Celery) -> None:
    """Fill the queue for whoever is free next; if this fails, a supervisor does it a moment later."""
    try:
        dispatch.tick(here.ledger, here.store, app)
    except Unreachable as error:
        log.warning("dispatch: %s", error)
