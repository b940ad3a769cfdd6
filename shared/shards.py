"""Shards as the ledger knows them: the unit of delivery, lease and commit."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shard:
    """A shard as the ledger holds it: a range of a job part, perhaps only some of its rows."""

    name: str
    model: str
    part: int
    offset: int  # bytes in the part
    length: int  # bytes
    count: int  # rows to do
    only: tuple[int, ...] = ()  # these rows of the range; empty: all
    but: tuple[int, ...] = ()  # not these
    deaths: dict[int, int] = field(default_factory=dict)  # row -> how often a worker died on it
    history: tuple[str, ...] = ()  # how each of those workers ended
    look: bool = False  # pictures of it may be stored already, copied from an earlier run
    state: str = "pending"
    token: int = 0
    running_rows: tuple[int, ...] = ()  # the rows of the model call that runs now
    worker: str = ""  # that runs it
    exit: str = ""  # what is known of that worker's end

    def wants(self, row: int) -> bool:
        """Whether this row of the range is this shard's to do."""
        return (not self.only or row in self.only) and row not in self.but

    def fields(self) -> dict[str, str]:
        """As a Redis hash of strings."""
        return {
            "state": self.state,
            "model": self.model,
            "part": str(self.part),
            "offset": str(self.offset),
            "length": str(self.length),
            "count": str(self.count),
            **({"only": json.dumps(self.only)} if self.only else {}),
            **({"but": json.dumps(self.but)} if self.but else {}),
            **({"deaths": json.dumps(self.deaths)} if self.deaths else {}),
            **({"history": json.dumps(self.history)} if self.history else {}),
            **({"look": "1"} if self.look else {}),
        }


def shard_from(name: str, fields: dict[str, str]) -> Shard:
    """The opposite of `Shard.fields`."""
    deaths = json.loads(fields.get("deaths", "{}"))
    return Shard(
        name=name,
        model=fields["model"],
        part=int(fields["part"]),
        offset=int(fields["offset"]),
        length=int(fields["length"]),
        count=int(fields["count"]),
        only=tuple(json.loads(fields.get("only", "[]"))),
        but=tuple(json.loads(fields.get("but", "[]"))),
        deaths={int(row): n for row, n in deaths.items()},
        history=tuple(json.loads(fields.get("history", "[]"))),
        look="look" in fields,
        state=fields["state"],
        token=int(fields.get("token", 0)),
        running_rows=tuple(json.loads(fields.get("running_rows", "[]"))),
        worker=fields.get("worker", ""),
        exit=fields.get("exit", ""),
    )


@dataclass(frozen=True)
class Outcome:
    """How the rows of a shard ended."""

    done: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    images: int = 0


@dataclass(frozen=True)
class Claim:
    """A worker's right to run a shard until its lease runs out; `token` fences off whoever held it before."""

    run: str
    shard: Shard
    token: int


def ranges(rows: Iterable[int]) -> list[list[int]]:
    """Sorted row numbers as [first, last] pairs: a shard of neighbours needs one."""
    found: list[list[int]] = []
    for row in rows:
        if found and row == found[-1][1] + 1:
            found[-1][1] = row
        else:
            found.append([row, row])
    return found


def expand(pairs: Iterable[Sequence[int]]) -> list[int]:
    """The opposite of `ranges`."""
    return [row for first, last in pairs for row in range(first, last + 1)]
