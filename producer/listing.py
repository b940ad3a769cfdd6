"""Runs as they stand: listed, looked at, deleted."""

import json
import sys
from typing import Any

from producer import follow
from producer.session import Session
from shared import keys
from shared.errors import UsageError

COLUMNS = ("run", "state", "rows", "done", "failed", "dead", "canceled", "skipped", "images")


def runs(session: Session, as_json: bool) -> int:
    """One line per run, oldest first."""
    found = [view for name in session.store.folders("runs/") if (view := look(session, name))]
    found.sort(key=lambda view: str(view["created_at"]))
    if as_json:
        print(json.dumps(found))
    else:
        follow.table([tuple(str(view[name]) for name in COLUMNS) for view in found], COLUMNS)
    return 0


def status(session: Session, run: str, as_json: bool) -> int:
    """A run's counters, and why it does not go on if nobody can do its work."""
    view = look(session, run)
    if view is None:
        raise UsageError(f"there is no run {run}; `produce runs` lists them")
    waiting = follow.unserved(session.ledger, run) if view["state"] == "running" else ""
    if as_json:
        print(json.dumps({**view, "waiting": waiting}))
        return 0
    names = ("rows", "pending", "running", "done", "failed", "dead", "canceled", "skipped", "images")
    print(f"run {run}: {view['state']}")
    print("  " + " · ".join(f"{view[name]} {name}" for name in names))
    workers = session.ledger.workers()
    quarantines = follow.quarantines(workers)
    for name, facts in workers.items():
        print(f"  worker {name}: {quarantines[name]}" if name in quarantines else _worker(name, facts))
    if waiting:
        print(f"  waiting: {waiting}")
    return 0


def look(session: Session, run: str) -> dict[str, Any] | None:
    """What the ledger knows of a run, else what the storage knows; None if there is no such run."""
    body = session.store.get(keys.description(run))
    if body is None:
        return None
    about = json.loads(body)
    head = {"run": run, "created_at": about["created_at"]}
    facts = session.ledger.facts(run)
    if facts:
        return {**head, "state": facts["state"], **session.ledger.counts(run)}
    ended = session.store.get(keys.summary(run))
    state = "over" if ended else "unknown to the broker; produce its file again to go on"
    counts = json.loads(ended)["counts"] if ended else {"rows": about["rows_read"], "skipped": about["rows_skipped"]}
    return {
        **head,
        **dict.fromkeys(("pending", "running", "done", "failed", "dead", "canceled", "images"), 0),
        "state": state,
        **counts,
    }


def remove(session: Session, run: str, sure: bool) -> int:
    """Delete a run, or what an interrupted deletion left of it."""
    view = look(session, run)
    left = next(session.store.list(keys.prefix(run)), None)
    if view is None and left is None and not session.ledger.facts(run):
        raise UsageError(f"there is no run {run}; `produce runs` lists them")
    what = f"run {run} with {view['images']} images" if view else f"what is left of run {run}"
    if not sure and not _ask(f"delete {what}? [y/N] "):
        print("nothing was deleted")
        return 1
    count = erase(session, run) + (view is not None)
    print(f"deleted {what.partition(' with')[0]}: {count} objects")
    return 0


def erase(session: Session, run: str) -> int:
    """Delete a run: first its description, so that nobody joins it, then from the ledger, so that workers stop, then
    its other objects; how many they were."""
    session.store.delete(keys.description(run))
    session.ledger.forget(run)
    return session.store.delete_all(keys.prefix(run))


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("this deletes pictures and there is no terminal to ask on; give --yes")
    return input(question).strip().lower() in ("y", "yes")


def _worker(name: str, facts: dict[str, Any]) -> str:
    problems = (f"; cannot serve {model}: {reason}" for model, reason in facts["problems"].items())
    fetching = f"; fetching {facts['fetching']}" if facts["fetching"] else ""
    return f"  worker {name} on {facts['device']}{fetching}" + "".join(problems)
