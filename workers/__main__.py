"""`python -m workers`: one supervisor per host, one Celery process per device. With `health`: how they are."""

import logging
import sys

from workers import health

if sys.argv[1:2] == ["health"]:  # asked every few seconds: without what takes long to import
    sys.exit(health.main(sys.argv[2:]))

from shared import settings
from shared.errors import PixelmillError
from workers.supervisor import Supervisor

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
try:
    Supervisor(settings.load()).run()
except PixelmillError as error:
    sys.exit(f"workers: {error}")
