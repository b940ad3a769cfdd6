"""`python -m bench.null_host`: `python -m workers`, but its workers hold the null model."""

import logging
import subprocess
import sys

from shared import queue, settings
from workers import supervisor


class NullWorker(supervisor.Worker):
    """A worker process that differs in its app only."""

    def _start(self) -> None:
        command = [sys.executable, "-m", "celery", "-A", "bench.null_app:app", "worker", "-n", self.name]
        command += ["-Q", ",".join(queue.LANES), "-l", "INFO", "--without-gossip", "--without-mingle"]
        self._process = subprocess.Popen(command, env=self._environment, start_new_session=True)
        self._not_before = 0.0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    supervisor.Worker = NullWorker  # type: ignore[misc]
    supervisor.Supervisor(settings.load()).run()
