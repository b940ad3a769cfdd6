"""The models that a worker holds: loaded once, the least recently used leave when memory is short."""

import logging
from collections import OrderedDict
from collections.abc import Callable

import torch

from shared import catalog
from shared.errors import ModelError
from workers.loaded import Loaded

log = logging.getLogger(__name__)


class Models:
    """What is loaded now. Raises ModelError when a model is absent, damaged, or not what the catalog says."""

    def __init__(self, known: catalog.Catalog, device: torch.device, most_bytes: int):
        self.known = known
        self.device = device
        self.most_bytes = most_bytes
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    def get(self, name: str) -> Loaded:
        """The model, loaded now if it is not resident."""
        if name not in self._loaded:
            entry = self._entry(name)
            check_files(entry)
            self._loaded[name] = LOADERS[entry.family](entry, self.device)
        self._loaded.move_to_end(name)
        self._make_room()
        return self._loaded[name]

    def _entry(self, name: str) -> catalog.Model:
        if name not in self.known.models:
            raise ModelError(f"model {name!r} is not in this worker's catalog; it has {', '.join(self.known.models)}")
        return self.known.models[name]

    def _make_room(self) -> None:
        while len(self._loaded) > 1 and sum(m.size_bytes for m in self._loaded.values()) > self.most_bytes:
            name, _ = self._loaded.popitem(last=False)
            log.info("model %s left to make room", name)


def _sd15(entry: catalog.Model, device: torch.device) -> Loaded:
    from workers import sd15  # noqa: PLC0415  # diffusers takes seconds to import: only who loads such a model waits

    return sd15.load(entry, device)


def check_files(entry: catalog.Model) -> None:
    """Whether the files are those that the catalog names."""
    if not entry.path.is_dir():
        raise ModelError(f"model {entry.name}: there is no folder {entry.path}")
    found = catalog.identity(entry.path)
    if found != entry.identity:
        raise ModelError(
            f"model {entry.name}: the files in {entry.path} have identity {found}, the catalog says {entry.identity}; "
            "the files were changed, or the catalog entry belongs to others"
        )


LOADERS: dict[str, Callable[[catalog.Model, torch.device], Loaded]] = {"sd15": _sd15}
