"""`python -m workers` with the null model: a real supervisor and real Celery processes."""

from shared import settings
from workers.supervisor import Supervisor, Worker

Worker.app = "null_app:app"

if __name__ == "__main__":
    Supervisor(settings.load()).run()
