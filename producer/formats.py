"""The file format of what is made: of an edit by its input, so that what is outside the mask stays as it was. Pure."""

from typing import Literal, NamedTuple

from producer import columns
from producer.faults import BadCell
from producer.sizes import Size
from shared.headers import Facts
from shared.jobs import QUALITY, OutputFormat

LOSSLESS_WEBP = 100  # quality
Wanted = OutputFormat | Literal["same"]


MOST_SIDE = {"jpeg": 65_535, "webp": 16_383}  # pixels that a file of this format can have


class Made(NamedTuple):
    output_format: OutputFormat
    quality: int


def wanted(cell: str) -> Wanted:
    """What a row with an input may ask for."""
    if cell.lower() == "same":
        return "same"
    try:
        return columns.output_format(cell)
    except BadCell as bad:
        raise BadCell(f"{bad.expected}, or same (the input's own)", bad.hint) from bad


def named(cell: str) -> OutputFormat:
    """What a row may ask for that has no input."""
    if cell.lower() == "same":
        raise BadCell("one of png, jpeg, webp, tiff", "same is the format of an input, and this row has none")
    return columns.output_format(cell)


def png_only(cell: str) -> OutputFormat:
    if cell.lower() != "png":
        raise BadCell("png, the only format of masks")
    return "png"


def check_size(_cell: str, made: OutputFormat, size: Size) -> None:
    """Raises BadCell if a file of this format cannot hold the picture."""
    most = MOST_SIDE.get(made)
    if most and max(size) > most:
        raise BadCell(f"png or tiff: {made} holds at most {most:,} pixels on a side", f"it has {max(size):,}")


def edited(masked: bool, format_: Wanted | None, quality: int | None, facts: Facts) -> Made:
    """`masked`: what is outside the mask must stay as it is."""
    lossless_webp = facts.format == "webp" and facts.lossless
    if format_ is None and masked:
        return _lossless(facts, quality)
    if format_ == "same":
        return Made(facts.format, quality or (LOSSLESS_WEBP if lossless_webp else QUALITY))
    return Made(format_ or "png", quality or QUALITY)


def _lossless(facts: Facts, quality: int | None) -> Made:
    """Lossless inputs keep their format; all others give PNG."""
    if facts.format == "webp" and facts.lossless:
        return Made("webp", LOSSLESS_WEBP)
    return Made("tiff" if facts.format == "tiff" else "png", quality or QUALITY)
