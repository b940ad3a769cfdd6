"""What kind of work a row asks for, by the columns that it fills, and which columns each kind has a use for. Pure."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from producer.faults import BadCell
from producer.sizes import SIDES
from shared import jobs

EXPANDS = tuple(f"expand_{side}" for side in SIDES)
SELECTORS = ("points", "box", "mask_text")
_ANY = {"kind", "filename", "custom_id", "output_format"}
_NOT_OF_SEGMENT = {"width", "height", "quality", "num_images_per_prompt"}  # its pictures are what they are


def _uses(kind: str) -> frozenset[str]:
    fields = set(jobs.KINDS[kind].model_fields) | _ANY
    if kind == "segment":
        return frozenset(fields - _NOT_OF_SEGMENT)
    return frozenset(fields | {"schedule_type"} | ({"anchor"} if kind == "outpaint" else set()))


USES = {kind: _uses(kind) for kind in jobs.KINDS}
# What means the same in every row that draws.
OF_ANY_KIND = frozenset.intersection(*(USES[kind] for kind in jobs.KINDS if kind != "segment")) - {
    *{"kind", "width", "height", "output_format"}
}


def decide(own: AbstractSet[str], filled: AbstractSet[str] = frozenset()) -> str:
    """The kind of a row that fills the columns `own`, and `--set` those of `filled` beside them. What `--set` adds is
    left aside where a row would fit two kinds with it. Raises BadCell, for the column `kind`."""
    try:
        return _decide(own | filled)
    except BadCell:
        if filled:
            return _decide(own)
        raise


def _decide(given: AbstractSet[str]) -> str:
    if "image" not in given:
        return "txt2img"
    masks, extends, edits, selects = (_of(given, names) for names in _signs(given))
    groups = [group for group in (masks, extends, edits or selects) if group]
    if len(groups) > 1:
        found = " and ".join(", ".join(group) for group in groups)
        raise BadCell("columns of one kind", _either(masks, extends, edits, selects), found)
    if masks or extends:
        return "inpaint" if masks else "outpaint"
    if selects and not edits and "prompt" in given:
        hint = "fill action for mask_edit, or empty prompt for segment"
        raise BadCell("columns of one kind", hint, f"{', '.join(selects)} and prompt without action")
    if edits or selects:
        return "mask_edit" if edits else "segment"
    if "prompt" not in given:
        hint = "fill prompt (img2img), mask_image (inpaint), expand_* (outpaint), or points, box, mask_text or auto"
        raise BadCell("a column that says what becomes of the image", hint, "image alone")
    return "img2img"


def _signs(given: AbstractSet[str]) -> tuple[tuple[str, ...], ...]:
    """The columns that speak for a kind: inpaint, outpaint, mask_edit, and segment or mask_edit."""
    target = ("anchor",) if "anchor" in given and given & {"width", "height"} else ()
    return ("mask_image",), (*EXPANDS, *target), ("action",), (*SELECTORS, "auto")


def _of(given: AbstractSet[str], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in given]


def _either(masks: list[str], extends: list[str], edits: list[str], selects: list[str]) -> str:
    kinds = {"inpaint": masks, "outpaint": extends, "mask_edit" if edits else "segment": [*edits, *selects]}
    return "for " + ", for ".join(
        f"{kind} empty {', '.join(name for other, names in kinds.items() if other != kind for name in names)}"
        for kind, own in kinds.items()
        if own
    )


def missing(kind: str, given: AbstractSet[str]) -> Iterator[tuple[str, str]]:
    """Columns that a row of this kind must fill and does not, and what is expected there. Prompts are looked at where
    they are read."""
    if kind != "txt2img" and "image" not in given:
        yield "image", "the path of a picture, or s3://bucket/key"
    if kind == "inpaint" and "mask_image" not in given:
        yield "mask_image", "the path of a mask, s3://bucket/key, or alpha"
    if kind == "outpaint" and given.isdisjoint((*EXPANDS, "width", "height")):
        yield "expand_left", f"one of {', '.join(EXPANDS)}, or a target width or height"
    if kind == "segment" and given.isdisjoint((*SELECTORS, "auto")):
        yield "points", "one of points, box, mask_text and auto"
    if kind == "mask_edit":
        if given.isdisjoint(SELECTORS):
            yield "points", "one of points, box and mask_text"
        if "action" not in given:
            yield "action", "replace_background, replace_object or remove_object"


def clash(given: AbstractSet[str]) -> tuple[str, str] | None:
    """Two columns of one row that say different things: one, and the other."""
    selectors = _of(given, ("mask_text", "box", "points"))
    pairs = (
        ("auto", selectors),
        ("mask_text", _of(given, ("points", "box"))),
        ("anchor", _of(given, EXPANDS)),
    )
    for name, others in pairs:
        if name in given and others:
            return name, others[0]
    return None
