"""What a cell may say, whatever its column: text, numbers, yes or no, one of some words."""

import re
from collections.abc import Mapping
from typing import TypeVar

from producer.faults import BadCell, did_you_mean

T = TypeVar("T")

_WHOLE = re.compile(r"(-?[0-9]{1,20})(?:\.0*)?")
_DECIMAL = re.compile(r"-?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and line ends
_SURROGATE = re.compile("[\ud800-\udfff]")
YES = ("yes", "true", "1", "1.0", "on")
NO = ("no", "false", "0", "0.0", "off")


def plain(name: str) -> str:
    """A name in its plainest spelling: `CFG scale`, `cfg-scale` and `cfg_scale` are one."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def text(cell: str, most_chars: int) -> str:
    """Prompt text, exactly as written."""
    if cell.isprintable() and 0 < len(cell) <= most_chars and not cell.isspace():
        return cell
    if not cell.strip():
        raise BadCell("a text that says what the picture shows")
    if len(cell) > most_chars:
        raise BadCell(f"at most {most_chars:,} characters", found=f"{len(cell):,} characters")
    if bad := _CONTROL.search(cell):
        raise BadCell("text without control characters", f"remove U+{ord(bad[0]):04X} at character {bad.start() + 1}")
    if bad := _SURROGATE.search(cell):
        raise BadCell("whole Unicode characters", f"remove U+{ord(bad[0]):04X} at character {bad.start() + 1}")
    return cell


def whole(cell: str, low: int, high: int) -> int:
    expected = f"a whole number from {low} to {high}"
    if (value := whole_number(cell)) is None:
        raise BadCell(expected, digits_hint(cell))
    if not low <= value <= high:
        raise BadCell(expected)
    return value


def whole_number(cell: str) -> int | None:
    """`20`, and `20.0` as spreadsheets write it; None: something else."""
    number = _WHOLE.fullmatch(cell)
    return int(number[1]) if number else None


def decimal(cell: str, low: float, high: float) -> float:
    expected = f"a number from {low} to {high}"
    if (value := number(cell)) is None:
        raise BadCell(expected, digits_hint(cell))
    if not low <= value <= high:
        raise BadCell(expected)
    return value


def number(cell: str) -> float | None:
    """Digits with a decimal point; None: something else."""
    return float(cell) + 0.0 if _DECIMAL.fullmatch(cell) else None  # + 0.0: no negative zero


def digits_hint(cell: str) -> str:
    if "," in cell and re.fullmatch(r"-?[0-9,.]+", cell):
        return "write digits and a decimal point only, no comma"
    if re.fullmatch(r"[0-9.]+e[+-]?[0-9]+", cell, re.IGNORECASE):
        return "write the digits out"
    return ""


def truth(cell: str) -> bool:
    return word(cell, dict.fromkeys(YES, True) | dict.fromkeys(NO, False), ("yes", "no"))


def word(cell: str, meanings: Mapping[str, T], shown: tuple[str, ...] = ()) -> T:
    """One of some words, in any spelling. `shown`: those that a user is told of, where they are not all."""
    if (found := plain(cell)) not in meanings:
        raise BadCell("one of " + ", ".join(shown or meanings), did_you_mean(found, meanings))
    return meanings[found]
