"""The Celery app for Flower: `celery -A shared.monitor:app flower`."""

from shared import settings
from shared.queue import make_app

app = make_app(settings.load())
