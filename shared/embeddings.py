"""Textual inversions in a prompt: which of its words stand for one. Pure; who reads a row and who draws it ask the
same."""

import re
from collections.abc import Callable, Collection, Mapping

PREFIX = "embedding:"  # as ComfyUI writes it: what follows must be one
_INSISTED = re.compile(rf"{PREFIX}([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)", re.IGNORECASE)
_OPEN, _CLOSED = r"(?<![A-Za-z0-9_-])(?<![A-Za-z0-9_-]\.)", r"(?!\.?[A-Za-z0-9_-])"


def finder(names: Collection[str]) -> Callable[[str], list[str]]:
    """A function that finds the names that a text holds as words, whatever their case, as the catalog spells them, and
    what follows PREFIX as it stands."""
    spellings = {name.lower(): name for name in names}
    words = _words(names)

    def find(text: str) -> list[str]:
        found = [spellings[word[2].lower()] for word in words.finditer(text)] if words else []
        return list(dict.fromkeys([*found, *_unknown(text, spellings)]))

    return find


def replaced(text: str, tokens: Mapping[str, str]) -> str:
    """The text with those names' tokens in their place."""
    words, by = _words(tokens), {name.lower(): token for name, token in tokens.items()}
    return words.sub(lambda word: by[word[2].lower()], text) if words else text


def _unknown(text: str, spellings: Mapping[str, str]) -> list[str]:
    if PREFIX not in text.lower():
        return []
    return [PREFIX + word[1] for word in _INSISTED.finditer(text) if word[1].lower() not in spellings]


def _words(names: Collection[str]) -> re.Pattern[str] | None:
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(f"{_OPEN}({PREFIX})?({longest_first}){_CLOSED}", re.IGNORECASE) if names else None
