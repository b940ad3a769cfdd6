"""CPU seconds by role: on few cores, they say who had to wait for whom."""

import time

import psutil

ROLES = {
    "celery": "workers",
    "billiard": "workers",
    "multiprocessing": "workers",
    "-m workers": "supervisor",
    "bench.null_host": "supervisor",
    "weed": "storage",
    "valkey": "broker",
}


def seconds() -> dict[str, float]:
    """CPU seconds that this process (the producer) and everything it started have used so far."""
    me = psutil.Process()
    used = {"producer": _cpu(me)}
    for process in me.children(recursive=True):
        role = _role(process)
        used[role] = used.get(role, 0.0) + _cpu(process)
    return used


def between(before: dict[str, float], images: int) -> str:
    """What every role has used since `before`, in milliseconds per image."""
    used = {role: (now - before.get(role, 0.0)) * 1000 / images for role, now in seconds().items()}
    shown = sorted(((ms, role) for role, ms in used.items() if ms >= 0.05), reverse=True)
    return ", ".join(f"{role} {ms:.1f}" for ms, role in shown)


class Others:
    """Watches how busy this machine is with other programs: they spoil what is measured meanwhile."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._before = _all_seconds() - _own_seconds()

    def cores(self) -> float:
        """Cores that they used, on average, since this began to watch."""
        return max(0.0, _all_seconds() - _own_seconds() - self._before) / (time.monotonic() - self._start)


def _all_seconds() -> float:
    """CPU seconds of the whole machine."""
    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))


def _own_seconds() -> float:
    """CPU seconds of this process and all that it started, also of those that have ended."""
    me = psutil.Process()
    return sum(_cpu(process, ended=True) for process in [me, *me.children(recursive=True)])


def _role(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return "other"
    return next((role for word, role in ROLES.items() if word in command), "other")


def _cpu(process: psutil.Process, ended: bool = False) -> float:
    """`ended`: with those of its children that are over."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    used: float = times.user + times.system
    if ended:  # not known on macOS
        used += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return used
