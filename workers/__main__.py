"""`python -m workers`: one supervisor per host, one Celery process per device."""

import logging

from shared import settings
from workers.supervisor import Supervisor

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
Supervisor(settings.load()).run()
