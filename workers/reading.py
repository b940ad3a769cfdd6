"""What every model that lies in files has in common: what it means when they cannot be read, and what they lack."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch

from shared import catalog
from shared.errors import ModelError
from shared.families import FAMILIES
from workers.retry import is_broken_device, is_out_of_memory

# Of autoencoders that were saved by the first versions of diffusers.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@contextmanager
def reading(entry: catalog.Model) -> Iterator[None]:
    """Turns whatever diffusers, transformers, tokenizers, safetensors, torch and pickle raise over an entry's files
    into ModelError. Too little memory and a broken device are no fault of the files."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error) or is_broken_device(error):
            raise
        title = FAMILIES[entry.family].title
        raise ModelError(f"model {entry.name}: {entry.path} does not load as {title}: {error}") from error


def refuse(entry: catalog.Model, part: str, lacking: Sequence[str]) -> None:
    """Raises ModelError that names the first of the tensors that are not there."""
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ModelError(f"model {entry.name}: {entry.path} lacks {part}.{lacking[0]}{more}")


def lacking(folder: Path, part: torch.nn.Module) -> list[str]:
    """Tensors that the files do not hold; random ones would be put in their place, with no more than a warning."""
    held: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safetensors.safe_open(file, "pt") as tensors:
            held |= {_plain(name) for name in tensors.keys()}  # noqa: SIM118  # it has no iterator
    return [name for name, _ in part.named_parameters() if _plain(name) not in held]


def size_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """What they take in memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _plain(name: str) -> str:
    """One spelling for all that diffusers and transformers have used."""
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name.removeprefix("text_model.")
