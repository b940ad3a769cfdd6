"""The catalog: what is in it, and a model of one's own added to it."""

import json
import os
import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from producer import follow, recognition, session
from producer.stored import Place, Stored
from shared import catalog, keys, remote, settings
from shared.catalog import ADDED, DEFAULTS, NAME, VOCABULARY, Model
from shared.errors import UsageError
from shared.families import FAMILIES
from shared.store import Store

HEADER = ("model", "family", "default", "here", "path")


def show_all(as_json: bool) -> int:
    """A line per model of the catalog."""
    own = settings.load()
    known = catalog.load(own.models, own.model_folder)
    found = [_facts(model, known.defaults) for model in known.models.values()]
    if as_json:
        print(json.dumps(found))
    else:
        follow.table([tuple(_cell(facts[name]) for name in HEADER) for facts in found], HEADER)
    return 0


def _facts(model: Model, defaults: dict[str, str]) -> dict[str, Any]:
    return {
        "model": model.name,
        "family": model.family,
        "default": defaults.get(FAMILIES[model.family].column) == model.name,
        "here": model.is_fetched and bool(model.files()),
        "path": model.location,
        "identity": model.identity,
    }


def _cell(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value))


def add(path: str, name: str | None, tokenizer: str | None, config: str | None, base: str | None, default: bool) -> int:
    """Look at a model's files, on this host or in the storage, and write its entry into the file that PIXELMILL_MODELS
    names. Raises UsageError for files that are no model of a known family, and for a name that is taken."""
    target = settings.load().models
    if target is None:
        raise UsageError(
            "PIXELMILL_MODELS names no file to write to; export PIXELMILL_MODELS=models.toml and try again"
        )
    store = cache(lambda: session.open_session(start=False).store)
    place = _place(path, store)
    words, described = (_place(text, store) if text else None for text in (tokenizer, config))
    name = name or _name_of(place)
    _check_name(target, name)
    for option, folder in (("--tokenizer", words), ("--config", described)):
        if folder and not folder.is_dir():
            raise UsageError(f"{option}: there is no folder {folder}")
    found = recognition.look(place)
    base = base or found.base
    if found.family == "lora" and base is None:
        print(f"warning: {path} does not say what it goes with; give --base, and rows are checked before they are sent")
    if found.family == "vae" and base is None:
        raise UsageError(f"{path}: found an autoencoder, which does not say what it goes with; give --base")
    places = {"path": place}
    if not place.is_dir() and found.family not in ADDED:
        places["tokenizer"] = _tokenizer(place, words)
    if not place.is_dir() and described:
        places["config"] = described
    lines = {"family": found.family, **({"base": base} if base else {})}
    entry = Model(name=name, identity="0" * 64, **lines, **{key: _whole(place) for key, place in places.items()})
    default_key = _default_key(entry) if default else None
    print(f"hashing {path} ...", flush=True)
    lines |= {key: _from(target, place) for key, place in places.items()}
    text = _text(name, lines | {"identity": _identity(entry, store)})
    with FileLock(target.with_name(f".{target.name}.lock")):
        _check_name(target, name)
        _write(target, text, default_key, name)
    print(f"added {name} ({found.family}) to {target}")
    return 0


def _place(text: str, store: Callable[[], Store]) -> Place:
    return Stored(store(), text) if text.startswith(keys.S3) else Path(text)


def _whole(place: Place) -> str:
    return str(place.absolute() if isinstance(place, Path) else place)  # a link's own name has the suffix


def _identity(entry: Model, store: Callable[[], Store]) -> str:
    """What lies in the storage is read once, and not kept."""
    there = remote.hashes(store(), remote.objects(entry, store())) if entry.remote else {}
    return catalog.identity_by(catalog.hashes(entry.files()) | there)


def _default_key(entry: Model) -> str:
    column = FAMILIES[entry.family].column
    if column not in DEFAULTS:
        raise UsageError(f"--default: {entry.name} is {FAMILIES[entry.family].title}; rows name those that they use")
    return DEFAULTS[column]


def _check_name(target: Path, name: str) -> None:
    if not re.fullmatch(NAME, name):
        raise UsageError(f"--name: found {name!r}; expected 1 to 64 letters, digits, '.', '_' and '-'")
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    if name in tomllib.loads(before).get("models", {}):
        raise UsageError(f"{target} has a model {name!r} already; give this one another name with --name")
    if name in catalog.load().models:
        raise UsageError(f"pixelmill itself brings a model {name!r}; give this one another name with --name")


def _name_of(path: Place) -> str:
    stem = path.name if path.is_dir() else path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:64] or "model"


def _tokenizer(path: Place, given: Place | None) -> Place:
    folder = given or path.parent
    if not all((folder / name).is_file() for name in VOCABULARY):
        raise UsageError(
            f"{folder}: found no {' and '.join(VOCABULARY)}; a single file brings no tokenizer: give --tokenizer DIR"
        )
    return folder


def _from(target: Path, place: Place) -> str:
    """A path as the catalog writes it: relative where it lies beside or below."""
    if isinstance(place, Stored):
        return str(place)
    folder, place = target.absolute().parent, place.absolute()
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else place.as_posix()


def _text(name: str, lines: dict[str, str]) -> str:
    head = f"[models.{json.dumps(name) if '.' in name else name}]"
    return "\n".join([head, *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in lines.items()), ""])


def _write(target: Path, text: str, default_key: str | None, name: str) -> None:
    """Append the entry; the file as it was stays until the new one has been read without a fault."""
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    after = (before.rstrip("\n") + "\n\n" if before.strip() else "") + text
    if default_key is not None:
        after = _with_default(after, default_key, name)
    new = target.with_name(f".{target.name}.new")
    try:
        new.write_text(after, encoding="utf-8")
        known = catalog.load(new)
        if default_key is not None and name not in known.defaults.values():
            raise UsageError(
                f"{target}: cannot tell where {default_key} stands; write {default_key} = {name!r} yourself"
            )
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


def _with_default(text: str, key: str, name: str) -> str:
    """The catalog's text with another default; keys without a table stand before the first table."""
    line = f"{key} = {json.dumps(name)}"
    changed, count = re.subn(rf"^{key}\s*=.*$", line, text, count=1, flags=re.MULTILINE)
    return changed if count else f"{line}\n\n{text}"
