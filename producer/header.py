"""Line 1 of a file: which column is what."""

from dataclasses import dataclass, field
from functools import cached_property

from producer.cells import plain
from producer.columns import ALIASES, IGNORED, NAMES
from producer.faults import Problem, did_you_mean, shown
from producer.records import Record

MOST_HINTS = 50  # names looked up among the known ones; in a table that wide, the others are data


@dataclass
class Header:
    """The columns by name and by meaning, and what is wrong with them."""

    line: int
    names: list[str]  # as written, in order
    at: dict[str, int] = field(default_factory=dict)  # canonical name -> index
    metadata: dict[str, int] = field(default_factory=dict)  # unknown name -> index
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lacks_prompt: bool = False  # and so no row can be made

    @cached_property  # it is asked for in every row
    def kept(self) -> dict[str, int]:
        """Columns that go with the row: all but those that pixelmill wrote into failed.csv."""
        return {name: i for i, name in enumerate(self.names) if plain(name) not in IGNORED}

    @cached_property
    def first(self) -> dict[str, int]:
        """Where each name stands first."""
        return {name: index for index, name in reversed(list(enumerate(self.names)))}

    def name(self, index: int) -> str:
        """How to speak of a column."""
        if index < 0:
            return ""
        return (index < len(self.names) and self.names[index]) or f"#{index + 1}"


def understand(record: Record, needs_prompt: bool = True) -> Header:
    """What the columns mean; `needs_prompt` is False where every row gets its prompt in another way."""
    header = Header(record.line, [cell.strip() for cell in record.cells])
    meanings = _meanings({plain(name) for name in header.names})
    for index, name in enumerate(header.names):
        if problem := _place(header, index, name, meanings.get(plain(name))):
            header.problems.append(problem)
    if header.names and needs_prompt and header.at.keys().isdisjoint(("prompt", "image")):
        header.problems.append(_no_prompt(header.names))
        header.lacks_prompt = True
    header.problems += [Problem(header.name(f.cell), f.found, f.expected, f.hint) for f in record.flaws]
    return header


def _meanings(spelled: set[str]) -> dict[str, str]:
    """A1111 and ComfyUI call the pair `sampler_name` and `scheduler`; then the latter is the schedule type."""
    if spelled.intersection(ALIASES["scheduler"]):
        return NAMES | {"scheduler": "schedule_type"}
    return NAMES


def _place(header: Header, index: int, name: str, column: str | None) -> Problem | None:
    """Put one column where it belongs, or say why not."""
    if not name:
        return Problem(header.name(index), "an empty name", "a name for every column", "name it or remove the column")
    first = header.first[name]
    if first < index:
        return Problem(name, f"the name twice, in columns {first + 1} and {index + 1}", "each name once")
    if column in header.at:
        other = header.names[header.at[column]]
        return Problem(name, f"a second column for {column}, beside {other!r}", "one of the two")
    if column:
        header.at[column] = index
    elif plain(name) not in IGNORED:
        header.metadata[name] = index
        near = did_you_mean(plain(name), NAMES) if len(header.warnings) < MOST_HINTS else ""
        header.warnings.append(f"column {name!r} is not known and kept as metadata" + (f"; {near}" if near else ""))
    return None


def _no_prompt(names: list[str]) -> Problem:
    for mark, called in (";", "semicolons"), ("\t", "tabs"):
        if len(names) == 1 and mark in names[0]:
            hint = f"the cells seem to be separated by {called}; save the file with commas"
            return Problem("prompt", shown(names[0]), "a column of this name in line 1", hint)
    found = "the columns " + ", ".join(shown(name) for name in names[:10]) + (", ..." if names[10:] else "")
    return Problem("prompt", found, "a column of this name in line 1", "line 1 must name the columns")
