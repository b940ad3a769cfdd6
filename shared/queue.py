"""The Celery app that every side uses, and the one message there is: run this shard of that run."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from shared.broker import tls, unreachable
from shared.jobs import SCHEMA_VERSION
from shared.settings import Settings

RUN_SHARD = "pixelmill.run_shard"
BULK = "bulk"
INTERACTIVE = "interactive"
LANES = (INTERACTIVE, BULK)  # in the order in which workers empty them


def make_app(settings: Settings, include: Sequence[str] = ()) -> Celery:
    """A Celery app; creating it opens no connection.

    The configuration goes in as `changes`: only they, of all ways to configure an app, reach a spawned pool process.
    """
    return Celery("pixelmill", set_as_current=False, include=list(include), changes=celery_config(settings))


def celery_config(settings: Settings) -> dict[str, Any]:
    """Celery's settings; where they differ from its defaults, the reason stands beside them."""
    return {
        "broker_url": settings.redis_url.get_secret_value(),
        "broker_use_ssl": tls(settings),  # without it, kombu encrypts for rediss:// and checks nobody's certificate
        "broker_transport_options": {
            "queue_order_strategy": "priority",  # interactive before bulk
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # by default a worker exits after 100 tries
        "task_publish_retry_policy": {"max_retries": 5, "interval_start": 0, "interval_step": 0.5, "interval_max": 2},
        # Acknowledged at receipt: only the ledger's leases and dispatch deliver again (docs/decisions/0002).
        "task_acks_late": False,
        "worker_disable_prefetch": True,  # a shard waits in the queue, where any free worker can take it
        "worker_prefetch_multiplier": 1,
        # True would kill a running shard when the broker is briefly away; the lease decides instead.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_pool_start_method": "spawn",  # CUDA does not survive a fork
        "worker_lost_wait": 1.0,  # a pool process that died is mourned 10 s by default, for a result that none awaits
        "worker_proc_alive_timeout": 900.0,  # by default a child that imports for over 4 s is killed
        "worker_redirect_stdouts": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],  # no pickle, from nobody
        "result_accept_content": ["json"],
        "task_ignore_result": True,  # results are objects in the storage
        "task_queues": [Queue(lane, routing_key=lane) for lane in LANES],
        "task_default_queue": BULK,
        "task_create_missing_queues": False,
        "worker_send_task_events": True,
        # Whoever can publish in the broker could stop workers; supervisor and drain file do that here.
        "worker_enable_remote_control": False,
        "task_send_sent_event": False,
    }


def named(message: bytes) -> tuple[str, str] | None:
    """(run, shard) of a message as it lies in a lane; None if it is none of ours."""
    try:
        _args, facts, _embed = json.loads(base64.b64decode(json.loads(message)["body"]))
        return str(facts["run"]), str(facts["shard"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def send(app: Celery, lane: str, run: str, shard: str) -> None:
    """Put one shard into a lane. The message names the work and carries none of it. Raises Unreachable."""
    message = {"run": run, "shard": shard, "version": SCHEMA_VERSION}
    try:
        app.send_task(RUN_SHARD, kwargs=message, queue=lane, argsrepr="()", kwargsrepr=f"{run} shard {shard}")
    except OperationalError as error:
        raise unreachable(error) from error
