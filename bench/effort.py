"""CPU seconds by role: on few cores, they say who had to wait for whom."""

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


def _role(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return "other"
    return next((role for word, role in ROLES.items() if word in command), "other")


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system
