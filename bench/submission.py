"""`python -m bench.submission FILE RUN [--profile]`: one submission in a process of its own; prints what it took."""

import cProfile
import io
import json
import pstats
import resource
import sys
import time
from pathlib import Path

from producer import rows
from producer.rows import ReadOptions
from producer.session import open_session
from producer.submit import Request, Submission
from shared import catalog, dispatch, settings

SLOWEST = 18


def submit(path: Path, run: str) -> dict[str, float]:
    """What `produce --csv FILE --run RUN --no-wait` does, with a clock beside it."""
    known = settings.load()
    session = open_session(start=False)
    models, request = catalog.load(known.models), Request(path, ReadOptions(), run)
    start = time.perf_counter()
    report = rows.check(path, request.options, models, known)
    if report.fault_count:
        raise SystemExit(f"{path}: {report.faults[0]}")
    checked = time.perf_counter()
    Submission(request, report, models, session.ledger, session.store).submit()
    dispatch.tick(session.ledger, session.store, session.app)
    end = time.perf_counter()
    return {"rows": report.rows, "check_s": checked - start, "submit_s": end - checked, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """The most memory that this process ever held. Linux' VmHWM: ru_maxrss counts the parent's before exec, too."""
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def profiled(path: Path, run: str) -> str:
    """The functions that a submission spends most time in."""
    profile = cProfile.Profile()
    profile.runcall(submit, path, run)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(SLOWEST)
    return text.getvalue()


if __name__ == "__main__":
    if "--profile" in sys.argv:
        print(profiled(Path(sys.argv[1]), sys.argv[2]))
    else:
        print(json.dumps(submit(Path(sys.argv[1]), sys.argv[2])))
