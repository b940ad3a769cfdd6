"""What a file's header says its cells are, and what a row of cells under it asks for."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from producer import cells as cells_
from producer import columns
from producer.edits import Edits
from producer.faults import Fault, Problem, shown
from producer.header import Header
from producer.inputs import Inputs
from producer.records import Flaw, Record
from producer.template import Reading, Template
from producer.unique import Taken
from shared import embeddings, jobs
from shared.catalog import Catalog
from shared.settings import Settings


class Draft(NamedTuple):
    """A good row, before its seed is derived and its job is made."""

    row: int
    line: int
    cells: list[str]
    template: Template
    prompt: str
    negative_prompt: str
    seed: int | None  # None: derived
    filename: str | None
    custom_id: str | None
    edit: Mapping[str, Any] | None = None  # own values of a row with an input: the job's fields

    @property
    def inputs(self) -> tuple[str, ...]:
        """The picture and its mask, by their names in the job."""
        if self.edit is None:
            return ()
        names = (self.edit["image"], self.edit.get("mask_image", jobs.ALPHA))
        return names[:1] if names[1] == jobs.ALPHA else names


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be made, and why."""

    row: int
    line: int
    cells: dict[str, str]  # as far as they can be told
    raw: str | None  # the text, where it could not be cut into the header's cells
    faults: tuple[Fault, ...]

    def as_line(self) -> dict[str, object]:
        """A line of rejected.jsonl."""
        faults = [str(fault) for fault in self.faults]
        return {"row": self.row, "line": self.line, "cells": self.cells, "raw": self.raw, "faults": faults}


