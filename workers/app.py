"""The Celery app of the workers. Each device has one process of it, started by `python -m workers`."""

import ctypes
import os
import signal
import sys

from shared import settings
from shared.queue import make_app

NAME = "PIXELMILL_WORKER"  # set by the supervisor
PR_SET_PDEATHSIG = 1  # prctl(2)

app = make_app(settings.load(), include=["workers.tasks"])

if NAME in os.environ and sys.platform == "linux":
    # A supervisor that is killed takes its workers along; the next one starts new ones.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
