"""The models that a worker holds: loaded once, the least recently used leave when memory is short."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch

from shared import catalog, families
from shared.errors import ModelError
from shared.jobs import split_models
from workers import compiled, device
from workers.loaded import Loaded

log = logging.getLogger(__name__)


class Resident(Protocol):
    """What every family's model has, whatever else it can do."""

    name: str
    identity: str
    size_bytes: int


Bring = Callable[[catalog.Model], None]  # has an entry's files on this host


class Models:
    """What is loaded now. Raises ModelError when a model is absent, damaged, or not what the catalog says."""

    def __init__(
        self,
        known: catalog.Catalog,
        on: torch.device,
        most_bytes: int,
        bring: Bring = lambda _: None,
        compile_how: compiled.How = "",
    ):
        self.known = known
        self.compile_how = compile_how
        self.device = on
        self.most_bytes = most_bytes
        self.bring = bring
        self._loaded: OrderedDict[str, Resident] = OrderedDict()

    @property
    def identities(self) -> dict[str, str]:
        """Of every model of the catalog, by its name."""
        return {name: entry.identity for name, entry in self.known.models.items()}

    def get(self, name: str, beside: str = "") -> Any:
        """The model, loaded now if it is not resident. `beside`: what is in use, as shards name several models; none
        of it leaves for this one."""
        if name not in self._loaded:
            try:
                self._loaded[name] = self._load(name, beside)
            except ModelError as error:
                error.model = name
                raise
        self._loaded.move_to_end(name)
        self._make_room(0, (name, *split_models(beside)))  # in memory it may be larger than on disk
        return self._loaded[name]

    def _load(self, name: str, beside: str) -> Resident:
        entry = self._entry(name)
        self.bring(entry)
        check_files(entry)
        self._make_room(sum(path.stat().st_size for path in entry.files().values()), split_models(beside))
        model = LOADERS[entry.family](entry, self.device)
        if isinstance(model, Loaded):
            compiled.begin(model, self.compile_how)
        return model

    def _entry(self, name: str) -> catalog.Model:
        if name not in self.known.models:
            raise ModelError(f"model {name!r} is not in this worker's catalog; it has {', '.join(self.known.models)}")
        return self.known.models[name]

    def _make_room(self, coming_bytes: int, keep: Collection[str]) -> None:
        """Let the least recently used models go, until what comes fits beside the rest or only `keep` are left."""
        for name in [name for name in self._loaded if name not in keep]:
            if coming_bytes + self._resident_bytes() <= self.most_bytes:
                return
            del self._loaded[name]
            device.free_memory(self.device)  # its cache of texts refers back to it: only the collector ends that
            log.info("model %s left to make room", name)

    def _resident_bytes(self) -> int:
        return sum(model.size_bytes for model in self._loaded.values())


# diffusers and transformers take seconds to import: only who loads such a model waits.
def _diffusion(entry: catalog.Model, on: torch.device) -> Resident:
    from workers import diffusion  # noqa: PLC0415

    return diffusion.load(entry, on)


def _vae(entry: catalog.Model, on: torch.device) -> Resident:
    from workers import added  # noqa: PLC0415

    return added.load_vae(entry, on)


def _lora(entry: catalog.Model, _on: torch.device) -> Resident:
    from workers import added  # noqa: PLC0415

    return added.load_lora(entry)


def _embedding(entry: catalog.Model, _on: torch.device) -> Resident:
    from workers import added  # noqa: PLC0415

    return added.load_embedding(entry)


def _safety(entry: catalog.Model, on: torch.device) -> Resident:
    from workers import safety  # noqa: PLC0415

    return safety.load(entry, on)


def _sam(entry: catalog.Model, on: torch.device) -> Resident:
    from workers import sam  # noqa: PLC0415

    return sam.load(entry, on)


def _clipseg(entry: catalog.Model, on: torch.device) -> Resident:
    from workers import clipseg  # noqa: PLC0415

    return clipseg.load(entry, on)


def check_files(entry: catalog.Model) -> None:
    """Whether the files are those that the catalog names."""
    files = entry.files()
    if not files:
        raise ModelError(f"model {entry.name}: there is no {'file' if entry.is_single_file else 'folder'} {entry.path}")
    found = catalog.identity_of(files)
    if found != entry.identity:
        again = "; delete what is there, and it is fetched again" if entry.remote else ""
        raise ModelError(
            f"model {entry.name}: the files in {entry.path} have identity {found}, the catalog says {entry.identity}; "
            f"the files were changed, or the catalog entry belongs to others{again}"
        )


LOADERS: dict[str, Callable[[catalog.Model, torch.device], Resident]] = {
    **dict.fromkeys((*families.of_column("model"), *families.of_column("refiner")), _diffusion),
    "vae": _vae,
    "lora": _lora,
    "embedding": _embedding,
    "safety": _safety,
    "sam": _sam,
    "clipseg": _clipseg,
}
