"""Rows that edit a picture or select in one: what their cells ask for, checked against the picture itself."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from producer import cells as cells_
from producer import columns, edit_columns, kinds, making
from producer.faults import BadCell, Problem
from producer.fills import useful
from producer.header import Header
from producer.inputs import Input, Inputs
from producer.making import Ask
from producer.sizes import Size, alike
from producer.template import Cells, Reading, Template
from shared import jobs
from shared.catalog import Catalog
from shared.headers import Facts
from shared.jobs import Box, Point
from shared.settings import Settings

MOST_TEMPLATES = 10_000  # kept; a file with more different settings pays for reading them again
MOST_SIZED = 2_000  # of those for one size of input; photographs have few sizes, and all others pay
_TELLING = {*edit_columns.OWN, "kind"}  # a file without these columns has no row with an input
MOST_APART = 0.02  # of the proportions of a mask from those of its picture
OWN = (*edit_columns.OWN, "prompt", "negative_prompt", "seed")  # a row may fill them, and its kind have no use for them
OPAQUE = {"jpeg": ("L", "RGB", "CMYK"), "webp": ("RGB",), "tiff": ("L", "RGB")}  # modes that certainly have no alpha


class Asked(NamedTuple):
    """What a row asks for beside its texts. `edit`: None where the row has no input."""

    template: Template
    edit: dict[str, Any] | None
    stem: str  # of the input's name
    problems: Sequence[Problem]


class _Choice(NamedTuple):
    """What follows from which cells are filled, and from the settings among them."""

    kind: str
    settings: dict[str, str]  # that the kind has a use for
    fills: dict[str, str]  # --set for the row's own columns
    problems: tuple[Problem, ...]


class Edits:
    """Reads what rows ask for beside their texts."""

    def __init__(
        self,
        header: Header,
        fills: Mapping[str, str],
        names: Mapping[str, str],
        inputs: Inputs,
        catalog: Catalog,
        settings: Settings,
    ) -> None:
        self.fills = {column: cell for column, cell in fills.items() if cell}
        self.names = names
        self.inputs = inputs
        self.catalog = catalog
        self.settings = settings
        self._columns = [column for column in columns.SETTINGS if column in header.at]
        blank = len(header.names)
        self._settings = itemgetter(*(header.at[column] for column in self._columns), blank, blank)
        self._own = itemgetter(*(header.at.get(column, blank) for column in OWN))
        # Else no row has an input, and the settings alone say what it asks for.
        self._possible = not header.at.keys().isdisjoint(_TELLING) or not self.fills.keys().isdisjoint(_TELLING)
        self._choices: dict[tuple[Any, ...], _Choice] = {}
        self._plain: dict[tuple[str, ...], Asked] = {}
        self._templates: dict[tuple[Any, ...], Template] = {}
        self._sized: dict[tuple[Any, ...], Template] = {}

    def ask(self, cells: Sequence[str], tags: str = "", words: str = "") -> Asked:
        """`cells`: of one row, and an empty one behind them. `tags`: LoRAs that its prompt names; `words`: textual
        inversions that its texts name."""
        settings = (*self._settings(cells)[:-2], tags, words) if tags or words else self._settings(cells)
        if self._possible:
            return self._ask(settings, [cell.strip() for cell in self._own(cells)])
        asked = self._plain.get(settings)
        if asked is None:
            asked = self._ask(settings, [""] * len(OWN))
            _keep(self._plain, settings, asked)
        return asked

    def _ask(self, settings: tuple[str, ...], own: list[str]) -> Asked:
        key = settings, tuple(map(bool, own))
        choice = self._choices.get(key)
        if choice is None:
            choice = self._choice(settings, own)
            if not choice.problems:  # they show this row's own cells
                _keep(self._choices, key, choice)
        if choice.kind == "txt2img":
            template = self._template(choice, key)
            return Asked(template, None, "", template.problems)
        uses = kinds.USES[choice.kind]
        values = {
            column: cell or choice.fills.get(column, "")
            for column, cell in zip(edit_columns.OWN, own, strict=False)
            if column in uses
        }
        reading = Reading(self.names)
        edit, facts = self._edit(values, reading)
        template = self._template(choice, key, facts)
        return Asked(template, edit, _stem(values["image"]), [*template.problems, *reading.problems])

    # --- the kind ---

    def _choice(self, settings: Sequence[str], own: Sequence[str]) -> _Choice:
        """Decide the kind, and set apart what it has no use for."""
        given = dict(zip(OWN, own, strict=True))
        given |= {column: cell.strip() for column, cell in zip(self._columns, settings, strict=False)}
        tags, given["embeddings"] = settings[-2:]
        given["loras"] = ";".join(filter(None, (given.get("loras", ""), tags)))
        given = {column: cell for column, cell in given.items() if cell and not _is_no(column, cell)}
        reading = Reading(self.names)
        kind = self._kind(given, reading)
        if kind is None:
            self._check_alone(given, reading)
            shared = {column: cell for column, cell in given.items() if column in kinds.OF_ANY_KIND}
            return _Choice("txt2img", shared, {}, tuple(reading.problems))
        uses, fills = kinds.USES[kind], useful(self.fills, kind, given)
        for column, cell in given.items():
            if column not in uses and column not in columns.IN_TEXTS:
                why = f"because kind {kind!r} has no use for {column}"
                reading.useless(column, cell, why, _hint(kind, column, given))
        used = fills | {column: cell for column, cell in given.items() if column in uses}
        for column, expected in kinds.missing(kind, used.keys()):
            reading.absent(column, f"{expected} (kind {kind!r})")
        if pair := kinds.clash(used.keys() & uses):
            reading.useless(pair[0], used[pair[0]], f"or none of {pair[1]}", "give one of the two")
        own_fills = {column: cell for column, cell in fills.items() if column in edit_columns.OWN}
        shared = {column: cell for column, cell in used.items() if column in columns.SHARED and column != "kind"}
        return _Choice(kind, shared, own_fills, tuple(reading.problems))

    def _kind(self, given: Mapping[str, str], reading: Reading) -> str | None:
        """None: it cannot be told."""
        cell = given.get("kind") or self.fills.get("kind", "")
        try:
            if cell:
                return columns.kind(cell)
            return kinds.decide(given.keys(), {c for c, v in self.fills.items() if not _is_no(c, v)})
        except BadCell as bad:
            reading.refuse("kind", cell, bad)
            return None

    def _check_alone(self, given: Mapping[str, str], reading: Reading) -> None:
        """Of a row whose kind is not known, what can be said of each cell by itself."""
        for column in given.keys() & edit_columns.PARSERS.keys():
            reading.read(column, None, edit_columns.PARSERS[column], given[column])
        for column, look in (("image", self.inputs.picture), ("mask_image", self.inputs.mask_or_alpha)):
            if column in given:
                reading.read(column, None, look, given[column])

    # --- the row's own values ---

    def _edit(self, values: Mapping[str, str], reading: Reading) -> tuple[dict[str, Any], Facts | None]:
        """The values that stand in the job's holes, and what is known of the input if it can be used."""
        picture = self._input("image", values, reading, self.inputs.picture)
        facts = picture.facts if picture else None
        edit: dict[str, Any] = {"image": picture.name if picture else ""}
        if "mask_image" in values:
            mask = self._input("mask_image", values, reading, self.inputs.mask_or_alpha)
            edit["mask_image"] = mask.name if mask else jobs.ALPHA
            if facts and (mask or values["mask_image"].lower() == jobs.ALPHA):
                reading.read("mask_image", None, _fits, values["mask_image"], mask, facts)
        if "points" in values:
            edit |= self._selection(values, reading, facts)
        return edit, facts

    def _input(self, column: str, values: Mapping[str, str], reading: Reading, look: Any) -> Input | None:
        cell = values[column]
        found: Input | None = reading.read(column, None, look, cell) if cell else None
        return found

    def _selection(self, values: Mapping[str, str], reading: Reading, facts: Facts | None) -> dict[str, Any]:
        points = self._read("points", values, reading, [])
        labels = self._read("point_labels", values, reading, None)
        box = self._read("box", values, reading, None)
        phrase = values["mask_text"]
        if phrase:
            phrase = reading.read("mask_text", "", cells_.text, phrase, self.settings.max_prompt_chars)
        if facts:
            reading.read("points", None, _inside, values["points"], points, facts)
            reading.read("box", None, _box_inside, values["box"], box, facts)
        if labels is not None and (points or not values["points"]):
            reading.read("point_labels", None, _count, values["point_labels"], labels, points)
        return {"points": points, "point_labels": labels or [1] * len(points), "box": box, "mask_text": phrase}

    def _read(self, column: str, values: Mapping[str, str], reading: Reading, default: Any) -> Any:
        return (
            reading.read(column, default, edit_columns.PARSERS[column], values[column]) if values[column] else default
        )

    # --- what rows share ---

    def _template(self, choice: _Choice, key: tuple[Any, ...], facts: Facts | None = None) -> Template:
        """`key`: the settings, and which of the row's own columns are filled."""
        cache, most = (self._sized, MOST_SIZED) if facts else (self._templates, MOST_TEMPLATES)
        size = facts and (facts.format, facts.width, facts.height, facts.lossless)
        found = cache.get((*key, size))
        if found is None:
            given = {column for column, filled in zip(OWN, key[1], strict=True) if filled} | choice.fills.keys()
            reading = Cells(choice.settings, self.names, choice.problems)
            found = making.make(Ask(choice.kind, choice.settings, given, facts), reading, self.catalog, self.settings)
            if not choice.problems:
                _keep(cache, (*key, size), found, most)
        return found


