"""Which models there are: the built-in models.toml, overlaid by the user's own."""

import hashlib
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import ModelError
from shared.schedulers import SCHEDULERS

BUILT_IN = Path(__file__).with_name("models.toml")


class Limits(BaseModel):
    """What the model can make, in pixels; width and height must be multiples of `multiple_of`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_size: int = Field(64, ge=8)
    max_size: int = Field(1024, ge=8)
    multiple_of: int = Field(8, ge=1)


class Defaults(BaseModel):
    """What an empty cell means for this model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 512
    height: int = 512
    num_inference_steps: int = Field(25, ge=1, le=1000)
    guidance_scale: float = Field(7.5, ge=0, le=100)
    scheduler: str = "dpmpp_2m_karras"


class Model(BaseModel):
    """One entry: where the files lie, what they are, and the hash that names exactly these files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    family: Literal["sd15"]
    path: Path
    identity: str = Field(pattern=r"^[0-9a-f]{64}$")
    defaults: Defaults = Defaults()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _can_make_its_own_defaults(self) -> Self:
        if self.defaults.scheduler not in SCHEDULERS:
            raise ValueError(
                f"defaults.scheduler: found {self.defaults.scheduler!r}; expected one of {list(SCHEDULERS)}"
            )
        for name in ("width", "height"):
            size, limits = getattr(self.defaults, name), self.limits
            if not limits.min_size <= size <= limits.max_size or size % limits.multiple_of:
                raise ValueError(
                    f"defaults.{name}: found {size}; expected a multiple of {limits.multiple_of} "
                    f"from {limits.min_size} to {limits.max_size} (its limits)"
                )
        return self


class Catalog(BaseModel):
    """All models by name, and the one that a row without a `model` uses."""

    model_config = ConfigDict(frozen=True)

    default: str
    models: dict[str, Model]


def load(overlay: Path | None = None) -> Catalog:
    """The built-in entries and, over them, those of `overlay`. Raises ModelError that names file and entry."""
    default, models = _read(BUILT_IN)
    if overlay is not None:
        own_default, own_models = _read(overlay)
        default, models = own_default or default, models | own_models
    if default not in models:
        raise ModelError(f"{overlay or BUILT_IN}: default is {default!r}; expected one of {', '.join(sorted(models))}")
    return Catalog(default=default, models=models)


def identity(folder: Path) -> str:
    """SHA-256 (hex) over sorted (relative path, file SHA-256): equal for equal files wherever they lie."""
    digest = hashlib.sha256()
    for name in sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()):
        with (folder / name).open("rb") as file:
            file_hash = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{name}\n{file_hash}\n".encode())
    return digest.hexdigest()


def _read(path: Path) -> tuple[str, dict[str, Model]]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as TOML: {error}") from error
    default, entries = table.get("default", ""), table.get("models", {})
    if not isinstance(default, str) or not isinstance(entries, dict):
        raise ModelError(f'{path}: expected default = "NAME" and tables [models.NAME]')
    return default, {name: _model(path, name, entry) for name, entry in entries.items()}


def _model(path: Path, name: str, entry: dict[str, Any]) -> Model:
    try:
        model = Model(name=name, **entry)
    except (ValidationError, TypeError) as error:
        raise ModelError(f"{path}: [models.{name}]: {error}") from error
    return model.model_copy(update={"path": path.parent / model.path})
