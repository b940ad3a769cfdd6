"""What fits into a device's memory: found out once, and remembered for all workers on devices of the kind."""

import json
from typing import Any, NamedTuple

from shared import keys
from shared.broker import Broker
from shared.jobs import scaled
from workers.memory import Rungs

# Then the full batch is tried again: perhaps the memory was short because somebody else had it.
REMEMBERED_S = 86_400.0


class Fit(NamedTuple):
    """`images`: in one model call, at most. `saving`: rungs of workers.memory that one image alone needs."""

    images: int
    saving: Rungs = ()


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
