"""`produce rebuild`: the ledger of a run made anew from the storage, after the broker lost its data."""

import json
from typing import Any

from producer import restore
from producer.alone import alone
from producer.session import Session
from shared import keys
from shared.errors import UsageError


def rebuild(session: Session, run: str) -> int:
    """Rebuild one run, whatever the broker knows of it. Workers that are at it lose their leases; what they have stored
    by then is found by whoever does their shards."""
    about = _description(session, run)
    if about is None:
        raise UsageError(f"there is no run {run}; `produce runs` lists them")
    _alone(session, about, only_unknown=False)
    return 0


def rebuild_all(session: Session) -> int:
    """Rebuild every run that is not over and that the broker does not know."""
    rebuilt = 0
    for run in session.store.folders("runs/"):
        about = _description(session, run)
        if about is not None and not _is_known(session, run) and not _is_over(session, run):
            rebuilt += _alone(session, about, only_unknown=True)
    if not rebuilt:
        print("nothing to rebuild: the broker knows every run that is not over")
    return 0


def _alone(session: Session, about: dict[str, Any], only_unknown: bool) -> bool:
    """Under the lock of those who submit the run or join it; False if one of them was first."""
    run = about["run"]
    with alone(session.ledger, run) as check:
        if only_unknown and _is_known(session, run):
            return False
        was_canceled = _was_canceled(session, run)
        counts = restore.open_run(session.ledger, session.store, about, look=True, again=False, keep_lock=check)
        if was_canceled:
            session.ledger.cancel(run)
    print(_text(run, counts))
    return True


def _text(run: str, counts: dict[str, int]) -> str:
    closed = ", ".join(f"{counts[name]:,} {name}" for name in ("done", "failed", "dead", "skipped") if counts[name])
    rest = f"{counts['open']:,} go out" if counts["open"] else "none is open, its end files are written anew"
    return f"run {run}: {counts['rows']:,} rows" + (f", {closed}" if closed else "") + f"; {rest}"


def _description(session: Session, run: str) -> dict[str, Any] | None:
    body = session.store.get(keys.description(run))
    about: dict[str, Any] | None = json.loads(body) if body else None
    return about


def _is_known(session: Session, run: str) -> bool:
    """Whether dispatch works on it or has done so; `opening` is what an interrupted submit or rebuild leaves."""
    return session.ledger.facts(run).get("state", "opening") != "opening"


def _was_canceled(session: Session, run: str) -> bool:
    body = session.store.get(keys.summary(run))
    return bool(body and json.loads(body)["counts"].get("canceled"))


def _is_over(session: Session, run: str) -> bool:
    return session.store.head(keys.summary(run)) is not None
