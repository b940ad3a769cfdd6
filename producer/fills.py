"""`--set COLUMN=VALUE`: what empty cells mean, by the row's kind. Pure."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from producer import cells, columns, edit_columns
from producer.faults import did_you_mean
from producer.inputs import Inputs
from producer.kinds import EXPANDS, OF_ANY_KIND, SELECTORS, USES
from shared.catalog import Catalog
from shared.errors import UsageError
from shared.settings import Settings


def canonical(given: Mapping[str, str]) -> dict[str, str]:
    """By canonical names. Raises UsageError."""
    fills: dict[str, str] = {}
    for name, value in given.items():
        column = columns.NAMES.get(cells.plain(name))
        if column is None:
            near = did_you_mean(cells.plain(name), columns.NAMES) or "expected one of " + ", ".join(columns.ALIASES)
            raise UsageError(f"--set {name}: no such column; {near}")
        if column in columns.UNIQUE:
            raise UsageError(f"--set {name}: no two rows may share a {column}; write it into the file")
        if column in fills:
            raise UsageError(f"--set {name}: {column} is set twice")
        fills[column] = value.strip()
    return fills


def useful(fills: Mapping[str, str], kind: str, own: Iterable[str] = ()) -> dict[str, str]:
    """The fills that a row of this kind has a use for, beside the columns that it fills itself."""
    own = set(own)
    left_out: set[str] = set()
    for group in ((*SELECTORS, "point_labels", "auto"), (*EXPANDS, "anchor")):  # of these, the row says all or nothing
        if own.intersection(group):
            left_out.update(group)
    if kind == "segment" or (kind == "txt2img" and fills.get("output_format", "").lower() == "same"):
        left_out.add("output_format")
    return {column: cell for column, cell in fills.items() if cell and column in USES[kind] - left_out}


def of_any_kind(fills: Mapping[str, str]) -> dict[str, str]:
    """Those that mean the same in every row that makes a picture."""
    sized = fills.keys().isdisjoint(("kind", "anchor"))
    return {c: v for c, v in fills.items() if c in OF_ANY_KIND or (sized and c in ("width", "height"))}


def alone(column: str, inputs: Inputs, catalog: Catalog, settings: Settings) -> Callable[[str], Any] | None:
    """What reads a cell of this column by itself; None: it is read with others."""
    own: dict[str, Callable[[str], Any]] = {
        "kind": columns.kind,
        "image": inputs.picture,
        "mask_image": inputs.mask_or_alpha,
        "mask_text": partial(cells.text, most_chars=settings.max_prompt_chars),
        "mask_model": partial(columns.model, catalog=catalog, column="mask_model"),
        "mask_text_model": partial(columns.model, catalog=catalog, column="mask_text_model"),
    }
    return own.get(column) or edit_columns.PARSERS.get(column)
