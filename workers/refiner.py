"""The refiner of Stable Diffusion XL: a second model, which ends what a row's model begins."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from workers import dress
from workers.batches import Item
from workers.loaded import Loaded


@contextmanager
def beside(model: Any, items: Sequence[Item], get: Callable[[str], Any]) -> Iterator[None]:
    """While these are drawn, the refiner that their job names is at hand as `model.refiner`; no longer, for it must be
    free to leave memory. `get` loads by name. Raises as `dress.dress`."""
    name = getattr(items[0].job, "refiner", "") if items else ""
    if not name:
        yield
        return
    refiner: Loaded = get(name)
    dress.teach(refiner, items[0].job, get)
    if items[0].job.vae:
        refiner.pipeline.register_modules(vae=model.pipeline.vae)
    model.refiner = refiner
    try:
        yield
    finally:
        model.refiner = None
        refiner.pipeline.register_modules(vae=refiner.own_vae)
