"""Processes that outlive the command that started them, and finding them again."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Unreachable, UsageError

try:
    import psutil
except ImportError:  # a producer without the `local` extra; `need_psutil` tells the person who asks for a stack
    psutil = None

MARK = "PIXELMILL_STACK"  # in the environment of every process of a stack, and of its children
POLL_S = 0.02
KILL_S = 5.0  # how long a process may take to vanish after SIGKILL
LOG_BYTES = 5 << 20  # a larger log is set aside at the next start
TAIL_LINES = 15
EXTRA_MISSING = (
    "the local stack needs packages that are not installed ({name} is absent): "
    "install pixelmill[local], or set PIXELMILL_REDIS_URL and the S3 settings"
)

# Kept so that a child of this process can be reaped: a stack outlives the command that started it, but not a test.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


@dataclass(frozen=True)
class Service:
    """One long-running program of a stack, as data."""

    name: str
    label: str  # what it is to a person
    argv: tuple[str, ...]  # no secrets: every user of the machine can read it
    env: Mapping[str, str]  # all of it
    cwd: Path
    log: Path
    ready: Callable[[], bool]
    fingerprint: str  # another one than the running process was started with: start it again
    ports: tuple[int, ...] = ()  # must be free before the start
    grace_s: float = 10.0  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Started:
    """What is known of a process after its start. The start time tells it from a later one with the same pid."""

    pid: int
    started: float  # seconds since the epoch
    fingerprint: str
    mark: str
    grace_s: float


def need_psutil() -> None:
    if psutil is None:
        raise UsageError(EXTRA_MISSING.format(name="psutil"))


def start(service: Service, mark: str) -> Started:
    _reap()
    _set_aside(service.log)
    service.cwd.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(service.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        child = subprocess.Popen(
            service.argv,
            env={**service.env, MARK: mark},
            cwd=service.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    _children[child.pid] = child
    return Started(child.pid, psutil.Process(child.pid).create_time(), service.fingerprint, mark, service.grace_s)


def await_ready(service: Service, started: Started, timeout_s: float) -> None:
    """Returns when the service answers. Raises Unreachable, with the end of its log, when it dies or stays silent."""
    deadline = time.monotonic() + timeout_s
    while alive(started):
        if service.ready():
            return
        if time.monotonic() > deadline:
            raise Unreachable(_obituary(service, f"is running, but did not answer within {timeout_s:g} s"))
        time.sleep(POLL_S)
    raise Unreachable(_obituary(service, "ended while it was starting"))


def alive(started: Started) -> bool:
    return _leader(started) is not None


def stop(started: Started) -> bool:
    """Ends the process and everything that it started, also when it is dead itself. False: nothing was left."""
    family = _family(started)
    if not family:
        return False
    leader = _leader(started)
    if leader:
        _signal([leader], signal.SIGTERM)  # a supervisor ends its own children, in its own way
        _wait([leader], started.grace_s)
    orphans = _living(_family(started))
    _signal(orphans, signal.SIGTERM)
    _wait(orphans, 0.0 if leader else started.grace_s)
    rest = _living([*family, *_family(started)])
    _signal(rest, signal.SIGKILL)
    _wait(rest, KILL_S)
    return True


def tail(log: Path) -> str:
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _obituary(service: Service, what: str) -> str:
    return f"{service.label} {what}; the last lines of {service.log}:\n{tail(service.log)}"


def _set_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))


def _leader(started: Started) -> "psutil.Process | None":
    _reap()
    try:
        process = psutil.Process(started.pid)
        same = abs(process.create_time() - started.started) < 1.0
    except psutil.Error:
        return None
    return process if same and _lives(process) else None


def _family(started: Started) -> "list[psutil.Process]":
    """The process, its descendants, and all that carry its mark: what a killed supervisor leaves has other parents."""
    leader = _leader(started)
    found = {process.pid: process for process in psutil.process_iter() if _marked(process, started.mark)}
    if leader:
        found |= {process.pid: process for process in [leader, *leader.children(recursive=True)]}
    return _living(found.values())


def _marked(process: "psutil.Process", mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.Error, OSError):  # ended meanwhile, or another user's
        return False


def _living(processes: "Iterable[psutil.Process]") -> "list[psutil.Process]":
    _reap()
    return [process for process in processes if _lives(process)]


def _lives(process: "psutil.Process") -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _signal(processes: "Iterable[psutil.Process]", number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _wait(processes: "list[psutil.Process]", timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while _living(processes) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _reap() -> None:
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]
