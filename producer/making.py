"""A job from the cells that its kind has a use for; empty ones are the model's defaults, or the job's own."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from producer import columns, extras, formats, sizes
from producer.cells import decimal, whole
from producer.edit_columns import MOST_PIXELS, PARSERS, expand, one_mask
from producer.extras import STEPS, too_weak
from producer.faults import BadCell
from producer.kinds import EXPANDS
from producer.sizes import Margins, Size
from producer.template import EDITED, HOLE, Cells, Template, template
from shared import families, jobs, post
from shared.catalog import Catalog, Defaults, Limits, Model
from shared.families import FAMILIES
from shared.headers import Facts
from shared.schedulers import SCHEDULERS, sampler_of
from shared.settings import Settings

ANY_SIZE = Limits(min_size=8, max_size=1 << 16, multiple_of=1)  # while the row's model is not known
NO_STEPS: tuple[str, ...] = ()
LEAST_SIDE = 8  # pixels
MASKED = ("inpaint", "outpaint", "mask_edit")
FREE_OF_PROMPT = ("outpaint", "segment")  # they may go without
# Columns whose defaults stand in the catalog, and the model that brings them.
OF_MODELS = {
    "points_per_side": "mask_model",
    "pred_iou_thresh": "mask_model",
    "stability_score_thresh": "mask_model",
    "text_threshold": "mask_text_model",
}
_GEOMETRY = {*EXPANDS, "anchor"}


@dataclass(frozen=True)
class Ask:
    """What rows of one template ask for."""

    kind: str
    cells: Mapping[str, str]  # settings that the kind has a use for
    given: AbstractSet[str] = frozenset()  # which of the row's own columns are filled
    facts: Facts | None = None  # of the input, if it can be used


def make(ask: Ask, reading: Cells, catalog: Catalog, settings: Settings) -> Template:
    """The template of rows that ask for this; what is wrong with the cells is added to the reading."""
    maker = _Maker(ask, reading, catalog, settings)
    job = jobs.KINDS[ask.kind](**maker.values())
    prompted = ask.kind not in FREE_OF_PROMPT and getattr(job, "action", "") != "remove_object"
    return template(job, reading.problems, catalog, prompted)  # type: ignore[arg-type]


class _Maker:
    def __init__(self, ask: Ask, reading: Cells, catalog: Catalog, settings: Settings) -> None:
        self.ask = ask
        self.reading = reading
        self.catalog = catalog
        self.settings = settings
        self.fields = jobs.KINDS[ask.kind].model_fields

    def values(self) -> dict[str, Any]:
        """All fields of the job that are not its own defaults."""
        values: dict[str, Any] = {name: HOLE for name in ("image", "mask_image") if name in self.fields}
        if "mask_model" in self.fields:
            values |= self._selection()
        if self.ask.kind == "segment":
            return values | self._plain() | self._upright()
        plain = self._plain()
        values |= self._diffusion(plain.get("action", "")) | plain
        if self.ask.kind == "txt2img":
            limits = self.catalog.models[values["model"]].limits
            values |= extras.hires(self.reading, values, limits) | extras.refined(self.reading, values, self.catalog)
        self._check_steps(values)
        self._check_strength(values)
        return values | self._format(values)

    # --- Segment Anything ---

    def _selection(self) -> dict[str, Any]:
        mask_model = self._model("mask_model")
        text_model = self._model("mask_text_model") if "mask_text" in self.ask.given else None
        defaults = {"mask_model": mask_model, "mask_text_model": text_model}
        return {
            "mask_model": mask_model.name if mask_model else "",
            "mask_text_model": text_model.name if text_model else "",
            **{
                column: getattr(model.defaults, column)
                for column, role in OF_MODELS.items()
                if column in self.fields and (model := defaults[role])
            },
        }

    def _model(self, column: str) -> Model | None:
        fitting = self.catalog.of(column)
        default = fitting.get(self.catalog.defaults.get(column, ""))
        if default is None and column not in self.reading.cells:
            self.reading.absent(
                column,
                f"a model of the family {' or '.join(families.of_column(column))}",
                "the catalog has no such default: see models.toml",
            )
        return self.reading.get(column, default, columns.model, self.catalog, column)

    def _upright(self) -> dict[str, Any]:
        self.reading.get("output_format", "png", formats.png_only)
        facts = self.ask.facts
        if facts and min(facts.width, facts.height) < LEAST_SIDE:
            found = f"{facts.width} x {facts.height} pixels"
            self.reading.refuse("image", "", BadCell(f"at least {LEAST_SIDE} pixels on each side", found=found))
            facts = None
        size = Size(facts.width, facts.height) if facts else Size(LEAST_SIDE, LEAST_SIDE)
        return size._asdict()

    # --- Stable Diffusion ---

    def _diffusion(self, action: str) -> dict[str, Any]:
        get, problems = self.reading.get, len(self.reading.problems)
        model = get("model", self.catalog.models[self.catalog.defaults["model"]], columns.model, self.catalog)
        defaults, limits = model.defaults, ANY_SIZE if len(self.reading.problems) > problems else model.limits
        self._check_family(model)
        sampler = get("scheduler", defaults.scheduler, columns.scheduler, bad="euler")  # goes with any schedule type
        if "schedule_type" in self.reading.cells and "scheduler" not in self.reading.cells:
            sampler = sampler_of(sampler)  # the row's schedule type takes the place of the default's
        images = self.settings.max_images_per_row
        return {
            **({"strength": defaults.remove_strength} if action == "remove_object" else {}),
            "model": model.name,
            "prompt": HOLE,
            "negative_prompt": HOLE,
            STEPS: get(STEPS, defaults.num_inference_steps, whole, 1, jobs.MOST_STEPS),
            "guidance_scale": get("guidance_scale", defaults.guidance_scale, decimal, 0, jobs.MOST_GUIDANCE),
            "scheduler": get("schedule_type", sampler, columns.schedule_type, sampler),
            "seed": 0,
            "num_images_per_prompt": get("num_images_per_prompt", 1, whole, 1, images),
            "post": get("post", NO_STEPS, self._post),
            **extras.beside(self.reading, self.catalog, model, self.settings),
            **self._size(model.name, defaults, limits),
        }

    def _post(self, cell: str) -> tuple[str, ...]:
        steps = columns.post(cell)
        if self.ask.kind in MASKED and any(post.split(step)[0] == "upscale" for step in steps):
            raise BadCell("no upscale in an edit, whose picture keeps its size")
        return steps

    def _plain(self) -> dict[str, Any]:
        """Cells that mean the same whatever else the row says."""
        plain = [name for name in PARSERS if name in self.fields and name not in EDITED and name not in _GEOMETRY]
        edits = "action" in self.fields
        parsers = {**PARSERS, "multimask": one_mask} if edits else PARSERS
        unread = object()
        found: dict[str, Any] = {name: self.reading.get(name, unread, parsers[name]) for name in plain}
        given = {name: value for name, value in found.items() if value is not unread}
        if not edits:
            return given
        action = given.get("action", "replace_background")
        return {"action": action, **jobs.ACTION_DEFAULTS[action], **given}

    def _check_family(self, model: Model) -> None:
        if FAMILIES[model.family].inpaints_only and self.ask.kind not in MASKED:
            expected = f"a model that draws without a mask, as {self.ask.kind} needs it"
            bad = BadCell(expected, f"{model.name!r} is of the family {model.family}", found=model.name)
            self.reading.refuse("model", "", bad)

    def _check_steps(self, values: dict[str, Any]) -> None:
        """The sampler of a distilled model jumps over steps of a schedule that it was trained on: it has no more."""
        most = SCHEDULERS[values["scheduler"]].most_steps
        for column in (STEPS, "hires_steps"):
            if most is not None and values.get(column, 0) > most:
                expected = f"at most {most} with the scheduler {values['scheduler']!r}"
                bad = BadCell(expected, found=f"{values[column]} steps")
                self.reading.refuse(column, self.reading.cells.get(column, ""), bad)

    def _check_strength(self, values: dict[str, Any]) -> None:
        """A picture that is changed in no step is not changed at all."""
        if "strength" not in self.fields:
            return
        steps, strength = values[STEPS], values.get("strength", self.fields["strength"].default)
        if int(steps * strength) < 1:
            self.reading.refuse("strength", self.reading.cells.get("strength", ""), too_weak(steps))

    def _format(self, values: Mapping[str, Any]) -> dict[str, Any]:
        get, facts = self.reading.get, self.ask.facts
        quality = get("quality", None, whole, 1, 100)
        if self.ask.kind == "txt2img":
            return {"output_format": get("output_format", "png", formats.named), "quality": quality or jobs.QUALITY}
        wanted = get("output_format", None, formats.wanted)
        if facts is None:
            return {}
        made = formats.edited(self.ask.kind in MASKED, wanted, quality, facts)
        if self.ask.kind in MASKED:
            margins = Margins(*(values.get(name, 0) for name in EXPANDS))
            canvas = margins.around(Size(facts.width, facts.height))
            try:
                formats.check_size("", made.output_format, canvas)
            except BadCell as bad:
                self.reading.refuse("output_format", self.reading.cells.get("output_format", ""), bad)
        return made._asdict()

    # --- sizes ---

    def _size(self, model: str, defaults: Defaults, limits: Limits) -> dict[str, Any]:
        if self.ask.kind == "txt2img":
            return self._sides(defaults.width, defaults.height, limits, model)
        facts, margins = self.ask.facts, Margins()
        picture = Size(facts.width, facts.height) if facts else Size(defaults.width, defaults.height)
        cells = self.reading.cells.keys()
        targeted = self.ask.kind == "outpaint" and ("anchor" in cells or cells.isdisjoint(EXPANDS))
        if self.ask.kind == "outpaint" and facts:
            margins = self._placed(picture) if targeted else self._extended(picture)
        canvas = margins.around(picture)
        none = None, None, limits, model
        wanted = dict.fromkeys(("width", "height")) if targeted else self._sides(*none)
        if "padding_mask_crop" in self.reading.cells:
            canvas = Size(defaults.width, defaults.height)
        size = sizes.working(canvas, defaults, limits, **wanted)
        return size._asdict() | {f"expand_{side}": value for side, value in margins._asdict().items() if value}

    def _sides(self, width: Any, height: Any, limits: Limits, model: str) -> dict[str, Any]:
        get = self.reading.get
        return {
            "width": get("width", width, columns.size, limits, model),
            "height": get("height", height, columns.size, limits, model),
        }

    def _extended(self, picture: Size) -> Margins:
        named = [name for name in EXPANDS if name in self.reading.cells]
        problems = len(self.reading.problems)
        amounts = {name.removeprefix("expand_"): self.reading.get(name, sizes.Amount(0), expand) for name in named}
        if len(self.reading.problems) > problems:
            return Margins()
        return self._checked(sizes.extended(picture, amounts), picture, named[0])

    def _placed(self, picture: Size) -> Margins:
        get, problems = self.reading.get, len(self.reading.problems)
        width = get("width", picture.width, whole, picture.width, MOST_PIXELS)
        height = get("height", picture.height, whole, picture.height, MOST_PIXELS)
        anchor = get("anchor", sizes.Anchor(), PARSERS["anchor"])
        named = [name for name in ("width", "height") if name in self.reading.cells]
        if not named or len(self.reading.problems) > problems:
            return Margins()
        return self._checked(sizes.placed(picture, Size(width, height), anchor), picture, named[0])

    def _checked(self, margins: Margins, picture: Size, column: str) -> Margins:
        canvas, most = margins.around(picture), self.settings.max_input_pixels
        if not any(margins):
            found = f"a canvas of the picture's own size, {picture.width} x {picture.height}"
            self.reading.refuse(column, "", BadCell("a larger one", found=found))
        elif canvas.width * canvas.height > most or max(canvas) > MOST_PIXELS:
            found = f"a canvas of {canvas.width} x {canvas.height} pixels"
            expected = f"at most {most:,} pixels, and {MOST_PIXELS:,} on a side"
            self.reading.refuse(column, "", BadCell(expected, found=found))
            return Margins()
        return margins
