"""The Celery app for Flower: `celery -A shared.monitor:app flower`. It listens, and sends nothing to anybody."""

from typing import Any

from celery.app.control import Control
from flower.views.monitor import Metrics
from tornado.web import authenticated

from shared import settings
from shared.queue import make_app


class Silent(Control):  # type: ignore[misc]
    """Flower asks workers for news; they announce themselves, so that its user of the broker need not write to them."""

    def broadcast(self, *_: Any, **__: Any) -> list[Any]:
        return []


# As Flower comes, whoever reaches its port reads the names of workers and tasks here.
Metrics.get = authenticated(Metrics.get)

app = make_app(settings.load())
app.control_cls = Silent
