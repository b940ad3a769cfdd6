"""The workers' app on a device that is short of memory."""

from celery.signals import worker_process_init

from workers.app import app

app.conf.include = [*app.conf.include, "short_app"]  # for the pool process, which imports what is named here


@worker_process_init.connect
def run_short(**_):
    """In the pool process only: the model needs torch, which takes seconds."""
    import short_model  # noqa: F401
