"""What a command works with: the services that the environment names, else those of the local stack."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producer import stack
from producer.stack import Stack
from shared import queue, settings
from shared.errors import Unreachable, UsageError
from shared.runs import Ledger
from shared.store import Store

ROOT = Path(".pixelmill")


@dataclass(frozen=True)
class Session:
    """`stack` is the local one, or None where the environment names the services."""

    ledger: Ledger
    store: Store
    app: Any
    stack: Stack | None


def is_local() -> bool:
    """Whether nothing is configured: then the stack in ./.pixelmill/ is meant."""
    return not os.environ.get("PIXELMILL_REDIS_URL")


def open_session(start: bool) -> Session:
    """Raises Unreachable if nothing answers. `start`: bring the local stack up where one is meant."""
    local = None
    if is_local():
        local = stack.up(ROOT) if start else stack.describe(ROOT)
        if local is None:
            raise Unreachable(f"no local stack runs in {ROOT}; start it with `produce up`, or set PIXELMILL_REDIS_URL")
        os.environ.update(local.env)
    known = settings.load()
    if local is None and not known.s3_endpoint and not os.environ.get("PIXELMILL_S3_BUCKET"):
        raise UsageError("PIXELMILL_REDIS_URL is set, the storage is not: set PIXELMILL_S3_BUCKET (and _ENDPOINT)")
    session = Session(Ledger(known), Store(known), queue.make_app(known), local)
    session.ledger.now_ms()
    session.store.ensure_bucket()
    return session
