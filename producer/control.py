"""What a person says of a run: pause, resume, cancel, retry."""

import json
from collections.abc import Callable
from typing import Any

from producer import restore
from producer.alone import LEASE_S, alone
from producer.session import Session
from shared import dispatch, keys
from shared.errors import UsageError


def pause(session: Session, run: str) -> int:
    """Batches that run are finished, nothing else begins; also what is paused already stays so."""
    before = _change(session, run, session.ledger.pause, "running", "paused")
    print(f"run {run} is paused" + (" already" if before == "paused" else "; `produce resume` lets it go on"))
    return 0


def resume(session: Session, run: str) -> int:
    """The opposite of pause."""
    before = _change(session, run, session.ledger.resume, "paused", "running")
    dispatch.tick(session.ledger, session.store, session.app)
    print(f"run {run} goes on" if before == "paused" else f"run {run} was not paused")
    return 0


def cancel(session: Session, run: str) -> int:
    """Nothing more of it is made; what is finished stays."""
    before = _change(session, run, session.ledger.cancel, "running", "paused", "canceled")
    if before == "canceled":
        print(f"run {run} is canceled already")
    else:
        print(f"run {run} is canceled; what is finished stays, `produce retry {run}` makes the rest after all")
    return 0


def retry(session: Session, run: str) -> int:
    """Failed, dead and canceled rows go out again."""
    about = described(session, run)
    with alone(session.ledger, run, wait_s=2 * LEASE_S) as check:
        refuse_unless(run, must_know(session, run), "running", "paused", "finishing", "over")
        again = restore.retry(session.ledger, session.store, about, check)
    dispatch.tick(session.ledger, session.store, session.app)
    print(f"run {run}: {again} rows go out again; follow them with `produce watch {run}`")
    return 0


def described(session: Session, run: str) -> dict[str, Any]:
    """The run's description. Raises UsageError if there is no such run."""
    body = session.store.get(keys.description(run))
    if body is None:
        raise UsageError(f"there is no run {run}; `produce runs` lists them")
    about: dict[str, Any] = json.loads(body)
    return about


def must_know(session: Session, run: str) -> str:
    """The run's state in the ledger. Raises UsageError if the broker has forgotten it."""
    state = session.ledger.facts(run).get("state")
    if state is None:
        raise UsageError(f"the broker does not know run {run} (any more); produce its file again, and it goes on")
    return state


def refuse_unless(run: str, state: str, *fitting: str) -> None:
    if state not in fitting:
        raise UsageError(f"run {run} is {state}; expected one that is {' or '.join(fitting)}")


def _change(session: Session, run: str, change: Callable[[str], str], *fitting: str) -> str:
    """Returns the state before. Raises UsageError where the change does not fit it."""
    described(session, run)
    must_know(session, run)
    before = change(run)
    refuse_unless(run, before, *fitting)
    return before
