"""Words of a prompt and how much they weigh, as A1111 writes it: `(word)`, `[word]`, `(word:1.3)`. Pure."""

import re
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

LOUDER, QUIETER = 1.1, 1 / 1.1  # for each pair of round or square brackets
_TOKENS = re.compile(r"\\[()\[\]\\]|[()\[\]]|[^()\[\]\\]+|\\")
_NUMBER = re.compile(r"(.*):\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*", re.DOTALL)


class Fragment(NamedTuple):
    """A piece of a prompt without its brackets, and the weight of all of its words."""

    text: str
    weight: float


@dataclass
class _Group:
    """What stands in one pair of brackets so far."""

    opened: str = ""
    pieces: list[Fragment] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.pieces.append(Fragment(text, 1.0))

    def closed(self, by: str) -> list[Fragment]:
        """Its pieces, weighed; a number counts behind a colon in round brackets."""
        if by == ")" and self.pieces and (found := _NUMBER.fullmatch(self.pieces[-1].text)):
            text, number = found.groups()
            return _weighed([*self.pieces[:-1], Fragment(text, self.pieces[-1].weight)], float(number))
        return _weighed(self.pieces, LOUDER if by == ")" else QUIETER)


def fragments(prompt: str) -> list[Fragment]:
    """The prompt's pieces in order, neighbours of equal weight in one; brackets without a partner weigh nothing, and
    a backslash before one makes it a letter."""
    groups = [_Group()]
    for token in _TOKENS.findall(prompt):
        if token in ("(", "["):
            groups.append(_Group(token))
        elif token in (")", "]"):
            if groups[-1].opened == {")": "(", "]": "["}[token]:
                done = groups.pop().closed(token)
                groups[-1].pieces += done
            else:
                groups[-1].add(token)
        else:
            groups[-1].add(token[1:] if len(token) == 2 and token[0] == "\\" else token)
    while len(groups) > 1:  # never closed
        rest = groups.pop()
        groups[-1].pieces += [Fragment(rest.opened, 1.0), *rest.pieces]
    return _joined(groups[0].pieces)


def _weighed(pieces: list[Fragment], by: float) -> list[Fragment]:
    return [Fragment(text, weight * by) for text, weight in pieces]


def _joined(pieces: list[Fragment]) -> list[Fragment]:
    full = [piece for piece in pieces if piece.text]
    return [
        Fragment("".join(piece.text for piece in run), weight)
        for weight, run in groupby(full, lambda piece: piece.weight)
    ]
