"""Which models there are: the built-in models.toml, overlaid by the user's own."""

import hashlib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared import families, keys
from shared.errors import ModelError
from shared.families import FAMILIES
from shared.schedulers import SCHEDULERS

SINGLE_FILES = (".safetensors", ".ckpt")
NAME = r"[A-Za-z0-9._-]{1,64}"
ADDED = ("vae", "lora", "embedding")  # families that go with a model, and are none themselves
PLACES = ("path", "tokenizer", "config")
VOCABULARY = ("vocab.json", "merges.txt")
BUILT_IN = Path(__file__).with_name("models.toml")
# The columns that name a model, and the key that says which one an empty cell means.
DEFAULTS = {"model": "default", "mask_model": "default_mask_model", "mask_text_model": "default_mask_text_model"}


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
    # Of remove_object, which begins with its surroundings in the place of the object.
    remove_strength: float = Field(0.6, gt=0, le=1)
    # Segment Anything: how `auto` looks, and what it keeps.
    points_per_side: int = Field(32, ge=1, le=256)
    pred_iou_thresh: float = Field(0.88, ge=0, le=1)
    stability_score_thresh: float = Field(0.95, ge=0, le=1)
    # CLIPSeg: how sure it must be of a pixel.
    text_threshold: float = Field(0.5, ge=0, le=1)