def _keep(cache: dict[Any, Any], key: Any, value: Any, most: int = MOST_TEMPLATES) -> None:
    if len(cache) >= most:
        cache.clear()
    cache[key] = value


def _is_no(column: str, cell: str) -> bool:
    """`auto` that says no is as good as an empty cell."""
    return column == "auto" and cells_.plain(cell) in cells_.NO


def _hint(kind: str, column: str, given: Iterable[str]) -> str:
    """What to do with a cell that the row's kind has no use for."""
    if kind == "txt2img" and "image" not in given:
        return "a row with an image is an edit: fill image, or empty this cell"
    if kind == "segment" and column == "prompt":
        return "what to look for goes into mask_text; with action, the row is a mask_edit"
    return ""


def _stem(cell: str) -> str:
    """The input's name without folders and suffix."""
    name = cell.rstrip("/").replace("\\", "/").rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _fits(_cell: str, mask: Input | None, facts: Facts) -> None:
    if mask is None:
        if facts.mode in OPAQUE.get(facts.format, ()):
            raise BadCell("a mask file: the picture has no transparency", "save it as PNG with transparency")
        return
    size, wanted = Size(mask.facts.width, mask.facts.height), Size(facts.width, facts.height)
    if not alike(size, wanted, MOST_APART):
        found = f"a mask of {size.width} x {size.height} pixels"
        raise BadCell(f"one with the proportions of its picture, {wanted.width} x {wanted.height}", found=found)


def _inside(_cell: str, points: Sequence[Point], facts: Facts) -> None:
    for x, y in points:
        if not (0 <= x < facts.width and 0 <= y < facts.height):
            raise BadCell(f"points inside the picture of {facts.width} x {facts.height} pixels", found=f"{x:g},{y:g}")


def _box_inside(_cell: str, box: Box | None, facts: Facts) -> None:
    if box and not (box[0] >= 0 and box[1] >= 0 and box[2] <= facts.width and box[3] <= facts.height):
        raise BadCell(f"a box inside the picture of {facts.width} x {facts.height} pixels")


def _count(_cell: str, labels: Sequence[int], points: Sequence[Point]) -> None:
    if len(labels) != len(points):
        raise BadCell(f"as many labels as points, {len(points)}", found=f"{len(labels)} labels")
