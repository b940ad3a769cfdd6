"""`python -m workers`: one supervisor per host, one Celery process per device."""

import logging
import sys

from shared import settings
from shared.errors import PixelmillError
from workers.supervisor import Supervisor

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
try:
    Supervisor(settings.load()).run()
except PixelmillError as error:
    sys.exit(f"workers: {error}")
