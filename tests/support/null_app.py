"""The workers' app with the null model in place of Stable Diffusion."""

from celery.signals import worker_process_init

from workers.app import app

app.conf.include = [*app.conf.include, "null_app"]  # for the pool process, which imports what is named here


@worker_process_init.connect
def use_null_model(**_):
    """In the pool process only: the model needs torch, which takes seconds."""
    import null_model  # noqa: F401