class Model(BaseModel):
    """One entry: where the files lie, what they are, and the hash that names exactly these files.

    `path`, `tokenizer` and `config` may be given as s3://bucket/key. That is then kept in `remote`, and they stand for
    where this host keeps what it fetched: in the cache, below a folder that the identity names, as `files` names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{NAME}$")
    family: families.Name
    path: Path  # a folder; of a diffusion model also a single file
    tokenizer: Path | None = None  # of a single file: a folder with vocab.json and merges.txt
    config: Path | None = None  # of a single file whose architecture is not its family's usual one
    base: families.Base | None = None  # of what is added to a model: the models that it goes with
    identity: str = Field(pattern=r"^[0-9a-f]{64}$")
    remote: dict[str, str] = {}
    defaults: Defaults = Defaults()
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _begin_with_its_family(cls, entry: dict[str, Any]) -> dict[str, Any]:
        """What the entry does not say, its family does."""
        family = FAMILIES.get(entry.get("family", ""))
        if family is None:
            return entry
        begun = {"defaults": family.defaults, "limits": family.limits}
        return entry | {name: values | _table(entry.get(name, {})) for name, values in begun.items()}

    @model_validator(mode="before")
    @classmethod
    def _keep_what_is_remote(cls, entry: dict[str, Any]) -> dict[str, Any]:
        remote = {name: str(entry[name]) for name in PLACES if str(entry.get(name)).startswith(keys.S3)}
        for name, place in remote.items():
            if not keys.MODEL.fullmatch(place):
                raise ValueError(
                    f"{name}: found {place!r}; expected s3://bucket/folder or s3://bucket/file.safetensors"
                )
        suffix = PurePosixPath(remote.get("path", "")).suffix
        kept = {"path": f"model{suffix}" if _is_single_file(entry.get("family"), suffix) else ""}
        folder = Path(str(entry.get("identity")))
        return entry | {name: folder / kept.get(name, name) for name in remote} | {"remote": remote}

    @model_validator(mode="after")
    def _has_a_tokenizer(self) -> Self:
        if self.is_single_file and self.family not in ADDED and self.tokenizer is None:
            raise ValueError(
                "tokenizer: found nothing; expected a folder with vocab.json and merges.txt, which a single file lacks"
            )
        return self

    @model_validator(mode="after")
    def _goes_with_something(self) -> Self:
        if self.family == "vae" and self.is_single_file and self.base is None:
            raise ValueError(f"base: found nothing; expected one of {', '.join(get_args(families.Base))}")
        return self

    @property
    def is_single_file(self) -> bool:
        return _is_single_file(self.family, self.path.suffix)

    @property
    def location(self) -> str:
        """Where its files lie, for people."""
        return self.remote.get("path", str(self.path))

    @property
    def is_fetched(self) -> bool:
        """Whether all that lies in the storage is on this host too."""
        return all(getattr(self, place).exists() for place in self.remote)

    def files(self) -> dict[str, Path]:
        """Every file that the model consists of, by a name that does not depend on where it lies."""
        if not self.is_single_file:
            return below(self.path)
        found = {f"model{self.path.suffix}": self.path} if self.path.is_file() else {}
        words = {name: self.tokenizer / name for name in VOCABULARY} if self.tokenizer else {}
        for part, files in {"tokenizer": words, "config": below(self.config) if self.config else {}}.items():
            found |= {f"{part}/{name}": path for name, path in files.items() if path.is_file()}
        return found

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
    """All models by name, and those that a row uses which names none, by column."""

    model_config = ConfigDict(frozen=True)

    defaults: dict[str, str]
    models: dict[str, Model]

    def of(self, column: str) -> dict[str, Model]:
        """The models that a column may name."""
        return {name: model for name, model in self.models.items() if FAMILIES[model.family].column == column}


def load(overlay: Path | None = None, cache: Path = Path()) -> Catalog:
    """The built-in entries and, over them, those of `overlay`. Raises ModelError that names file and entry.

    `cache`: where this host keeps what lies in the storage; of no interest to those who read no files.
    """
    defaults, models = _read(BUILT_IN, cache)
    if overlay is not None:
        own_defaults, own_models = _read(overlay, cache)
        defaults, models = defaults | own_defaults, models | own_models
    known = Catalog(defaults=defaults, models=models)
    _refuse_alike(overlay or BUILT_IN, known.of("embeddings"))
    for column, key in DEFAULTS.items():
        name, fitting = defaults.get(column, ""), known.of(column)
        if name not in fitting and (fitting or column == "model"):
            raise ModelError(
                f"{overlay or BUILT_IN}: {key} is {name!r}; expected one of {', '.join(sorted(fitting)) or 'none'}"
            )
    return known


def _refuse_alike(path: Path, words: Collection[str]) -> None:
    """A prompt says them in any case."""
    seen: dict[str, str] = {}
    for name in words:
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ModelError(f"{path}: textual inversions {other!r} and {name!r} are one word; rename one of them")


def identity(folder: Path) -> str:
    """SHA-256 (hex) over sorted (relative path, file SHA-256): equal for equal files wherever they lie."""
    return identity_of(below(folder))


def identity_of(files: Mapping[str, Path]) -> str:
    """The same of files by name."""
    return identity_by(hashes(files))


def identity_by(found: Mapping[str, str]) -> str:
    """The same of files' hashes by name."""
    lines = (f"{name}\n{found[name]}\n" for name in sorted(found))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """Each file's SHA-256 (hex)."""
    found = {}
    for name, path in files.items():
        with path.open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def below(folder: Path) -> dict[str, Path]:
    """Every file in a folder by its relative path."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _is_single_file(family: Any, suffix: str) -> bool:
    whole = (*ADDED, *families.of_column("model"), *families.of_column("refiner"))
    return family == "embedding" or (suffix in SINGLE_FILES and family in whole)


def _table(values: Any) -> dict[str, Any]:
    return values.model_dump(exclude_unset=True) if isinstance(values, BaseModel) else values


def _read(path: Path, cache: Path) -> tuple[dict[str, str], dict[str, Model]]:
    """Default names by column, and the entries."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file; `produce models add` makes it") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as TOML: {error}") from error
    defaults = {column: table[key] for column, key in DEFAULTS.items() if key in table}
    entries = table.get("models", {})
    if not all(isinstance(name, str) for name in defaults.values()) or not isinstance(entries, dict):
        raise ModelError(f'{path}: expected default = "NAME" and tables [models.NAME]')
    return defaults, {name: _model(path, name, entry, cache) for name, entry in entries.items()}


def _model(path: Path, name: str, entry: dict[str, Any], cache: Path) -> Model:
    try:
        model = Model(name=name, **entry)
    except (ValidationError, TypeError) as error:
        raise ModelError(f"{path}: [models.{name}]: {error}") from error
    places = {name: place for name in PLACES if (place := getattr(model, name))}
    roots = {name: cache if name in model.remote else path.parent for name in places}
    return model.model_copy(update={name: roots[name] / place for name, place in places.items()})
