"""`python -m bench.null_host`: `python -m workers`, but its workers hold the null model."""

import logging

from shared import settings
from workers import supervisor

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    supervisor.Worker.app = "bench.null_app:app"
    supervisor.Supervisor(settings.load()).run()
