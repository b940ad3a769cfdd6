"""Textual inversions in a prompt: which of its words stand for one. Pure; who reads a row and who draws it ask the
same."""

import re
from collections.abc import Callable, Collection, Mapping

PREFIX = "embedding:"  # as ComfyUI writes it: what follows must be one
_INSISTED = re.compile(rf"(?a:{PREFIX}([a-z0-9_-]+(?:\.[a-z0-9_-]+)*))", re.IGNORECASE)
_OPEN, _CLOSED = r"(?<![\w-])(?<![\w-]\.)", r"(?!\.?[\w-])"  # letters of any alphabet make a longer word


def finder(names: Collection[str]) -> Callable[[str], list[str]]:
    """A function that finds the names that a text holds as words, whatever their case, as they are spelled here; and
    with its PREFIX, whatever stands behind one."""
    spellings = {name.lower(): name for name in names}
    words = _words(names)

    def find(text: str) -> list[str]:
        plain = [spellings[word[2].lower()] for word in words.finditer(text) if not word[1]] if words else []
        return list(dict.fromkeys([*plain, *_insisted(text, spellings)]))

    return find


def replaced(text: str, tokens: Mapping[str, str]) -> str:
    """The text with those names' tokens in their place."""
    words, by = _words(tokens), {name.lower(): token for name, token in tokens.items()}
    return words.sub(lambda word: by[word[2].lower()], text) if words else text


def _insisted(text: str, spellings: Mapping[str, str]) -> list[str]:
    if PREFIX not in text.lower():
        return []
    return [PREFIX + spellings.get(word[1].lower(), word[1]) for word in _INSISTED.finditer(text)]


def _words(names: Collection[str]) -> re.Pattern[str] | None:
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    # Names are ASCII: case by Unicode would take a long s for an s.
    return re.compile(f"{_OPEN}(?a:({PREFIX})?({longest_first})){_CLOSED}", re.IGNORECASE) if names else None
