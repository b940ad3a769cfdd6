"""What a worker process has: its settings, ledger, storage, device and models; made once, passed on as one value."""

import os
import socket
from dataclasses import dataclass
from functools import cache

import torch

from shared import catalog, settings
from shared.errors import LeaseLost
from shared.runs import Ledger
from shared.settings import Settings
from shared.store import Store
from workers import device
from workers.app import NAME
from workers.inputs import Inputs
from workers.models import Models
from workers.prepare import Preparation
from workers.quarantine import DRAIN


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
        return os.path.exists(os.environ.get(DRAIN, ""))


class Draining(LeaseLost):
    """This worker is asked to stop; the shard goes back."""


@cache
def host() -> Host:
    """The process's own; the first task makes it."""
    known = settings.load()
    chosen = device.open_device(known)
    store = Store(known)
    return Host(
        name=os.environ.get(NAME, f"worker@{socket.gethostname()}"),
        settings=known,
        ledger=Ledger(known),
        store=store,
        device=chosen,
        models=Models(catalog.load(known.models), chosen, known.models_bytes),
        inputs=Inputs(store, known),
    )