class Table:
    """What every row of a file is read against, and the names that its rows have taken so far."""

    def __init__(
        self,
        file: str,
        header: Header,
        fills: dict[str, str],
        inputs: Inputs,
        catalog: Catalog,
        settings: Settings,
    ) -> None:
        self.file = file
        self.header = header
        self.settings = settings
        self.taken = Taken()
        self._names = {column: f"--set {column}" for column in fills}
        self._names["embeddings"] = "prompts"
        self._names |= {column: header.names[index] for column, index in header.at.items()}
        self._edits = Edits(header, fills, self._names, inputs, catalog, settings)
        self._fill = tuple(fills.get(column, "") for column in ("prompt", "negative_prompt", "seed"))
        blank = len(header.names)  # an absent column is the empty cell that `row` adds at the end
        self._named = embeddings.finder(catalog.of("embeddings").keys())
        self._own = itemgetter(*(header.at.get(column, blank) for column in columns.OWN))

    def row(self, number: int, record: Record) -> Draft | Rejected:
        """`number`: 1 is the first data row."""
        if record.flaws or len(record.cells) != len(self.header.names):
            return self._damaged(number, record)
        draft, problems = self._read(number, record)
        if draft.filename or draft.custom_id:
            problems += self._take(draft, not problems)
        return self._rejected(number, record, [p.at(self.file, record.line) for p in problems]) if problems else draft

    def original(self, cells: list[str]) -> dict[str, str]:
        """The row as the user wrote it."""
        return {name: cells[index] for name, index in self.header.kept.items() if index < len(cells)}

    def _read(self, number: int, record: Record) -> tuple[Draft, list[Problem]]:
        cells = [*record.cells, ""]
        prompt, negative, seed, filename, custom_id = self._own(cells)
        default_prompt, default_negative, default_seed = self._fill
        prompt = prompt if prompt.strip() else default_prompt or prompt
        prompt, tags = columns.without_tags(prompt) if columns.TAG in prompt else (prompt, "")
        negative = negative if negative.strip() else default_negative
        words = ";".join(self._named(f"{prompt}\n{negative}"))
        template, edit, stem, problems = self._edits.ask(cells, tags, words)
        images, made_format = template.images, template.job.output_format
        reading = Reading(self._names, problems)
        read, most = reading.read, self.settings.max_prompt_chars
        wants_prompt = template.prompted or (prompt.strip() and "prompt" in template.holes)
        own_name = read("filename", None, columns.filename, filename.strip(), made_format) if filename else None
        draft = Draft(
            number,
            record.line,
            record.cells,
            template,
            read("prompt", "", cells_.text, prompt, most) if wants_prompt else "",
            read("negative_prompt", "", cells_.text, negative, most) if negative else "",
            read("seed", None, columns.seed, seed.strip() or default_seed, images),
            own_name if own_name or edit is None else columns.name_after(stem, number),
            read("custom_id", None, columns.custom_id, custom_id.strip()) if custom_id else None,
            edit,
        )
        return draft, reading.problems

    def _take(self, draft: Draft, sound: bool) -> list[Problem]:
        """Names that an earlier row has. A row that is left out takes none, so that it rejects no other."""
        job = draft.template.job
        names = {f"id {draft.custom_id}": "custom_id"} if draft.custom_id else {}
        if draft.filename:  # storage and file systems may not tell A from a
            images = jobs.own_names(draft.filename.lower(), job.output_format, job.num_images_per_prompt)
            if draft.edit is not None:  # its mask is a PNG, whatever the image is
                names |= {f"mask {image.rpartition('.')[0]}": "filename" for image in images}
            names |= {f"file {image}": "filename" for image in images}
        first = {column: (name, line) for name, column in names.items() if (line := self.taken.line(name))}
        if sound and not first:
            self.taken.take(names, draft.line)
        return [self._second(column, name, line) for column, (name, line) in first.items()]

    def _second(self, column: str, name: str, line: int) -> Problem:
        found = shown(name.partition(" ")[2])
        name = self._names.get(column, column)
        return Problem(name, found, "a name that no other row has", f"line {line} has it already")

    def _damaged(self, number: int, record: Record) -> Rejected:
        """A record with flaws of writing. Where it could be cut into cells, the sound ones are checked as well."""
        line, names = record.line, self.header.names
        faults = [self._flawed(flaw).at(self.file, flaw.line) for flaw in record.flaws]
        if record.raw is None and len(record.cells) != len(names):
            faults.append(self._miscounted(record.cells).at(self.file, line))
        elif record.raw is None:
            flawed = {flaw.cell for flaw in record.flaws}
            sound = ["" if index in flawed else cell for index, cell in enumerate(record.cells)]
            _, problems = self._read(number, Record(line, sound))
            known = {fault.column for fault in faults}
            faults += [problem.at(self.file, line) for problem in problems if problem.column not in known]
        return self._rejected(number, record, faults)

    def _flawed(self, flaw: Flaw) -> Problem:
        return Problem(self.header.name(flaw.cell), flaw.found, flaw.expected, flaw.hint)

    def _miscounted(self, cells: list[str]) -> Problem:
        wanted = len(self.header.names)
        expected = f"{wanted} cell{'s' * (wanted != 1)}, as in line {self.header.line}"
        if len(cells) < wanted:
            return Problem(self.header.name(len(cells)), f"the end of the row after cell {len(cells)}", expected)
        found = f"{shown(cells[wanted])}, cell {wanted + 1} of {len(cells)}"
        hint = "put a cell that holds a comma in double quotes, with no space before them"
        return Problem(self.header.name(wanted), found, expected, hint)

    def _rejected(self, number: int, record: Record, faults: list[Fault]) -> Rejected:
        order = {name: index for index, name in enumerate(self.header.names)}
        faults.sort(key=lambda fault: order.get(fault.column, -1))
        cells, raw = record.cells, record.raw
        if raw is not None:
            cells = _cut(raw)
        elif len(cells) > len(self.header.names):  # the cells beyond the last column are the user's text as well
            raw = _as_csv(cells)
            last = len(self.header.names) - 1
            cells = [*cells[:last], ",".join(cells[last:])]  # most often, a comma in a cell without quotes
        return Rejected(number, record.line, self.original(cells), raw, tuple(faults))


def _cut(raw: str) -> list[str]:
    """The cells of a record that could not be cut, as far as they can be told."""
    try:
        return next(csv.reader([raw]), [])
    except csv.Error:
        return []


def _as_csv(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
