"""What a worker process has: its settings, ledger, storage, device and models; made once, passed on as one value."""

import logging
import os
import socket
from dataclasses import dataclass
from functools import cache, partial

import torch

from shared import catalog, settings
from shared.errors import LeaseLost, Unreachable
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import Store
from workers import compiled, device, hang
from workers.app import NAME
from workers.cache import Cache
from workers.inputs import Inputs
from workers.models import Models
from workers.prepare import Preparation
from workers.quarantine import DRAIN

COMPILED = ".compiled"  # beside the models that were fetched
log = logging.getLogger(__name__)


@dataclass
class Host:
    name: str
    settings: Settings
    ledger: Ledger
    store: Store
    device: torch.device
    models: Models
    inputs: Inputs

    @property
    def preparation(self) -> Preparation:
        return Preparation(self.inputs, self.models)

    def must_drain(self) -> bool:
        """Whether the supervisor wants this process to end."""
        return _must_drain()


class Draining(LeaseLost):
    """This worker is asked to stop; the shard goes back."""


@cache
def host() -> Host:
    """The process's own; the first task makes it."""
    known = settings.load()
    chosen = device.open_device(known)
    if known.compile_models:
        compiled.keep_in(known.model_folder / COMPILED)
    store, ledger = Store(known), Ledger(known)
    name = os.environ.get(NAME, f"worker@{socket.gethostname()}")
    kept = Cache(store, known.model_folder, _still_wanted, partial(_show, ledger, name))
    return Host(
        name=name,
        settings=known,
        ledger=ledger,
        store=store,
        device=chosen,
        models=Models(
            catalog.load(known.models, kept.folder), chosen, known.models_bytes, kept.bring, known.compile_models
        ),
        inputs=Inputs(store, known),
    )


def _must_drain() -> bool:
    return os.path.exists(os.environ.get(DRAIN, ""))


def _still_wanted() -> None:
    """Between two pieces of a model that is fetched, which may take longer than any model call."""
    hang.still_alive()
    if _must_drain():
        raise Draining("this worker is asked to stop")


def _show(ledger: Ledger, worker: str, what: str) -> None:
    try:
        ledger.fetching(worker, what)
    except Unreachable as error:
        log.debug("not shown: %s", error)
