"""A batch through its model: dressed as its rows ask, with as much memory as there is, checked where they want it."""

from collections.abc import Callable, Sequence
from typing import Any

from shared.images import Pixels
from workers import batches, dress, memory, refiner
from workers.batches import Item
from workers.loaded import Loaded
from workers.memory import Rungs
from workers.pipelines.call import OnStep
from workers.pipelines.runners import RUNNERS

Picture = Callable[[], Pixels | None]  # waits for it; None where the model drew none, or none that is one
Get = Callable[[str], Any]  # loads a model by name
Held = dict[tuple[int, int], Exception]  # by key: what must not be stored, and why


def draw(ready: Sequence[Item], model: Any, saving: Rungs, get: Get, on_step: OnStep) -> tuple[list[Picture], Held]:
    """One picture per prepared item; inputs that are kept as they are do not go through the model.

    Raises ModelError of what does not go together, and whatever a model raises.
    """
    drawn = wanted(ready)
    if not drawn:
        return [_none] * len(ready), {}
    if isinstance(model, Loaded):
        dress.dress(model, drawn[0].job, get)
    with refiner.beside(model, drawn, get), memory.saving(model, saving):
        pictures = RUNNERS[drawn[0].job.kind](batches.filled(drawn, shapes(model)), model, on_step)
    held = _held_back(drawn, pictures, model, get)
    coming = {item.key: _none if item.key in held else _nth(pictures, n) for n, item in enumerate(drawn)}
    return [coming.get(item.key, _none) for item in ready], held


def wanted(items: Sequence[Item]) -> list[Item]:
    """What goes through the model: all but inputs that are kept as they are."""
    return [item for item in items if item.ready is None or not item.ready.keep]


def shapes(model: Any) -> Sequence[int]:
    """How many images one call of this model must have; none: as many as there are."""
    return model.shapes if isinstance(model, Loaded) else ()


def _held_back(drawn: Sequence[Item], pictures: Sequence[Pixels | None], model: Any, get: Get) -> Held:
    if not isinstance(model, Loaded) or not drawn[0].job.safety_checker:
        return {}
    from workers import safety  # noqa: PLC0415  # it imports diffusers, which takes seconds

    return {**safety.held_back(drawn, [pictures[n] for n in range(len(drawn))], get)}


def _nth(pictures: Sequence[Pixels | None], n: int) -> Picture:
    return lambda: pictures[n]


def _none() -> None:
    """No picture."""
