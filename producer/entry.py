"""A good row on its way into a job part: its line of JSON, and what planning asks of it.

The line is the JSON of a `shared.jobs.Row`, put together from texts and not from objects, which is four times as fast:
a file of a million rows spends most of its time here. `tests/test_rows.py` reads every line back as a Row.
"""

import json
from typing import Any, NamedTuple

from producer.header import Header
from producer.table import Draft
from shared import jobs

_json = json.JSONEncoder(ensure_ascii=False).encode


class Entry(NamedTuple):
    row: int  # 1 = the first data row
    key: tuple[Any, ...]  # shared.jobs.batch_key
    images: int
    model: str
    text: str  # JSON of the shared.jobs.Row
    inputs: tuple[str, ...] = ()  # by their names in the job; the picture first, then its mask

    @property
    def group(self) -> str:
        """The input that this row is about: rows on one picture travel together."""
        return self.inputs[0] if self.inputs else ""


class Writer:
    """Makes entries of the rows under one header."""

    def __init__(self, header: Header, salt: str) -> None:
        self.salt = salt
        self._metadata = header.metadata
        self._cells = [(_json(name) + ":", index) for name, index in header.kept.items()]

    def entry(self, draft: Draft) -> Entry:
        template = draft.template
        job, job_id = template.resolve(draft.prompt, draft.negative_prompt, self._seed(draft), draft.edit)
        cells = ",".join([name + _json(draft.cells[index]) for name, index in self._cells])
        line = f'{{"row":{draft.row},"line":{draft.line},"cells":{{{cells}}},"job":{job},"job_id":"{job_id}"'
        text = line + self._own(draft) + "}"
        return Entry(draft.row, template.key, template.images, jobs.models_text(template.models), text, draft.inputs)

    def _seed(self, draft: Draft) -> int:
        if draft.seed is not None:
            return draft.seed
        last = jobs.SEED_LIMIT - draft.template.images  # the last image's seed must be one as well
        return min(jobs.derived_seed(self.salt, draft.row, draft.prompt), last)

    def _own(self, draft: Draft) -> str:
        """What few files have, as further members of the line."""
        if not (draft.filename or draft.custom_id or self._metadata):
            return ""
        metadata = {name: draft.cells[index] for name, index in self._metadata.items()}
        own = {"filename": draft.filename, "custom_id": draft.custom_id, "metadata": metadata}
        return "," + _json(own)[1:-1]
