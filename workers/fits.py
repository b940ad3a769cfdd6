"""What fits into a device's memory: found out once, and remembered for all workers on devices of the kind."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from shared import keys
from shared.broker import Broker
from shared.jobs import scaled
from workers import device as device_
from workers import retry
from workers.batches import Item
from workers.loaded import Loaded
from workers.memory import Rungs

# Then the full batch is tried again: perhaps the memory was short because somebody else had it.
REMEMBERED_S = 86_400.0


class Fit(NamedTuple):
    """`images`: in one model call, at most. `saving`: rungs of workers.memory that one image alone needs."""

    images: int
    saving: Rungs = ()


@dataclass(frozen=True)
class Fits:
    """What one worker's device is known to hold. `most`: images in one model call, whatever fits."""

    broker: Broker
    device: torch.device
    most: int

    def of(self, item: Item, model: Any) -> Fit:
        """How batches like this item's are to be made; what is made again, as it was made then."""
        if item.row.batch_images:
            return Fit(1, item.row.memory)
        return known(self.broker, self._key(item, model), self.most)

    def note(self, batch: Sequence[Item], model: Any, action: retry.Action | None, saving: Rungs) -> None:
        """Smaller batches as soon as one did not fit; what saves memory once it was enough: a row may fit nowhere."""
        if isinstance(action, retry.Halve):
            self._less(batch[0], model, Fit((len(batch) + 1) // 2))
        elif action is None and saving and not batch[0].row.batch_images:
            self._less(batch[0], model, Fit(1, saving))

    def _less(self, item: Item, model: Any, found: Fit) -> None:
        before = self.of(item, model)
        if (least := smaller(before, found)) != before:
            remember(self.broker, self._key(item, model), least)

    def _key(self, item: Item, model: Any) -> str:
        return key(item.job, model.identity, device_.memory_of(self.device), length(model, item))


def length(model: Any, item: Item) -> int:
    """Texts of one length go together: a longer neighbour would change a shorter one's picture."""
    return model.texts.windows(item.job) if isinstance(model, Loaded) and hasattr(item.job, "prompt") else 1


def key(job: Any, identity: str, device: str, windows: int) -> str:
    """What decides how much memory a model call needs, and what there is; `windows` of its longest text."""
    guided = getattr(job, "guidance_scale", 0) > 1  # then each picture goes through the UNet twice
    scale = getattr(job, "hires_scale", 1)
    width, height = (scaled(side, scale) for side in (job.width, job.height))
    more = ("+guided" if guided else "") + ("+refined" if getattr(job, "refiner", "") else "")
    return keys.fit(device, identity, job.kind, width, height, f"{windows}{more}")


def known(broker: Broker, key: str, most: int) -> Fit:
    """What is remembered; of what never failed, batches of `most` images are tried."""
    text = broker.noted(key)
    if text is None:
        return Fit(most)
    found = json.loads(text)
    return Fit(min(found["images"], most), tuple(found["memory"]))


def remember(broker: Broker, key: str, fit: Fit) -> None:
    broker.note(key, json.dumps({"images": fit.images, "memory": fit.saving}), REMEMBERED_S)


def smaller(one: Fit, other: Fit) -> Fit:
    """Pure: what needs no more memory than either, for another worker may have found out more meanwhile."""
    return Fit(min(one.images, other.images), max(one.saving, other.saving, key=len))
